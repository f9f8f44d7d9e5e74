"""Differences on the same contexts: worked by hand, held to `difference_rows`, and the test's level on nothing."""

import numpy as np
import pytest

from autointerp.evaluate.comparison import _sums
from autointerp.evaluate.kept import Kept
from autointerp.score import Judged, Simulated
from autointerp.score.bootstrap import Resampling
from autointerp.score.detection import score_detection
from autointerp.score.fuzzing import score_fuzzing
from autointerp.score.jackknife import standard_error
from autointerp.score.paired import OF_SIMULATIONS, Sums, difference, judged_sums, simulated_sums
from autointerp.score.simulation import difference_rows, score_simulation
from autointerp.score.verdicts import OF_CELLS
from tests.score.builders import context, evidence, failed


def noisy(seed: int, contexts: list, blur: float) -> list[Simulated]:
    generator = np.random.default_rng(seed)
    return [
        Simulated(
            one.window_id, np.clip(one.activations + generator.normal(0, blur, 6), 0, 10).astype(np.float32), "ok"
        )
        for one in contexts
    ]


def sample(seed: int = 0) -> list:
    generator = np.random.default_rng(seed)
    active = [context(i, 1 + i % 3, generator.uniform(0, 10, 6) * (generator.random(6) < 0.5) + 0.1) for i in range(18)]
    return [*active, *(context(100 + i, 0, [0.0] * 6) for i in range(12))]


def test_the_jackknife_of_a_mean_is_its_textbook_error() -> None:
    # One stratum of 1, 2, 6: without each in turn the means are 4, 3.5, 1.5; s² = 7, so SE² = 7/3.
    found = standard_error(np.zeros(3, int), np.array([4.0, 3.5, 1.5]))
    assert found is not None and found.value == pytest.approx((7 / 3) ** 0.5) and found.freedom == 2


def test_the_jackknife_adds_strata_up_and_leaves_single_contexts_out() -> None:
    # The mean of two strata's means: each adds s²/n/4. Strata (0, 2) and (1, 5): s² = 2 and 8; a third of one context adds none.
    strata, values = np.array([1, 1, 2, 2, 3]), np.array([0.0, 2.0, 1.0, 5.0, 9.0])

    def of(kept: list[int]) -> float:
        return float(np.mean([values[[i for i in kept if strata[i] == s] or list(np.flatnonzero(strata == s))].mean()
                              for s in (1, 2, 3)]))  # fmt: skip

    without = np.array([of([i for i in range(5) if i != one]) for one in range(5)])
    found = standard_error(strata, without)
    assert found is not None and found.freedom == 2
    assert found.value == pytest.approx(((2 / 2 + 8 / 2) / 9) ** 0.5)


def test_nothing_to_tell_the_error_from() -> None:
    assert standard_error(np.array([0, 1]), np.array([0.5, 0.5])) is None
    assert standard_error(np.array([0, 0]), np.array([0.5, np.nan])) is None


@pytest.mark.parametrize("mode", ["balanced", "corpus"])
def test_r_is_that_of_difference_rows(mode: str) -> None:
    contexts = sample()
    of = evidence(contexts, {0: 900, 1: 30, 2: 20, 3: 10})
    sides = [noisy(1, contexts, 1.0), noisy(2, contexts, 4.0)]
    found = difference(simulated_sums(of, sides, f"r_{mode}"), 0)
    row = next(row for row in difference_rows(of, *sides, name="d") if row.metric == f"d_{mode}")
    assert found.value == pytest.approx(row.value) and found.n == row.n_ok
    assert found.lo is not None and row.lo is not None and found.lo == pytest.approx(row.lo, abs=0.05)


@pytest.mark.parametrize("metric", sorted(OF_SIMULATIONS))
def test_the_difference_is_that_of_the_scores(metric: str) -> None:
    contexts = sample()
    of = evidence(contexts, {0: 900, 1: 30, 2: 20, 3: 10}, maximum=9.0)
    sides = [noisy(1, contexts, 1.0), noisy(2, contexts, 4.0)]
    values = [{row.metric: row.value for row in score_simulation(of, side)}[metric] for side in sides]
    found = difference(simulated_sums(of, sides, metric), 0)
    assert found.value == pytest.approx(values[0] - values[1])
    alone = simulated_sums(of, sides[:1], metric)
    assert not isinstance(alone, str) and alone.value == pytest.approx(values[0])


def test_only_contexts_that_both_sides_have_count() -> None:
    contexts = sample()
    of = evidence(contexts, {0: 900, 1: 30, 2: 20, 3: 10})
    first, second = noisy(1, contexts, 1.0), noisy(2, contexts, 4.0)
    second[0] = failed(contexts[0].window_id)
    assert difference(simulated_sums(of, [first, second], "r_balanced"), 0).n == len(contexts) - 1
    none = difference(simulated_sums(of, [[failed(one.window_id) for one in contexts], second], "r_balanced"), 0)
    assert none.value is None and none.reason is not None and "no context in common" in none.reason


def test_equal_sides_do_not_differ() -> None:
    contexts = sample()
    of = evidence(contexts, {0: 900, 1: 30, 2: 20, 3: 10})
    side = noisy(1, contexts, 1.0)
    found = difference(simulated_sums(of, [side, side], "r_balanced"), 0)
    assert (found.value, found.p) == (0.0, 1.0)


def test_a_difference_without_variation_has_no_probability() -> None:
    # The second says yes throughout; every verdict of the first is right: balanced accuracy 1 and 0.5, whatever is left out.
    judged = [Judged(i, "band" if i < 4 else "silent", i < 4, i < 4, "ok") for i in range(8)]
    yes = [Judged(i, one.kind, one.truth, True, "ok") for i, one in enumerate(judged)]
    bands = {(i, "band" if i < 4 else "silent"): 1 if i < 4 else 0 for i in range(8)}
    found = difference(judged_sums([judged, yes], bands, OF_CELLS["balanced_accuracy"]), 0)
    assert (found.value, found.p, found.lo) == (0.5, None, None) and found.reason is not None


@pytest.mark.parametrize("metric", sorted(OF_CELLS))
def test_verdicts_come_to_what_detection_says(metric: str) -> None:
    generator = np.random.default_rng(3)
    contexts = [context(i, 1 + i % 2, [0, 5]) for i in range(11)] + [context(50 + i, 0, [0, 0]) for i in range(9)]
    of = evidence(contexts, {0: 90, 1: 20, 2: 20})
    judged = [Judged(c.window_id, c.kind, c.peak > 0, bool(generator.random() < 0.6), "ok") for c in contexts]
    value = {row.metric: row.value for row in score_detection(of, judged)}[metric]
    wanted = {"recall": ("band",), "false_alarms": ("silent",)}.get(metric, ("band", "silent"))
    bands = {(c.window_id, c.kind): c.band for c in contexts}
    found = judged_sums([[one for one in judged if one.kind in wanted]], bands, OF_CELLS[metric])
    assert not isinstance(found, str) and found.value == pytest.approx(value)


def test_the_test_holds_its_level_where_there_is_no_difference() -> None:
    # Two simulators of equal noise, 300 features of 30 contexts each: at 5 % between 1.5 and 8.5 % are rejected (±3.5 SD is 4.4).
    rejected = []
    for seed in range(300):
        contexts = sample(seed)
        of = evidence(contexts, {0: 900, 1: 30, 2: 20, 3: 10})
        sides = [noisy(1000 + seed, contexts, 3.0), noisy(5000 + seed, contexts, 3.0)]
        found = simulated_sums(of, sides, "r_balanced")
        assert not isinstance(found, str)
        without = Resampling(found.strata, 100, 0).leave_one_out(found.sums)
        error = standard_error(found.strata, found.of_sums(without))
        assert error is not None
        rejected.append(abs(found.value) / error.value > 2.05)  # Student's t, 26 degrees of freedom
    assert 0.015 < np.mean(rejected) < 0.085


@pytest.mark.parametrize("metric", ["balanced_accuracy", "precision", "f1", "recall", "false_alarms"])
def test_verdicts_on_marks_come_out_as_stored_and_those_on_one_window_go_together(metric: str) -> None:
    """Fuzzing's wrong marks stand in copies of the same windows; those on silent windows are another kind."""
    generator = np.random.default_rng(3)
    of = evidence(sample(), {0: 100, 1: 10, 2: 10, 3: 10})
    judged = [
        Judged(one.window_id, one.kind, right, bool(generator.random() < 0.8) == right, "ok", item=int(not right))
        for one in of.contexts for right in ((True, False) if one.kind == "band" else (False,))
    ]  # fmt: skip
    stored = {row.metric: row for row in score_fuzzing(of, judged, resamples=100)}[metric]
    found = _sums(of, [Kept(judged=judged)], "fuzzing", metric)
    assert isinstance(found, Sums) and found.value == pytest.approx(stored.value)
    assert len(found.sums) == 18 and sorted(found.strata.tolist()) == sorted([1, 2, 3] * 6)
