"""Controls: what stands in for a label; what its answers would be worth on other evidence; p-values beside random directions."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.catalog.records import FeatureEvidence
from autointerp.score import Grade, Judged, ScoreRow, Simulated, metrics
from autointerp.score.agreement import rank_correlation
from autointerp.score.detection import Detection
from autointerp.score.evidence_controls import (
    ACROSS,
    BREADTH,
    NO,
    WITHIN,
    YES,
    chance,
    evidence_controls,
    of_simulation,
    of_verdicts,
)  # fmt: skip
from autointerp.score.null_values import p_values, q_values
from tests.score.builders import context, evidence, failed, simulated


def planted(
    silent: int = 40, per_band: int = 8, length: int = 30, seed: int = 0
) -> tuple[FeatureEvidence, list[Simulated]]:
    """A feature that fires at two tokens of each of its contexts, and a simulator that is right but for noise."""
    rng = np.random.default_rng(0)
    contexts, found = [], []
    for window, band in enumerate([0] * silent + [band for band in (1, 2, 3) for _ in range(per_band)]):
        values = np.zeros(length)
        if band:
            values[rng.choice(length, 2, replace=False)] = rng.uniform(2 * band, 3 * band, 2)
        contexts.append(context(window, band, values.tolist()))
        found.append(simulated(window, np.clip(values + rng.normal(0, 0.5, length) * (values > 0), 0, 10).tolist()))
    return evidence(contexts, {0: 5000, 1: 200, 2: 200, 3: 200}), found


def value_of(rows: Sequence[ScoreRow], metric: str) -> float:
    found = next(row.value for row in rows if row.metric == metric)
    assert found is not None
    return found


class TestOfSimulations:
    def test_a_golden_case(self) -> None:
        """Two contexts of two tokens, by hand. Truth: (0, 0), (0, 4); simulated: (0, 1), (0, 5). Balanced weights: 1 each."""
        found = evidence([context(1, 0, [0, 0]), context(2, 1, [0, 4])], {0: 10, 1: 10})
        rows = of_simulation(found, [simulated(1, [0, 1]), simulated(2, [0, 5])], seed=0)
        # Within, only sums count: Σa·Σs/T = 4·5/2 = 10, so mean a·s = 10/4; mean a = 1, mean s = 1.5; var a = 4 − 1,
        # var s = 6.5 − 2.25.
        expected = (2.5 - 1 * 1.5) / np.sqrt(3 * 4.25)
        assert value_of(rows[WITHIN], "r_balanced") == pytest.approx(expected)
        # Breadth: on at both tokens of the second context: mean 0.5, cross 4/4 = 1.
        assert value_of(rows[BREADTH], "r_balanced") == pytest.approx((1 - 1 * 0.5) / np.sqrt(3 * 0.25))
        # Across: of the two orders one is the true one and the other swaps: cross terms 20 and 4.
        orders = [(20 / 4 - 1.5) / np.sqrt(3 * 4.25), (4 / 4 - 1.5) / np.sqrt(3 * 4.25)]
        row = rows[ACROSS][0]
        assert (row.lo, row.hi) == pytest.approx((min(orders), max(orders)))

    def test_within_is_the_mean_over_all_permutations(self) -> None:
        truth, said = np.array([0.0, 3.0, 1.0, 0.0, 2.0, 0.0]), np.array([1.0, 4.0, 0.0, 0.0, 5.0, 2.0])
        found = evidence([context(1, 0, [0, 0, 0]), context(2, 1, truth[:3].tolist()), context(3, 2, truth[3:].tolist())],
                         {0: 30, 1: 9, 2: 5})  # fmt: skip
        answers = [simulated(1, [0, 2, 0]), simulated(2, said[:3].tolist()), simulated(3, said[3:].tolist())]
        weights = np.repeat([30.0, 9.0, 5.0], 3)
        every = []
        for first in permutations([0, 1, 2]):
            for second in permutations([3, 4, 5]):
                for third in permutations([0.0, 2.0, 0.0]):
                    mixed = np.concatenate([third, said[list(first)], said[list(second)]])
                    every.append(metrics.pearson(np.concatenate([np.zeros(3), truth]), mixed, weights).value)
        assert value_of(of_simulation(found, answers, 0)[WITHIN], "r_corpus") == pytest.approx(
            np.mean(np.array(every, float))
        )

    def test_across_agrees_with_plain_permutations(self) -> None:
        """The matrix of pairs against pooled vectors, with contexts of unequal length: what overlaps is compared."""
        rng = np.random.default_rng(3)
        lengths = [4, 7, 5, 7, 6, 3]
        bands = [0, 0, 0, 1, 1, 2]
        truth = [
            rng.uniform(0, 9, n) * (rng.random(n) < 0.5) * (band > 0) for n, band in zip(lengths, bands, strict=True)
        ]
        truth[3][0] = truth[5][0] = 4.0
        said = [rng.uniform(0, 10, n).astype(np.float32) for n in lengths]
        contexts = [
            context(at, band, values.tolist()) for at, (band, values) in enumerate(zip(bands, truth, strict=True))
        ]
        found = evidence(contexts, {0: 60, 1: 8, 2: 4})
        row = of_simulation(found, [simulated(at, values.tolist()) for at, values in enumerate(said)], 5)[ACROSS][1]
        weights = np.array([20.0, 20, 20, 4, 4, 4])
        plain = []
        for _ in range(4000):
            order = rng.permutation(6)
            common = [min(lengths[at], lengths[other]) for at, other in enumerate(order)]
            a = np.concatenate([contexts[at].activations[:n] for at, n in enumerate(common)]).astype(float)
            s = np.concatenate([said[other][:n] for other, n in zip(order, common, strict=True)]).astype(float)
            plain.append(metrics.pearson(a, s, np.repeat(weights, common)).value)
        values = np.array([value for value in plain if value is not None])
        assert row.value == pytest.approx(values.mean(), abs=4 * values.std() / np.sqrt(100))
        assert row.lo is not None and row.hi is not None and row.lo < row.value < row.hi

    def test_a_label_that_knows_tokens_has_none_of_it_left(self) -> None:
        found, answers = planted()
        rows = of_simulation(found, answers, 0)
        assert abs(value_of(rows[ACROSS], "r_balanced")) < 0.05 and abs(value_of(rows[ACROSS], "r_corpus")) < 0.05
        assert 0 < value_of(rows[WITHIN], "r_balanced") < 0.1
        assert value_of(rows[WITHIN], "r_balanced") < value_of(rows[BREADTH], "r_balanced") < 0.3

    def test_a_label_that_knows_texts_only_loses_nothing_within(self) -> None:
        found, _ = planted()
        broad = [simulated(one.window_id, [5.0 * (one.peak > 0)] * len(one.tokens)) for one in found.contexts]
        rows = of_simulation(found, broad, 0)
        assert value_of(rows[WITHIN], "r_corpus") == pytest.approx(value_of(rows[BREADTH], "r_corpus"))

    def test_what_is_undefined_is_null_with_a_reason(self) -> None:
        found, answers = planted()
        silent = [simulated(one.window_id, [0.0] * 30) for one in answers]
        rows = of_simulation(found, silent, 0)
        assert all(row.value is None and "constant" in str(row.reason) for row in [*rows[ACROSS], *rows[WITHIN]])
        assert value_of(rows[BREADTH], "r_corpus") > 0  # no simulation is needed for it
        assert of_simulation(found, [failed(one.window_id) for one in answers], 0) == {}
        half = of_simulation(found, [failed(one.window_id) if one.window_id < 40 else one for one in answers], 0)
        assert all("no silent context" in str(row.reason) for rows in half.values() for row in rows)

    def test_windows_of_another_protocol_are_left_alone(self) -> None:
        found, answers = planted()
        cut = [replace(one, start=3) for one in answers]
        other = [replace(one, window_id=one.window_id + 1000) for one in answers]
        for grade in (Grade((), simulated=cut), Grade((), simulated=other), Grade(())):
            assert evidence_controls(Detection(), found, grade, seed=0, verdicts=True) == {}


def judged(truths: Sequence[bool], answers: Sequence[bool | None]) -> list[Judged]:
    return [
        Judged(window, "band" if truth else "silent", truth, answer, "failed" if answer is None else "ok")
        for window, (truth, answer) in enumerate(zip(truths, answers, strict=True))
    ]


class TestOfVerdicts:
    TRUTHS = (False,) * 10 + (True,) * 10

    def found(self) -> FeatureEvidence:
        bands = [0] * 10 + [1] * 5 + [2] * 5
        return evidence([context(at, band, [0.0, float(band)]) for at, band in enumerate(bands)], {0: 90, 1: 9, 2: 9})

    def test_always_yes_and_always_no_are_half_right(self) -> None:
        said = judged(self.TRUTHS, [True] * 7 + [None] * 3 + [False] * 10)
        rows = of_verdicts(Detection(resamples=100), self.found(), said, 0)
        for control in (YES, NO):
            for row in rows[control]:
                expected = chance(row.metric, control)
                if expected is not None and not (control == NO and row.metric == "precision"):
                    assert row.value == pytest.approx(expected, abs=1e-12), (control, row.metric)
                assert row.n_failed == 3 or row.metric.startswith("recall")
        assert value_of(rows[YES], "balanced_accuracy") == value_of(rows[NO], "balanced_accuracy") == 0.5
        assert value_of(rows[YES], "f1") == pytest.approx(2 / 3) and value_of(rows[NO], "f1") == 0.0

    def test_a_coin_comes_to_chance_whatever_its_bias(self) -> None:
        rng = np.random.default_rng(0)
        for bias in (0.2, 0.5, 0.9):
            values = [
                value_of(Detection(resamples=100).regrade(self.found(), judged(self.TRUTHS, (rng.random(20) < bias).tolist())),
                         "balanced_accuracy") for _ in range(60)
            ]  # fmt: skip
            assert np.mean(values) == pytest.approx(chance("balanced_accuracy"), abs=0.06)

    def test_permuted_answers_are_the_same_answers_elsewhere(self) -> None:
        said = judged(self.TRUTHS, list(self.TRUTHS))
        values = [
            value_of(of_verdicts(Detection(resamples=100), self.found(), said, seed)[ACROSS], "balanced_accuracy")
            for seed in range(40)
        ]
        assert np.mean(values) == pytest.approx(0.5, abs=0.07) and len(set(values)) > 3
        again = of_verdicts(Detection(resamples=100), self.found(), said, 1)
        assert again == of_verdicts(Detection(resamples=100), self.found(), said, 1)

    def test_nothing_answered_nothing_controlled(self) -> None:
        assert of_verdicts(Detection(), self.found(), judged(self.TRUTHS, [None] * 20), 0) == {}


class TestPValues:
    def test_by_hand(self) -> None:
        null = np.array([0.1, 0.2, 0.3])
        assert p_values(np.array([0.4, 0.3, 0.25, 0.0]), null).tolist() == [1 / 4, 2 / 4, 2 / 4, 4 / 4]
        assert q_values(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.02, 0.04, 0.04, 0.02])
        with pytest.raises(ValueError, match="at least one"):
            p_values(np.array([1.0]), np.array([]))

    @given(st.lists(st.floats(0, 1), max_size=40))
    @settings(deadline=None, max_examples=100)
    def test_q_is_scipys(self, p: list[float]) -> None:
        expected = scipy.stats.false_discovery_control(p) if p else []
        assert q_values(np.array(p)) == pytest.approx(expected)

    def test_the_level_is_kept(self) -> None:
        """A feature that is no better than random directions gets p ≤ 0.05 once in twenty times."""
        rng = np.random.default_rng(1)
        small = [p_values(rng.random(1), rng.random(39))[0] <= 0.05 for _ in range(4000)]
        assert np.mean(small) == pytest.approx(0.05, abs=0.011)


class TestAgreement:
    def test_it_is_spearmans(self) -> None:
        rng = np.random.default_rng(2)
        x = np.round(rng.random(50), 1)  # with ties
        y = x + rng.normal(0, 0.3, 50)
        found = rank_correlation(x, y)
        assert found.rho == pytest.approx(scipy.stats.spearmanr(x, y).statistic) and found.n == 50
        assert found.lo is not None and found.hi is not None and found.rho is not None
        assert -1 < found.lo < found.rho < found.hi < 1

    def test_what_cannot_be_ranked_has_none(self) -> None:
        assert rank_correlation(np.ones(9), np.arange(9.0)).rho is None
        assert rank_correlation(np.arange(3.0), np.arange(3.0)).rho is None
        reversed_ = rank_correlation(np.arange(9.0), -np.arange(9.0))
        assert reversed_.rho == -1 and reversed_.lo is reversed_.hi is None
