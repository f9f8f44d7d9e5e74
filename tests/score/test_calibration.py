"""The line from simulated to true activations: by hand, and what it does to the values that are compared."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.catalog.records import Context, Label
from autointerp.score import Means, Settings, scorers, simulators
from autointerp.score.calibration import Line, NoLine, calibration_contexts, fitted, least_squares
from autointerp.score.evidence_controls import evidence_controls
from autointerp.score.simulation import score_simulation
from tests.score.builders import context, evidence, failed, simulated
from tests.score.test_protocols import LABEL, VOCABULARY, Oracle

TINY = [context(1, 1, [0, 8]), context(2, 0, [0, 0])]
SIZES = {0: 90, 1: 10}


def rerank(window: int, band: int, activations: Sequence[float]) -> Context:
    return context(window, band, activations, split="rerank")


def test_a_line_by_hand() -> None:
    """a = 0 4 2, s = 0 2 4: Σsa = 16 − 3·2·2 = 4, Σs² = 20 − 12 = 8; slope 1/2, intercept 2 − 1 = 1."""
    found = least_squares(np.array([0.0, 4, 2]), np.array([0.0, 2, 4]), np.ones(3))
    assert found == pytest.approx((0.5, 1.0))
    assert least_squares(np.array([0.0, 4, 2]), np.array([3.0, 3, 3]), np.ones(3)) is None


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10), st.floats(0.1, 5)), min_size=3, max_size=20))
def test_it_is_the_weighted_least_squares(points: list[tuple[float, float, float]]) -> None:
    true, side, weights = np.array(points).T
    found = least_squares(true, side, weights)
    if found is None or np.ptp(side) < 1e-3:
        return
    assert found == pytest.approx(tuple(np.polyfit(side, true, 1, w=np.sqrt(weights))), abs=1e-5, rel=1e-5)


def test_a_label_that_says_the_opposite_has_a_negative_slope_and_good_values() -> None:
    """By hand, M = 10, one activating context (0 8) and one silent (0 0), of weight 1 each; s = 10 − a. The line learnt elsewhere
    is a = −s + 10, so the calibrated values are the truth: R²u = AbsDevu = 1. Those of s itself are far below 0."""
    contexts = [rerank(7, 1, [0, 5, 1]), rerank(8, 0, [0, 0, 0])]
    line = fitted(contexts, [simulated(7, [10, 5, 9]), simulated(8, [10, 10, 10])], 1.0)
    assert isinstance(line, Line) and (line.slope, line.intercept) == pytest.approx((-1, 10))
    opposite = [simulated(1, [10, 2]), simulated(2, [10, 10])]
    rows = {row.metric: row for row in score_simulation(evidence(TINY, SIZES), opposite, calibration=line)}
    assert rows["r_balanced"].value == pytest.approx(-1)
    assert rows["r2_uncentred"].value == pytest.approx(1 - (100 + 36 + 100 + 100) / 64)
    assert rows["absdev_uncentred"].value == pytest.approx(1 - (10 + 6 + 10 + 10) / 8)
    assert rows["r2_calibrated"].value == pytest.approx(1) and rows["absdev_calibrated"].value == pytest.approx(1)
    assert "true = -1 · simulated + 10, from 2 contexts" in (rows["r2_calibrated"].reason or "")


def test_a_line_that_is_not_quite_right() -> None:
    """slope 2, intercept 1: a = 0 8 0 0, s = 0 3 0 0 → 1 7 1 1; R²u = 1 − (1 + 1 + 1 + 1)/64, AbsDevu = 1 − 4/8."""
    rows = {row.metric: row for row in score_simulation(
        evidence(TINY, SIZES), [simulated(1, [0, 3]), simulated(2, [0, 0])], calibration=Line(2.0, 1.0, 4, 1))}  # fmt: skip
    assert rows["r2_calibrated"].value == pytest.approx(1 - 4 / 64)
    assert rows["absdev_calibrated"].value == pytest.approx(0.5)
    assert "from 4 contexts, 1 failed" in (rows["absdev_calibrated"].reason or "")


def test_without_a_line_there_is_no_value_but_a_reason() -> None:
    rows = {
        row.metric: row for row in score_simulation(evidence(TINY, SIZES), [simulated(1, [0, 3]), simulated(2, [0, 0])])
    }
    for name in ("r2_calibrated", "absdev_calibrated"):
        row = rows[name]
        assert (row.value, row.lo, row.status, row.reason) == (
            None,
            None,
            "undefined",
            "not calibrated: score.calibration is 0",
        )
    assert rows["r2_uncentred"].value is not None


@pytest.mark.parametrize(
    ("contexts", "predicted", "reason"),
    [
        ([], [], "the feature fires in no simulated context of the rerank split (there are 0 contexts)"),
        ([rerank(7, 0, [0, 0])], [simulated(7, [0, 1])], "fires in no simulated context"),
        ([rerank(7, 1, [0, 3])], [failed(7)], "1 of 1 failed"),
        ([rerank(7, 1, [0, 3])], [simulated(7, [4, 4])], "are constant"),
    ],
)  # fmt: skip
def test_where_nothing_can_be_learnt(contexts: list[Context], predicted: list, reason: str) -> None:
    found = fitted(contexts, predicted, 1.0)
    assert isinstance(found, NoLine) and reason in found.reason and found.reason.startswith("not calibrated")


def test_bands_weigh_alike_as_in_the_balanced_scores() -> None:
    """Band 1 twice, band 2 once, silent once: weights 1/4, 1/4, 1/2, 1 a token; the true values are scaled."""
    contexts = [rerank(1, 1, [2.0, 0]), rerank(2, 1, [0, 1.0]), rerank(3, 2, [3.0, 0]), rerank(4, 0, [0, 0])]
    predicted = [simulated(1, [3, 1]), simulated(2, [2, 2]), simulated(3, [9, 0]), simulated(4, [0, 1])]
    found = fitted(contexts, predicted, 2.0)
    weights = np.repeat([0.25, 0.25, 0.5, 1.0], 2)
    slope, intercept = np.polyfit([3, 1, 2, 2, 9, 0, 0, 1], [4, 0, 0, 2, 6, 0, 0, 0], 1, w=np.sqrt(weights))
    assert isinstance(found, Line) and (found.slope, found.intercept) == pytest.approx((slope, intercept))


def test_contexts_come_from_the_rerank_split_in_turn() -> None:
    bands = [rerank(10 * band + place, band, [0, band]) for band in (1, 2, 3) for place in range(4)]
    silent = [rerank(90 + place, 0, [0, 0]) for place in range(4)]
    found = evidence([*TINY, *bands, *silent], SIZES)
    assert [one.window_id for one in calibration_contexts(found, 9)] == [10, 20, 30, 11, 21, 90, 91, 92, 93]
    assert [one.window_id for one in calibration_contexts(found, 4)] == [10, 20, 90, 91]
    assert len(calibration_contexts(found, 100)) == 16
    assert [one.window_id for one in calibration_contexts(evidence(bands, SIZES), 5)] == [10, 20, 30, 11, 21]
    assert calibration_contexts(evidence(TINY, SIZES), 10) == [] and calibration_contexts(found, 0) == []


async def test_the_scorer_simulates_them_apart_and_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scale is learnt in the units of 0..10: M = 20, so 10 is 5 there."""
    seen: list[list[int]] = []

    class Noting(Oracle):
        async def __call__(self, label: Label, contexts: Sequence[Context], *rest: object) -> list:
            seen.append([one.window_id for one in contexts])
            assert not any(one.activations.any() for one in contexts)
            return [simulated(one.window_id, self.values[one.window_id]) for one in contexts]

    monkeypatch.setitem(simulators._parts, "oracle", Noting({1: [0, 2], 2: [0, 0], 7: [0, 2], 8: [0, 0]}))
    found = evidence(
        [context(1, 1, [0, 10]), context(2, 0, [0, 0]), rerank(7, 1, [0, 10]), rerank(8, 0, [0, 0])],
        SIZES,
        maximum=20.0,
    )
    scorer = scorers.get("simulation").configured(Settings(simulator="oracle", calibration=2))
    assert scorer.wants.rerank and not scorers.get("simulation").configured(Settings(simulator="oracle")).wants.rerank
    assert scorer.version != scorers.get("simulation").configured(Settings(simulator="oracle")).version
    result = await scorer(LABEL, found, Means(VOCABULARY))
    rows = {row.metric: row for row in result.rows}
    assert seen[:2] == [[1, 2], [7, 8]] and [one.window_id for one in result.simulated] == [1, 2, 7, 8]
    assert rows["r2_calibrated"].value == pytest.approx(1)
    assert "true = 2.5 · simulated + 0, from 2 contexts" in rows["r2_calibrated"].reason
    assert (rows["r_balanced"].n_ok, rows["r2_calibrated"].n_ok) == (2, 2)
    plain = await scorers.get("simulation").configured(Settings(simulator="oracle"))(LABEL, found, Means(VOCABULARY))
    controls = [evidence_controls(scorer, found, one, seed=0, verdicts=True) for one in (result, plain)]
    assert controls[0] == controls[1] and {"permuted_across", "permuted_within", "breadth"} == controls[0].keys()
