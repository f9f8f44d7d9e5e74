import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autointerp.score import metrics
from autointerp.score.metrics import Metric

SIDE = arrays(np.float64, st.integers(3, 30), elements=st.integers(0, 10).map(float))


def value(metric: Metric) -> float:
    assert metric.value is not None, metric.reason
    return metric.value


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


class TestPearson:
    def test_pooled_r_is_not_the_mean_of_the_contexts_r(self) -> None:
        # Two contexts of two tokens: a = (0, 2), (8, 10); s = (2, 0), (10, 8). In each r = −1, so the mean is −1.
        # Pooled: mean 5 on both sides, deviations a: −5 −3 3 5, s: −3 −5 5 3. Σda·ds = 15+15+15+15 = 60,
        # Σda² = Σds² = 25+9+9+25 = 68. r = 60/68.
        a, s = array(0, 2, 8, 10), array(2, 0, 10, 8)
        assert value(metrics.pearson(a, s)) == pytest.approx(60 / 68)
        assert value(metrics.pearson(a[:2], s[:2])) == pytest.approx(-1)
        assert value(metrics.pearson(a[2:], s[2:])) == pytest.approx(-1)

    def test_anti_correlated_is_negative(self) -> None:
        assert value(metrics.pearson(array(0, 1, 2), array(2, 1, 0))) == -1.0

    def test_weights_worked_by_hand(self) -> None:
        # a = (0, 0, 1), s = (0, 1, 1), w = (2, 1, 1): mean a = 1/4, mean s = 2/4, mean as = 1/4.
        # cov = 1/4 − 1/8 = 1/8; var a = 1/4 − 1/16 = 3/16; var s = 1/2 − 1/4 = 1/4. r = (1/8)/√(3/64) = 1/√3.
        assert value(metrics.pearson(array(0, 0, 1), array(0, 1, 1), array(2, 1, 1))) == pytest.approx(3**-0.5)

    @pytest.mark.parametrize(
        ("a", "s", "reason"),
        [
            (array(0, 1, 2), array(4, 4, 4), "the simulated activations are constant"),
            (array(0, 0, 0), array(1, 4, 4), "the true activations are constant"),
            (array(0.1, 0.1, 0.1), array(7, 7, 7), "the true and the simulated activations are constant"),
            (array(), array(), "no token has a weight"),
        ],
    )
    def test_a_constant_side_is_undefined_with_its_reason(self, a: np.ndarray, s: np.ndarray, reason: str) -> None:
        assert metrics.pearson(a, s) == Metric(None, reason)

    def test_constant_where_the_weights_are_is_undefined(self) -> None:
        assert metrics.pearson(array(0, 1, 1), array(3, 4, 5), array(0, 1, 2)).value is None
        assert metrics.pearson(array(0, 1), array(1, 0), array(0, 0)) == Metric(None, "no token has a weight")

    def test_a_long_constant_that_no_binary_fraction_holds_is_undefined(self) -> None:
        rng = np.random.default_rng(0)
        a, w = rng.random(100_000), rng.random(100_000)
        assert metrics.pearson(a, np.full(100_000, 0.1), w).value is None
        float32_noise = np.where(rng.random(100_000) < 0.5, np.float32(5), np.nextafter(np.float32(5), np.float32(6)))
        assert metrics.pearson(a, float32_noise.astype(np.float64), w).value is None

    def test_one_firing_token_among_millions_is_defined(self) -> None:
        a = np.zeros(2_000_000)
        a[12345] = 0.01
        assert value(metrics.pearson(a, a * 900)) == pytest.approx(1.0)

    @given(SIDE, st.data())
    def test_agrees_with_scipy_and_numpy(self, a: np.ndarray, data: st.DataObject) -> None:
        scipy_stats = pytest.importorskip("scipy.stats")
        s = data.draw(arrays(np.float64, len(a), elements=st.floats(0, 10)))
        assume(a.std() > 0 and s.std() > 1e-3)
        w = data.draw(arrays(np.float64, len(a), elements=st.integers(1, 5).map(float)))
        assert value(metrics.pearson(a, s)) == pytest.approx(scipy_stats.pearsonr(a, s).statistic, abs=1e-7)
        repeated = np.corrcoef(np.repeat(a, w.astype(int)), np.repeat(s, w.astype(int)))[0, 1]
        assert value(metrics.pearson(a, s, w)) == pytest.approx(repeated, abs=1e-7)

    @given(SIDE, st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
    def test_scale_of_activations_and_of_weights_is_irrelevant(
        self, a: np.ndarray, scale: float, weight: float
    ) -> None:
        s, w = a[::-1].copy(), np.arange(1.0, len(a) + 1)
        one, other = metrics.pearson(a, s, w), metrics.pearson(a * scale, s, w * weight)
        assert one.value == pytest.approx(other.value, abs=1e-9) if one.value is not None else other.value is None


class TestUncentred:
    def test_worked_by_hand(self) -> None:
        # a = (0, 3, 4), s = (1, 3, 2): Σ(a−s)² = 1 + 0 + 4 = 5, Σa² = 25 → 0.8. Σ|a−s| = 3, Σ|a| = 7 → 4/7.
        a, s = array(0, 3, 4), array(1, 3, 2)
        assert value(metrics.r2_uncentred(a, s)) == pytest.approx(0.8)
        assert value(metrics.absdev_uncentred(a, s)) == pytest.approx(4 / 7)

    def test_weighted_by_hand(self) -> None:
        # w = (5, 1, 1): Σw(a−s)² = 5 + 0 + 4 = 9, Σwa² = 25 → 0.64. Σw|a−s| = 7, Σw|a| = 7 → 0.
        a, s, w = array(0, 3, 4), array(1, 3, 2), array(5, 1, 1)
        assert value(metrics.r2_uncentred(a, s, w)) == pytest.approx(0.64)
        assert value(metrics.absdev_uncentred(a, s, w)) == pytest.approx(0.0)

    def test_silence_scores_zero_and_noise_below(self) -> None:
        a = array(0, 3, 4)
        assert value(metrics.r2_uncentred(a, np.zeros(3))) == 0
        assert value(metrics.r2_uncentred(a, array(9, 0, 0))) < 0

    def test_a_constant_simulation_has_a_value_here(self) -> None:
        # Σ(a−s)² = 1 + 1 = 2, Σa² = 4 → 0.5: uncentred measures do not need variation.
        assert value(metrics.r2_uncentred(array(0, 2), array(1, 1))) == pytest.approx(0.5)

    def test_undefined_where_the_truth_is_silent(self) -> None:
        expected = Metric(None, "the true activations are all zero")
        assert metrics.r2_uncentred(np.zeros(4), np.ones(4)) == expected
        assert metrics.absdev_uncentred(np.zeros(4), np.ones(4)) == expected


class TestRetrieval:
    def test_average_precision_worked_by_hand(self) -> None:
        # Ranking by s: 9 hit, 7 miss, 5 hit, 1 miss. Precision at the hits: 1/1 and 2/3, each half of the recall.
        assert value(metrics.average_precision(array(2, 0, 1, 0), array(9, 7, 5, 1))) == pytest.approx((1 + 2 / 3) / 2)

    def test_ties_are_one_step(self) -> None:
        # All four equal: one step of recall 1 at precision 2/4, the base rate, whatever the order.
        assert value(metrics.average_precision(array(1, 0, 1, 0), np.ones(4))) == pytest.approx(0.5)
        assert value(metrics.average_precision(array(0, 0, 1, 1), np.ones(4))) == pytest.approx(0.5)

    def test_weights_set_the_base_rate(self) -> None:
        # One hit of weight 1 tied with silence of weight 99.
        assert value(metrics.average_precision(array(1, 0), array(3, 3), array(1, 99))) == pytest.approx(0.01)

    @given(SIDE, st.data())
    def test_agrees_with_sklearn(self, a: np.ndarray, data: st.DataObject) -> None:
        sklearn_metrics = pytest.importorskip("sklearn.metrics")
        assume((a > 0).any())
        s = data.draw(arrays(np.float64, len(a), elements=st.integers(0, 10).map(float)))
        w = data.draw(arrays(np.float64, len(a), elements=st.integers(1, 5).map(float)))
        reference = sklearn_metrics.average_precision_score(a > 0, s, sample_weight=w)
        assert value(metrics.average_precision(a, s, w)) == pytest.approx(reference)
        f1 = sklearn_metrics.f1_score(a > 0, s >= 0.5, sample_weight=w, zero_division=0)
        assert value(metrics.f1(a, s, w)) == pytest.approx(f1)

    def test_auroc_over_tokens_by_hand(self) -> None:
        # Firing 5 and 2 against silent 2 and 0: above, above; a tie, above: (1 + 1 + ½ + 1) / 4.
        assert value(metrics.token_auroc(array(1, 1, 0, 0), array(5, 2, 2, 0))) == pytest.approx(3.5 / 4)
        assert value(metrics.token_auroc(array(1, 0), array(3, 3))) == pytest.approx(0.5)
        assert metrics.token_auroc(np.zeros(2), array(1, 2)) == Metric(None, "no token fires")
        assert metrics.token_auroc(np.ones(2), array(1, 2)) == Metric(None, "every token fires")

    def test_f1_worked_by_hand(self) -> None:
        # Fires: tokens 0, 1. Predicted (≥ 0.5): 0, 2. TP 1, FP 1, FN 1 → 2/4. With weight 3 on the FP: 2/(2+3+1) = 1/3.
        a, s = array(1, 1, 0, 0), array(0.5, 0.4, 9, 0)
        assert value(metrics.f1(a, s)) == pytest.approx(0.5)
        assert value(metrics.f1(a, s, array(1, 1, 3, 1))) == pytest.approx(1 / 3)

    def test_undefined_where_nothing_fires(self) -> None:
        assert metrics.average_precision(np.zeros(3), np.ones(3)) == Metric(None, "no token fires")
        assert metrics.f1(np.zeros(3), np.ones(3)) == Metric(None, "no token fires")
        assert metrics.average_precision(array(1, 0), array(1, 0), array(0, 1)) == Metric(None, "no token fires")


def test_points_and_resamples_are_the_same_functions() -> None:
    """Each metric on weighted tokens against the function of sums that its interval is made with."""
    rng = np.random.default_rng(5)
    a, s, w = rng.integers(0, 11, (3, 400)).astype(np.float64)
    a *= rng.random(400) < 0.3
    pairs = [
        (metrics.pearson, metrics.moments(a, s), metrics.correlation),
        (metrics.r2_uncentred, metrics.residuals(a, s), metrics.r2_of),
        (metrics.absdev_uncentred, metrics.residuals(a, s), metrics.absdev_of),
        (metrics.f1, metrics.confusion(a > 0, s >= metrics.FIRES), metrics.f1_of),
    ]
    for metric, per_token, of_sums in pairs:
        by_context = (per_token * w[:, None]).reshape(20, 20, -1).sum(axis=1)
        both = np.stack([by_context.sum(axis=0), 3 * by_context.sum(axis=0)])
        np.testing.assert_allclose(of_sums(both), value(metric(a, s, w)))


def test_effective_sample_size() -> None:
    assert value(metrics.effective_sample_size(np.full(7, 3.0))) == pytest.approx(7)
    # (3 + 1 + 1 + 1)² / (9 + 1 + 1 + 1) = 36/12
    assert value(metrics.effective_sample_size(array(3, 1, 1, 1))) == pytest.approx(3)
    assert metrics.effective_sample_size(np.zeros(2)).value is None


@pytest.mark.parametrize(
    ("a", "s", "w"),
    [
        (np.ones(3), np.ones(2), None),
        (np.ones(3), np.ones(3), np.ones(2)),
        (np.ones((2, 2)), np.ones((2, 2)), None),
        (array(1, np.nan), array(1, 2), None),
        (array(1, 2), array(1, 2), array(1, -1)),
    ],
)
def test_vectors_that_do_not_fit_are_refused(a: np.ndarray, s: np.ndarray, w: np.ndarray | None) -> None:
    with pytest.raises(ValueError):
        metrics.pearson(a, s, w)


class TestAuroc:
    def test_worked_by_hand(self) -> None:
        # True at 3, 2 and 1; false at 2 and 0. Of six pairs: 3 wins both, 2 wins one and ties one, 1 wins one: 4.5 of 6.
        values, truth = array(3, 2, 1, 2, 0), np.array([True, True, True, False, False])
        assert metrics.auroc(values, truth, np.ones(5)) == pytest.approx(4.5 / 6)
        # The false 0 counts three times: pairs weigh 1 and 3; 3 wins 4, 2 wins 3.5, 1 wins 3: 10.5 of 12.
        assert metrics.auroc(values, truth, array(1, 1, 1, 1, 3)) == pytest.approx(10.5 / 12)
        assert metrics.auroc(-values, truth, np.ones(5)) == pytest.approx(1.5 / 6)

    def test_what_knows_nothing_scores_a_half_and_one_class_alone_is_undefined(self) -> None:
        truth = np.array([True, False, False])
        assert metrics.auroc(array(7, 7, 7), truth, array(1, 2, 5)) == 0.5
        assert np.isnan(metrics.auroc(array(1, 2, 3), truth, array(0, 1, 1)))
        assert np.isnan(metrics.auroc(array(1, 2), np.array([True, True]), np.ones(2)))
        assert np.isnan(metrics.auroc(array(), np.array([], dtype=bool), array()))
        with pytest.raises(ValueError, match="not finite"):
            metrics.auroc(array(1, np.nan, 2), truth, np.ones(3))

    @given(SIDE, st.data())
    def test_agrees_with_sklearn_whatever_the_weights_of_the_classes(self, a: np.ndarray, data: st.DataObject) -> None:
        sklearn_metrics = pytest.importorskip("sklearn.metrics")
        truth = data.draw(arrays(np.bool_, len(a)))
        weights = data.draw(arrays(np.float64, (4, len(a)), elements=st.integers(0, 5).map(float)))
        found = metrics.auroc(a, truth, weights)
        for row, value in zip(weights, found, strict=True):
            np.testing.assert_allclose(metrics.auroc(a, truth, row), value)  # one row goes another way
            if row[truth].sum() and row[~truth].sum():
                assert value == pytest.approx(sklearn_metrics.roc_auc_score(truth, a, sample_weight=row))
            else:
                assert np.isnan(value)
        np.testing.assert_allclose(metrics.auroc(a, truth, weights * np.where(truth, 3, 0.1)), found)

    def test_an_interval_by_the_bootstrap_is_that_of_the_resamples(self) -> None:
        from functools import partial

        from autointerp.score.bootstrap import Resampling, resample_counts

        rng = np.random.default_rng(0)
        strata = np.repeat([0, 1, 2], [10, 5, 5])
        truth, values = strata > 0, rng.normal(size=20) + (strata > 0)
        weights = np.where(truth, 1 / 10, 1 / 10)
        of_sums = partial(metrics.auroc, values, truth)
        value = float(of_sums(weights))
        found = Resampling(strata, 500, 1).interval(of_sums, np.diag(weights), value)
        counts = resample_counts(strata, 500, 1)
        one_by_one = [float(of_sums(row * weights)) for row in counts]
        assert np.isclose(one_by_one, found.lo).any() and np.isclose(one_by_one, found.hi).any()
        assert found.lo < value < found.hi
