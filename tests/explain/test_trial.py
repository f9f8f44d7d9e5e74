"""On what labels are compared, and how."""

from collections.abc import Sequence

import numpy as np
import pytest

from autointerp.catalog.records import Context
from autointerp.explain.trial import Verdict, best_of, compared_contexts, verdicts_of
from autointerp.score import Simulated
from tests.explain.test_token_activation import evidence, one_hot


def test_contexts_are_one_of_each_band_and_three_silent_ones() -> None:
    contexts = [
        one_hot(1, 9, split="rerank", kind="top", band=3),
        one_hot(2, 8, split="rerank", kind="top", band=2),
        one_hot(3, 7, split="rerank", kind="band", band=2),
        one_hot(4, 6, split="rerank", kind="band", band=2),
        *(one_hot(window, 0, split="rerank", kind="silent", band=0) for window in range(5, 10)),
        one_hot(10, 9, split="explain", kind="band", band=1),
        one_hot(11, 9, split="test", kind="band", band=1),
    ]
    assert [context.window_id for context in compared_contexts(evidence(contexts))] == [3, 1, 5, 6, 7]


def test_or_several_of_each_band_draws_first_and_hard_negatives_each_window_once() -> None:
    def silent(window: int, kind: str = "silent") -> Context:
        return one_hot(window, 0, split="rerank", kind=kind, band=0)

    contexts = [
        one_hot(1, 9, split="rerank", kind="top", band=2), one_hot(2, 8, split="rerank", kind="top", band=2),
        one_hot(1, 9, split="rerank", kind="band", band=2), one_hot(3, 7, split="rerank", kind="band", band=1),
        silent(5), silent(6), silent(7), silent(8),
        silent(20, "near"), silent(21, "near"), silent(6, "token"), silent(22, "token"),
    ]  # fmt: skip
    assert [one.window_id for one in compared_contexts(evidence(contexts), 2, 2)] == [3, 1, 2, 5, 6, 7, 20]
    assert [one.window_id for one in compared_contexts(evidence(contexts), 2, 9)] == [3, 1, 2, 5, 6, 7, 20, 21, 22]
    assert compared_contexts(evidence(contexts[4:]), 2, 2) == []


def test_candidates_are_compared_on_the_contexts_that_all_of_them_have() -> None:
    def simulated(*values: Sequence[float] | None) -> list[Simulated]:
        return [
            Simulated(one.window_id, None, "failed", "so") if value is None
            else Simulated(one.window_id, np.array(value, np.float32), "ok")
            for one, value in zip(contexts, values, strict=True)
        ]  # fmt: skip

    contexts = [
        one_hot(1, 9, at=0, length=2, split="rerank"), one_hot(2, 9, at=1, length=2, split="rerank"),
    ]  # fmt: skip
    whole, half, none = simulated([9, 0], [9, 0]), simulated([9, 0], None), simulated(None, None)
    assert [verdict.score for verdict in verdicts_of(contexts, [whole])] == [pytest.approx(0.0)]
    found = verdicts_of(contexts, [whole, half, none])  # on the first context alone
    assert [verdict.score for verdict in found] == [pytest.approx(1.0), pytest.approx(1.0), None]
    assert found[2].reason == "no context could be simulated: so"
    apart = verdicts_of(contexts, [simulated([9, 0], None), simulated(None, [9, 0])])
    assert [verdict.reason for verdict in apart] == ["no context could be simulated for all candidates"] * 2
    flat = verdicts_of(contexts, [simulated([0, 0], [0, 0])])
    assert flat[0].score is None and flat[0].reason == "the simulated activations are constant"


def test_the_best_is_the_first_of_equal_ones_and_any_score_is_better_than_none() -> None:
    none = Verdict(None, "so")
    assert best_of([none, Verdict(0.2), Verdict(0.5), Verdict(0.5)]) == 2
    assert best_of([none, Verdict(-0.9)]) == 1
    assert best_of([none, none]) is None
