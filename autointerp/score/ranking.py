"""The order of the catalog, and resamples of features. Pure numpy.

Features are ranked by the lower bound of their score's interval: a high value on little evidence must not win. The rank
interval says which ranks the intervals leave open: above a feature are surely those whose lower bound is above its upper one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_HELD = 1 << 21  # values


@dataclass(frozen=True, slots=True)
class Ranks:
    """Of each feature: `rank` 1 … n, a permutation; `best` and `worst`, the rank interval."""

    rank: NDArray[np.int64]
    best: NDArray[np.int64]
    worst: NDArray[np.int64]


def rank_by_lower_bound(feature: NDArray[np.int64], value: Array, lo: Array, hi: Array) -> Ranks:
    """Rank n features with defined scores and intervals. Equal lower bounds: higher value, then lower feature id first."""
    order = np.lexsort((feature, -value, -lo))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    surely_above = len(lo) - np.searchsorted(np.sort(lo), hi, side="right")
    surely_below = np.searchsorted(np.sort(hi), lo, side="left")
    return Ranks(rank, 1 + surely_above, len(lo) - surely_below)


def resampled(of: Callable[..., Array], values: Array, generator: np.random.Generator, resamples: int) -> Array:
    """`of` [resamples] each of so many resamples of the values [n] of features. A part of them is held at a time: all together
    are gigabytes for a hundred thousand features."""
    rows = max(1, _HELD // len(values))
    parts = [
        of(values[generator.integers(0, len(values), (min(rows, resamples - begin), len(values)))], axis=1)
        for begin in range(0, resamples, rows)
    ]
    return np.concatenate(parts)
