"""Cuts of windows and marks on them."""

import random

import numpy as np
import pytest

from autointerp.score.cuts import Cut, cut_anywhere, cut_at, long_enough, placed, runs_of
from tests.score.builders import context


def test_a_cut_stays_in_its_window() -> None:
    window = context(1, 1, np.arange(40).tolist())
    assert cut_at(window, -5, 32).begin == 0 and cut_at(window, 30, 32).begin == 8
    assert cut_at(window, 5, 32).tokens.tolist() == list(range(5, 37))
    short = cut_at(context(2, 1, [1.0, 2.0]), 7, 32)
    assert (short.begin, short.tokens.tolist(), short.in_window([1])) == (0, [0, 1], [1])


def test_the_peak_is_in_the_cut_at_any_place() -> None:
    window = context(1, 1, [float(at == 60) for at in range(127)])
    cuts = [cut_anywhere(window, random.Random(seed)) for seed in range(400)]
    places = [int(cut.activations.argmax()) for cut in cuts]
    assert all(cut.activations.max() == 1 for cut in cuts) and set(places) == set(range(32))
    assert 13 < np.mean(places) < 18


def test_lengths_of_runs() -> None:
    assert [runs_of(places) for places in ([], [4], [1, 2, 3, 7, 9, 10])] == [[], [1], [3, 1, 2]]


@pytest.mark.parametrize("seed", range(20))
def test_runs_are_placed_apart_on_free_tokens(seed: int) -> None:
    draw = random.Random(seed)
    free = np.array([draw.random() < 0.8 for _ in range(32)])
    runs = [2, 1, 1]
    found = placed(runs, free, draw)
    assert found is not None and sorted(runs_of(found)) == sorted(runs) and free[found].all()


def test_a_run_covers_a_place_and_there_may_be_no_room() -> None:
    draw = random.Random(0)
    for _ in range(20):
        found = placed([1, 3], np.ones(9, dtype=bool), draw, 8)
        assert found is not None and {6, 7, 8} <= set(found) and len(found) == 4
    assert placed([3], np.array([True, True, False, True]), draw) is None
    assert placed([1, 1], np.array([True, True]), draw) is None  # side by side they would be one run
    assert placed([1], np.array([True, False]), draw, 1) is None


def test_the_cause_of_a_hard_negative_as_a_place_of_the_cut() -> None:
    window = context(1, 0, [0.0] * 60, kind="token")
    object.__setattr__(window, "cause_position", 40)
    assert cut_at(window, 20).place == 20 and cut_at(window, 0).place is None
    assert all(cut_anywhere(window, random.Random(seed)).place is not None for seed in range(50))
    assert Cut(context(1, 0, [0.0]), 0, window.tokens, window.activations).place is None


def test_short_windows_are_left_out_where_there_are_longer_ones() -> None:
    windows = [context(1, 0, [0.0] * 3), context(2, 0, [0.0] * 20), context(3, 0, [0.0] * 40)]
    assert [one.window_id for one in long_enough(windows, 32)] == [3]
    assert [one.window_id for one in long_enough(windows[:2], 32)] == [2] and long_enough([], 32) == []
