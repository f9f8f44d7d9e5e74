"""Ranks by lower bound and their intervals, worked by hand."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from autointerp.score import ranking
from autointerp.score.ranking import rank_by_lower_bound, resampled


def test_ranks_by_hand() -> None:
    # Features 10, 11, 12, 13 with intervals [.1,.3], [.5,.9], [.2,.6], [.5,.8]: 11 and 13 tie on the lower bound.
    feature = np.array([10, 11, 12, 13])
    value, lo, hi = np.array([0.2, 0.7, 0.4, 0.75]), np.array([0.1, 0.5, 0.2, 0.5]), np.array([0.3, 0.9, 0.6, 0.8])
    ranks = rank_by_lower_bound(feature, value, lo, hi)
    assert ranks.rank.tolist() == [4, 2, 3, 1]  # 13 has the higher value
    # Surely above 10 (hi .3): 11 and 13. Above 12 (hi .6): none, since their lower bounds are .5.
    assert ranks.best.tolist() == [3, 1, 1, 1]
    # Surely below 11 and 13 (lo .5): 10 (hi .3). Below 12 (lo .2): none.
    assert ranks.worst.tolist() == [4, 3, 4, 3]


@pytest.mark.parametrize("of", [np.median, np.mean])
def test_resamples_are_held_in_parts_and_are_the_same(monkeypatch: pytest.MonkeyPatch, of: Any) -> None:
    values = np.random.default_rng(1).normal(size=101)
    whole = of(values[np.random.default_rng(7).integers(0, 101, (50, 101))], axis=1)
    monkeypatch.setattr(ranking, "_HELD", 3 * 101)
    assert ranking.resampled(of, values, np.random.default_rng(7), 50).tolist() == whole.tolist()


def test_resamples_of_many_features_need_little_memory() -> None:
    tracemalloc.start()
    try:
        generator = np.random.default_rng(0)
        assert len(resampled(np.median, np.linspace(0, 1, 100_000), generator, 100)) == 100
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
