import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.catalog.records import Context, FeatureEvidence
from autointerp.score import Simulated, metrics
from autointerp.score.calibration import Line
from autointerp.score.simulation import (
    METRICS,
    ScoreRow,
    difference_rows,
    score_simulation,
    scored_contexts,
    shuffled_partner,
)
from tests.score.builders import context, evidence, failed, simulated


def by_metric(rows: list[ScoreRow]) -> dict[str, ScoreRow]:
    return {row.metric: row for row in rows}


# One context of band 1 (10 windows in the corpus) and two silent ones (90 windows). M = 10.
TINY = evidence([context(1, 1, [0, 10]), context(2, 0, [0, 0]), context(3, 0, [0, 0])], {0: 90, 1: 10})
TINY_SIMULATED = [simulated(1, [0, 8]), simulated(2, [0, 0]), simulated(3, [0, 4])]


class TestWorkedByHand:
    def test_r_balanced(self) -> None:
        # w = 1 for the band's context, 1/2 for each silent one. Tokens (a, s, w): (0,0,1) (10,8,1) (0,0,½)×3 (0,4,½).
        # Σw = 4, Σwa = 10, Σws = 10, Σwa² = 100, Σws² = 64 + 8 = 72, Σwas = 80.
        # cov = 20 − 2.5² = 13.75, var a = 25 − 6.25 = 18.75, var s = 18 − 6.25 = 11.75.
        row = by_metric(score_simulation(TINY, TINY_SIMULATED))["r_balanced"]
        assert row.value == pytest.approx(13.75 / (18.75 * 11.75) ** 0.5)
        assert (row.status, row.n_ok, row.n_failed) == ("ok", 3, 0)
        assert row.reason is not None and "band 1" in row.reason  # one context: its variation is not in the interval

    def test_r_corpus_and_its_effective_sample_size(self) -> None:
        # w = 10/1 and 90/2 = 45. Σw = 20 + 180 = 200, Σwa = 100, Σws = 80 + 180 = 260, Σwa² = 1000,
        # Σws² = 640 + 720 = 1360, Σwas = 800. cov = 4 − 0.5·1.3 = 3.35, var a = 5 − 0.25, var s = 6.8 − 1.69.
        rows = by_metric(score_simulation(TINY, TINY_SIMULATED))
        assert rows["r_corpus"].value == pytest.approx(3.35 / (4.75 * 5.11) ** 0.5)
        # (10 + 45 + 45)² / (10² + 45² + 45²) = 10000 / 4150
        assert rows["ess_corpus"].value == pytest.approx(10000 / 4150)

    def test_uncentred_measures_compare_tenths_of_the_maximum(self) -> None:
        # M = 20, so a = 10 is 5 on the scale. Weighted as r_balanced: Σw(â−s)² = (5−4)² + ½·2² = 3, Σwâ² = 25;
        # Σw|â−s| = 1 + ½·2 = 2, Σw|â| = 5.
        double = evidence(TINY.contexts, {0: 90, 1: 10}, maximum=20.0)
        rows = by_metric(score_simulation(double, [simulated(1, [0, 4]), simulated(2, [0, 0]), simulated(3, [0, 2])]))
        assert rows["r2_uncentred"].value == pytest.approx(1 - 3 / 25)
        assert rows["absdev_uncentred"].value == pytest.approx(1 - 2 / 5)

    def test_retrieval_at_the_corpus_base_rate(self) -> None:
        # Fires: one token, weight 10. Predicted: it, and one silent token of weight 45. F1 = 20 / (20 + 45).
        # Ranked: 8 (hit, weight 10) first: precision 1 at recall 1.
        rows = by_metric(score_simulation(TINY, TINY_SIMULATED))
        assert rows["f1_corpus"].value == pytest.approx(20 / 65)
        assert rows["auprc_corpus"].value == pytest.approx(1.0)

    def test_quantisation_ceiling(self) -> None:
        # a = (4, 9.9, 0, …) of M = 10 becomes (4, 9, 0, …). One band context and one silent one, w = 1 each, 4 tokens:
        # Σa = 13.9, Σa' = 13, Σa² = 16 + 98.01, Σa'² = 97, Σaa' = 16 + 89.1.
        pair = evidence([context(1, 1, [4, 9.9]), context(2, 0, [0, 0])], {0: 9, 1: 9})
        rows = by_metric(score_simulation(pair, [simulated(1, [1, 1]), simulated(2, [0, 0])]))
        cov, var_a, var_d = 105.1 / 4 - 13.9 * 13 / 16, 114.01 / 4 - (13.9 / 4) ** 2, 97 / 4 - (13 / 4) ** 2
        assert rows["quantisation_ceiling"].value == pytest.approx(cov / (var_a * var_d) ** 0.5, abs=1e-6)

    def test_bands_weigh_equally_whatever_their_number_of_contexts(self) -> None:
        # Two contexts of band 1 (w = 1/4 each), one of band 2 (w = 1/2), one silent (w = 1).
        contexts = [context(1, 1, [1]), context(2, 1, [2]), context(3, 2, [9]), context(4, 0, [0])]
        expected = [simulated(1, [3]), simulated(2, [0]), simulated(3, [5]), simulated(4, [1])]
        row = by_metric(score_simulation(evidence(contexts, {0: 5, 1: 5, 2: 5}), expected))["r_balanced"]
        reference = metrics.pearson(
            np.array([1.0, 2, 9, 0]), np.array([3.0, 0, 5, 1]), np.array([0.25, 0.25, 0.5, 1.0])
        )
        assert row.value == pytest.approx(reference.value)


class TestUndefined:
    def test_a_constant_simulation_is_null_with_a_reason(self) -> None:
        rows = by_metric(score_simulation(TINY, [simulated(window, [3, 3]) for window in (1, 2, 3)]))
        for name in ("r_balanced", "r_corpus"):
            row = rows[name]
            assert (row.value, row.lo, row.hi, row.status) == (None, None, None, "undefined")
            assert row.reason == "the simulated activations are constant"
        assert rows["r2_uncentred"].status == "ok"

    def test_an_anti_correlated_label_scores_negative(self) -> None:
        rows = by_metric(score_simulation(TINY, [simulated(1, [9, 0]), simulated(2, [9, 9]), simulated(3, [9, 9])]))
        assert rows["r_balanced"].value is not None and rows["r_balanced"].value < -0.9

    def test_without_silent_windows_in_the_corpus_only_the_corpus_is_defined(self) -> None:
        dense = evidence([context(1, 1, [1, 5]), context(2, 1, [2, 3])], {1: 30})
        rows = by_metric(score_simulation(dense, [simulated(1, [1, 5]), simulated(2, [2, 3])]))
        assert rows["r_balanced"].reason == "no silent context to weigh, of 0 windows"
        assert rows["r_corpus"].value == pytest.approx(1.0)

    def test_a_side_that_was_lost_leaves_nothing_to_weigh(self) -> None:
        rows = by_metric(score_simulation(TINY, [simulated(1, [0, 8]), failed(2), failed(3)]))
        for name in ("r_balanced", "r_corpus", "f1_corpus", "ess_corpus"):
            assert rows[name].status == "undefined"
            assert rows[name].reason == "no silent context to weigh, of 90 windows"
            assert (rows[name].n_ok, rows[name].n_failed) == (1, 2)
        rows = by_metric(score_simulation(TINY, [failed(1), simulated(2, [0, 1]), simulated(3, [0, 0])]))
        assert rows["r_corpus"].reason == "no activating context to weigh, of 10 windows"

    def test_everything_failed(self) -> None:
        rows = score_simulation(TINY, [failed(window, "timeout: no answer") for window in (1, 2, 3)])
        assert [row.metric for row in rows] == list(METRICS)
        assert {(row.value, row.status, row.n_ok, row.n_failed) for row in rows} == {(None, "failed", 0, 3)}
        assert rows[0].reason == "all 3 contexts failed, for instance: timeout: no answer"

    def test_no_contexts(self) -> None:
        rows = score_simulation(evidence([], {}), [])
        assert {row.status for row in rows} == {"undefined"}
        assert [row.metric for row in rows] == list(METRICS)

    def test_a_dead_feature(self) -> None:
        dead = evidence([context(1, 0, [0, 0]), context(2, 0, [0, 0])], {0: 50}, maximum=0.0)
        rows = by_metric(score_simulation(dead, [simulated(1, [0, 1]), simulated(2, [0, 0])]))
        assert rows["r_corpus"].reason == "the true activations are constant"
        assert all(row.value is None for row in rows.values() if row.metric != "ess_corpus")

    def test_too_many_undefined_resamples_leave_a_value_without_an_interval(self) -> None:
        # The simulation moves in one of five band contexts only: (4/5)⁴ = 41 % of the resamples lack it.
        contexts = [context(window, 1, [0, 5]) for window in range(5)] + [context(9, 0, [0, 0]), context(8, 0, [0, 0])]
        expected = [simulated(c.window_id, [0, 7] if c.window_id == 0 else [0, 0]) for c in contexts]
        row = by_metric(score_simulation(evidence(contexts, {0: 50, 1: 50}), expected))["r_balanced"]
        assert row.status == "ok" and row.value is not None
        assert row.lo is None and row.hi is None
        assert row.reason is not None and "resamples are undefined" in row.reason


class TestFailures:
    def test_failed_contexts_are_left_out_and_the_weights_use_those_that_remain(self) -> None:
        # Band 1: 2 of 3 remain, w = 30/2; silent: 1 of 2, w = 60/1.
        contexts = [context(i, 1, [0, 2 + i]) for i in range(3)] + [context(8, 0, [0, 0]), context(9, 0, [0, 0])]
        expected = [simulated(0, [1, 5]), failed(1), simulated(2, [0, 3]), failed(8), simulated(9, [2, 0])]
        row = by_metric(score_simulation(evidence(contexts, {0: 60, 1: 30}), expected))["r_corpus"]
        truth, predicted = np.array([0.0, 2, 0, 4, 0, 0]), np.array([1.0, 5, 0, 3, 2, 0])
        reference = metrics.pearson(truth, predicted, np.array([15.0, 15, 15, 15, 60, 60]))
        assert row.value == pytest.approx(reference.value)
        assert (row.n_ok, row.n_failed) == (3, 2)

    def test_a_context_without_simulation_counts_as_failed(self) -> None:
        row = score_simulation(TINY, TINY_SIMULATED[:2])[0]
        assert (row.n_ok, row.n_failed) == (2, 1)

    def test_a_band_that_vanished_is_named(self) -> None:
        contexts = [*TINY.contexts, context(4, 2, [0, 9])]
        rows = by_metric(score_simulation(evidence(contexts, {0: 90, 1: 10, 2: 7}), [*TINY_SIMULATED, failed(4)]))
        for name in ("r_balanced", "r_corpus", "auprc_corpus", "ess_corpus"):
            assert rows[name].status == "ok"
            assert "left out: band 2 (7 windows)" in (rows[name].reason or "")
        assert rows["r_corpus"].value == pytest.approx(3.35 / (4.75 * 5.11) ** 0.5)

    @pytest.mark.parametrize(
        "wrong",
        [
            [simulated(1, [0, 8, 0])],
            [simulated(1, [0, 11])],
            [simulated(1, [0, -1])],
            [simulated(1, [0, np.nan])],
            [Simulated(1, None, "ok")],
            [simulated(77, [0, 1])],
            [simulated(1, [0, 1]), simulated(1, [0, 1])],
        ],
    )
    def test_simulations_that_do_not_fit_are_refused(self, wrong: list[Simulated]) -> None:
        with pytest.raises(ValueError):
            score_simulation(TINY, wrong)

    def test_more_contexts_than_the_corpus_has_windows_is_refused(self) -> None:
        with pytest.raises(ValueError, match="more contexts than windows"):
            score_simulation(evidence(TINY.contexts, {0: 1, 1: 10}), TINY_SIMULATED)


def test_top_contexts_and_other_splits_are_never_scored() -> None:
    others = [
        context(10, 2, [0, 10], kind="top"),
        context(11, 1, [0, 10], split="explain"),
        context(12, 0, [0, 0], split="rerank"),
    ]
    assert [c.window_id for c in scored_contexts(evidence([*others, *TINY.contexts], {0: 90, 1: 10}))] == [1, 2, 3]


def planted(feature: int, skill: float, rng: np.random.Generator) -> tuple[FeatureEvidence, list[Simulated]]:
    """40 activating contexts in 4 bands and 40 silent ones, of 12 tokens; the label foresees a share `skill`."""
    contexts: list[Context] = []
    expected: list[Simulated] = []
    for window in range(80):
        band = window % 4 + 1 if window < 40 else 0
        truth = np.zeros(12)
        truth[rng.integers(12)] = band * 2.5 * rng.uniform(0.8, 1)
        guess = np.where(rng.random() < skill, np.round(truth), 0) + (rng.random(12) < 0.02) * 3
        contexts.append(context(window, band, truth))
        expected.append(simulated(window, np.clip(guess, 0, 10)))
    return evidence(contexts, {0: 10_000, 1: 400, 2: 300, 3: 200, 4: 100}, feature=feature), expected


class TestIntervals:
    def test_they_are_seeded_by_the_run_and_features_share_draws(self) -> None:
        rng = np.random.default_rng(0)
        found, expected = planted(5, 0.7, rng)
        first = score_simulation(found, expected, seed=1)
        assert first == score_simulation(found, list(reversed(expected)), seed=1)
        assert first != score_simulation(found, expected, seed=2)
        other_feature = FeatureEvidence(6, found.max_activation, 0.01, found.contexts, found.stratum_windows)
        assert first == score_simulation(other_feature, expected, seed=1)

    def test_they_bracket_the_value(self) -> None:
        found, expected = planted(5, 0.7, np.random.default_rng(1))
        for row in score_simulation(found, expected, calibration=Line(0.9, 0.1, 10)):
            assert row.status == "ok"
            if row.metric not in ("auprc_corpus", "auroc_balanced", "ess_corpus"):
                assert row.lo is not None and row.value is not None and row.hi is not None
                assert row.lo < row.value < row.hi or row.metric.startswith("quantisation")


def test_r_corpus_estimates_the_correlation_over_all_windows() -> None:
    """Draws from a population whose correlation is known: r_corpus is about right on average, r_balanced is not."""
    rng = np.random.default_rng(4)
    sizes = {0: 4000, 1: 300, 2: 100}
    population: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {band: [] for band in sizes}
    for band, size in sizes.items():
        for _ in range(size):
            truth = (rng.random(8) < 0.3) * band * 4.0
            guess = np.round(np.where(rng.random() < 0.8, truth, 0)) + (rng.random(8) < 0.02) * 5
            population[band].append((truth, np.clip(guess, 0, 10)))
    everything = [pair for pairs in population.values() for pair in pairs]
    target = np.corrcoef(np.concatenate([a for a, _ in everything]), np.concatenate([s for _, s in everything]))[0, 1]
    estimates: dict[str, list[float]] = {"r_corpus": [], "r_balanced": []}
    for _ in range(60):
        contexts, expected = [], []
        for band, number in ((0, 60), (1, 20), (2, 20)):
            for index in rng.choice(sizes[band], number, replace=False):
                window = band * 10_000 + int(index)
                contexts.append(context(window, band, population[band][index][0]))
                expected.append(simulated(window, population[band][index][1]))
        rows = by_metric(score_simulation(evidence(contexts, sizes), expected, resamples=100))
        for name, values in estimates.items():
            values.append(rows[name].value or 0.0)
    assert np.mean(estimates["r_corpus"]) == pytest.approx(target, abs=0.03)
    assert abs(np.mean(estimates["r_balanced"]) - target) > 0.1


class TestDifference:
    def test_it_is_the_difference_of_the_two_scores_with_a_narrower_interval(self) -> None:
        rng = np.random.default_rng(7)
        found, good = planted(3, 0.9, rng)
        # The baseline misses what the good label misses, and a few contexts more: the two are strongly dependent.
        worse = [simulated(s.window_id, s.expected * (s.window_id % 6 != 0)) for s in good]
        rows = by_metric(difference_rows(found, good, worse, name="lexical_gain"))
        ours, theirs = (by_metric(score_simulation(found, side)) for side in (good, worse))
        for mode in ("balanced", "corpus"):
            row, one, two = rows[f"lexical_gain_{mode}"], ours[f"r_{mode}"], theirs[f"r_{mode}"]
            assert row.value == pytest.approx(one.value - two.value)
            assert row.lo < row.value < row.hi
            assert row.hi - row.lo < np.hypot(one.hi - one.lo, two.hi - two.lo)

    def test_a_label_against_itself_is_zero(self) -> None:
        found, good = planted(3, 0.9, np.random.default_rng(7))
        row = difference_rows(found, good, good)[0]
        assert (row.metric, row.value) == ("lexical_gain_balanced", 0.0)
        assert (row.lo, row.hi) == pytest.approx((0.0, 0.0), abs=1e-12)

    def test_only_contexts_that_both_sides_cover_count(self) -> None:
        found, good = planted(3, 0.9, np.random.default_rng(7))
        one = [failed(0) if s.window_id == 0 else s for s in good]
        two = [failed(1) if s.window_id == 1 else s for s in good]
        row = difference_rows(found, one, two, name="gap")[1]
        assert (row.metric, row.n_ok, row.n_failed, row.value) == ("gap_corpus", 78, 2, 0.0)

    def test_a_silent_baseline_makes_it_undefined_and_says_whose_fault_it_is(self) -> None:
        found, good = planted(3, 0.9, np.random.default_rng(7))
        silent = [simulated(s.window_id, np.zeros(12)) for s in good]
        row = difference_rows(found, good, silent)[0]
        assert (row.value, row.status) == (None, "undefined")
        assert row.reason == "baseline: the simulated activations are constant"

    def test_everything_failed(self) -> None:
        rows = difference_rows(TINY, [failed(w) for w in (1, 2, 3)], TINY_SIMULATED)
        assert [row.status for row in rows] == ["failed", "failed"]


class TestShuffledPartner:
    @given(st.dictionaries(st.integers(0, 10**6), st.floats(0, 1), min_size=2, max_size=120), st.integers(0, 2**32))
    def test_a_derangement_whatever_the_order_of_the_list(self, density: dict[int, float], seed: int) -> None:
        features = list(density)
        partner = shuffled_partner(features, list(density.values()), seed)
        assert partner.keys() == density.keys() == set(partner.values())
        assert all(feature != other for feature, other in partner.items())
        random.Random(seed).shuffle(features)
        assert partner == shuffled_partner(features, [density[feature] for feature in features], seed)

    @given(st.integers(32, 300), st.integers(0, 2**32))
    def test_partners_are_neighbours_in_density(self, count: int, seed: int) -> None:
        density = [10.0**-index for index in range(count)]
        partner = shuffled_partner(range(count), density, seed, band_size=16)
        assert all(abs(feature - other) < 32 for feature, other in partner.items())

    def test_the_seed_matters_and_nothing_else_does(self) -> None:
        features, density = list(range(64)), [0.01] * 64
        assert shuffled_partner(features, density, 1) == shuffled_partner(features, density, 1)
        assert shuffled_partner(features, density, 1) != shuffled_partner(features, density, 2)

    @pytest.mark.parametrize(("features", "density"), [([], []), ([4], [0.1]), ([4, 4], [0.1, 0.2]), ([1, 2], [0.1])])
    def test_what_cannot_be_deranged_is_refused(self, features: list[int], density: list[float]) -> None:
        with pytest.raises(ValueError, match="two or more"):
            shuffled_partner(features, density, 0)
