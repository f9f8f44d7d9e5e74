from fractions import Fraction
from math import ceil
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from autointerp.score import metrics
from autointerp.score.bootstrap import Interval, Resampling, between, context_sums, resample_counts


def test_context_sums_follow_the_lengths() -> None:
    per_token = np.arange(12.0).reshape(6, 2)
    assert context_sums(per_token, [1, 3, 2]).tolist() == [[0, 1], [2 + 4 + 6, 3 + 5 + 7], [8 + 10, 9 + 11]]
    with pytest.raises(ValueError, match="6 tokens"):
        context_sums(per_token, [1, 3])
    with pytest.raises(ValueError, match="6 tokens"):
        context_sums(per_token, [0, 6])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(0, 2**63))
def test_every_stratum_keeps_its_size_in_every_resample(strata: list[int], seed: int) -> None:
    numbers = np.array(strata)
    counts = resample_counts(numbers, 20, seed)
    for stratum in set(strata):
        members = numbers == stratum
        np.testing.assert_allclose(counts[:, members].sum(axis=1), members.sum())
        if members.sum() > 1:  # n − 1 draws, each counted n/(n − 1) times
            draws = counts[:, members] * (members.sum() - 1) / members.sum()
            np.testing.assert_allclose(draws, np.round(draws), atol=1e-9)
    assert (counts[:, np.isin(numbers, Resampling(numbers, 10, 0).singletons)] == 1).all()


def test_seeded_and_independent_of_how_contexts_of_other_strata_are_placed() -> None:
    counts = resample_counts(np.array([0, 0, 0, 1, 1]), 50, seed=7)
    assert (counts == resample_counts(np.array([0, 0, 0, 1, 1]), 50, seed=7)).all()
    assert (counts != resample_counts(np.array([0, 0, 0, 1, 1]), 50, seed=8)).any()
    moved = resample_counts(np.array([0, 1, 0, 1, 0]), 50, seed=7)
    assert (moved[:, [0, 2, 4]] == counts[:, :3]).all()
    assert (moved[:, [1, 3]] == counts[:, 3:]).all()


def test_equals_a_naive_loop_over_the_same_draws() -> None:
    rng = np.random.default_rng(3)
    lengths, strata = [5, 9, 4, 7, 6, 8], np.array([1, 1, 1, 0, 0, 0])
    truth, simulated = rng.integers(0, 11, (2, sum(lengths))).astype(np.float64)
    weights = np.where(strata == 1, 2.0, 30.0)
    counts = resample_counts(strata, 200, seed=1)
    sums = context_sums(metrics.moments(truth, simulated), lengths) * weights[:, None]
    fast = metrics.correlation(counts @ sums)
    for resample, drawn in enumerate(counts):
        by_token = np.repeat(drawn * weights, lengths)
        mean_a, mean_s = np.average(truth, weights=by_token), np.average(simulated, weights=by_token)
        covariance = np.average((truth - mean_a) * (simulated - mean_s), weights=by_token)
        spread_a = np.average((truth - mean_a) ** 2, weights=by_token)
        spread_s = np.average((simulated - mean_s) ** 2, weights=by_token)
        assert fast[resample] == pytest.approx(covariance / np.sqrt(spread_a * spread_s), abs=1e-10)


def test_variance_of_a_stratified_mean_is_the_textbook_one() -> None:
    # One stratum x = (0, 3, 6, 9): s² = 15 with n − 1 = 3 below, so Var(mean) = 15/4 = 3.75.
    # Drawing 4 of 4 would give (4 − 1)/4 of that, 2.81.
    means = resample_counts(np.zeros(4, int), 40_000, seed=0) @ np.array([0.0, 3.0, 6.0, 9.0]) / 4
    assert means.var() == pytest.approx(3.75, rel=0.03)


class TestEnds:
    def test_cuts_the_shares_at_each_end(self) -> None:
        # 1000 values 0 … 999: 25 below the lower end, 50 above the upper one.
        assert between(np.arange(1000.0), 1000, 0.025, 0.05) == Interval(25.0, 949.0)
        # Both ends of a score that lies beyond nearly all of its resamples: the last one, and none further.
        assert between(np.arange(1000.0), 1000, 1.0, 0.0) == Interval(999.0, 999.0)
        assert between(np.arange(1000.0), 1000, 0.0, 1.0) == Interval(0.0, 0.0)

    def test_undefined_resamples_push_both_ends_outwards(self) -> None:
        # 10 undefined may all lie below, or all above: 15 of the 990 defined ones are cut at each end.
        interval = between(np.arange(990.0), 1000, 0.025, 0.025)
        assert (interval.lo, interval.hi, interval.undefined) == (15.0, 974.0, 10)
        assert interval.reason == "10 of 1000 resamples are undefined; the interval allows for it"

    def test_up_to_a_tail_of_undefined_resamples_there_is_an_interval(self) -> None:
        at_limit = between(np.arange(975.0), 1000, 0.025, 0.025)
        assert (at_limit.lo, at_limit.hi) == (0.0, 974.0)
        beyond = between(np.arange(974.0), 1000, 0.025, 0.025)
        assert (beyond.lo, beyond.hi, beyond.undefined) == (None, None, 26)
        assert beyond.reason is not None and "26 of 1000" in beyond.reason

    def test_all_undefined(self) -> None:
        assert between(np.zeros(0), 1000, 0.025, 0.025).lo is None


class TestBca:
    def test_is_that_of_scipy_in_one_stratum(self) -> None:
        """Of the correlation of 60 pairs; scipy draws n of n, which at 60 makes an interval 1 % shorter."""
        rng = np.random.default_rng(3)
        true = rng.gamma(1.0, 1.0, 60)
        seen = true + rng.normal(0, 1.0, 60)
        sums = metrics.moments(true, seen)
        ours = Resampling(np.zeros(60, int), 20_000, 1).interval(
            metrics.correlation, sums, float(metrics.correlation(sums.sum(axis=0)))
        )
        theirs = stats.bootstrap(
            (true, seen), lambda a, s, axis: stats.pearsonr(a, s, axis=axis).statistic, paired=True, n_resamples=20_000,
            method="BCa", rng=np.random.default_rng(2),
        ).confidence_interval  # fmt: skip
        assert ours.lo == pytest.approx(theirs.low, abs=0.012)
        assert ours.hi == pytest.approx(theirs.high, abs=0.012)

    def test_leaving_one_out_lets_the_others_of_the_stratum_stand_for_it(self) -> None:
        # Stratum 0 holds 1, 2, 6 (together 9); stratum 1 holds 5 alone. Without the 6: (1 + 2) · 3/2 + 5 = 9.5.
        sums = np.array([[1.0], [2.0], [6.0], [5.0]])
        found = Resampling(np.array([0, 0, 0, 1]), 10, 0).leave_one_out(sums)
        assert found[:, 0].tolist() == [17.0, 15.5, 9.5, 14.0]

    def test_a_mean_of_symmetric_values_has_about_the_percentiles_of_the_normal(self) -> None:
        values = np.linspace(-1, 1, 200)
        sums = np.stack([values, np.ones(200)], axis=1)
        found = Resampling(np.zeros(200, int), 20_000, 5).interval(
            lambda total: total[..., 0] / total[..., 1], sums, 0.0
        )
        assert found.lo is not None and found.hi is not None
        assert (found.lo, found.hi) == pytest.approx(
            (-1.96 * values.std(ddof=1) / 200**0.5, 1.96 * values.std(ddof=1) / 200**0.5), rel=0.03
        )

    def test_scores_that_differ_by_rounding_have_no_skewness(self) -> None:
        draws = Resampling(np.zeros(6, int), 10, 0)
        assert draws._acceleration(np.full(6, 1 / 3)) == 0
        assert draws._acceleration(np.array([1 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 3, np.nextafter(1 / 3, 1)])) == 0
        # By hand of 0, 0, 0, 0, 0, −6: mean −1, so u = 5/6 · (−1, …, −1, 5); Σu³ = 120 · (5/6)³, Σu² = 30 · (5/6)².
        assert draws._acceleration(np.array([0, 0, 0, 0, 0, -6.0])) == pytest.approx(120 / (6 * 30**1.5))

    @pytest.mark.parametrize("weight", [1.0, 1 / 3, 1 / 25, 0.7])
    def test_resamples_that_equal_the_score_are_ties_whatever_their_last_bits(self, weight: float) -> None:
        """15 of 20 verdicts right: more than a tenth of all resamples are 0.75 as well, and rounding puts them beside it."""
        right, strata = np.repeat([1.0, 0.0], [15, 5]), np.arange(20) % 4
        exact = sorted(Fraction(round(4 * total), 80) for total in resample_counts(strata, 1000, 4) @ right)
        score = Fraction(15, 20)
        below, ties = sum(one < score for one in exact), exact.count(score)
        assert ties > 100
        bias = NormalDist().inv_cdf((below + ties / 2) / 1000)
        low, high = (NormalDist().cdf(2 * bias + end) for end in (-1.959964, 1.959964))
        draws, sums = Resampling(strata, 1000, 4), np.stack([right, np.ones(20)], axis=1) * weight
        draws._acceleration = lambda without_one: 0.0  # type: ignore[method-assign]
        found = draws.interval(lambda total: total[..., 0] / total[..., 1], sums, 0.75)
        ends = exact[int(1000 * low)], exact[ceil(1000 * high) - 1]
        assert (found.lo, found.hi) == pytest.approx(tuple(map(float, ends)))


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """300 draws of 40 + 40 contexts from a known population."""
    rng = np.random.default_rng(11)
    sizes = {1: 3000, 0: 12_000}
    contexts = []
    for stratum, size in sizes.items():
        truth = rng.gamma(2.0, 2.0, (size, 20)) * (rng.random((size, 20)) < 0.15) * stratum
        simulated = np.clip(np.round(truth * rng.choice([0.0, 1.0], (size, 1), p=[0.3, 0.7])), 0, 10)
        simulated += (rng.random((size, 20)) < 0.01) * rng.integers(1, 8, (size, 20))
        flat = metrics.moments(truth.ravel(), simulated.ravel())
        contexts.append(context_sums(flat, [20] * size))
    population = np.concatenate([contexts[0] / sizes[1], contexts[1] / sizes[0]])
    target = float(metrics.correlation(population.sum(axis=0)))
    drawn = {1: 40, 0: 40}
    strata = np.repeat([1, 0], [drawn[1], drawn[0]])
    weights = np.where(strata == 1, 1 / drawn[1], 1 / drawn[0])[:, None]
    hits = 0
    for trial in range(300):
        picked = [contexts[1 - s][rng.choice(sizes[s], drawn[s], replace=False)] for s in (1, 0)]
        sums = np.concatenate(picked) * weights
        interval = Resampling(strata, 500, trial).interval(
            metrics.correlation, sums, float(metrics.correlation(sums.sum(axis=0)))
        )
        assert interval.lo is not None and interval.hi is not None
        hits += interval.lo <= target <= interval.hi
    assert 0.89 <= hits / 300 <= 0.985
