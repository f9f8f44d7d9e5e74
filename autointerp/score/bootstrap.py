"""Intervals by the stratified bootstrap over contexts, never over tokens: a context's tokens are not independent.

Every resample draws, from each stratum of n contexts, n − 1 with replacement, and counts each draw n/(n−1) times
(Rao and Wu, 1988, "Resampling inference with complex survey data"). Drawing n of n would understate the variance by the
factor (n−1)/n, which matters for bands of ten contexts or fewer. A stratum of one context shows no variation: it stays
as it is, and `singletons` names it. A metric that is a function of sums needs no pooled vectors: the sums of each
context are taken once, and all resamples are one matrix product.

A resample may be undefined (say it holds no context in which the simulation moves). It is neither dropped nor counted
as 0: it could have landed anywhere, so the interval's lower end treats it as lower than all others and the upper end as
higher. Where so many are undefined that an end itself falls among them (more than 2.5 %), there is no interval,
and the reason says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A percentile interval, or None with a reason. `undefined` counts the resamples without a value."""

    lo: float | None
    hi: float | None
    undefined: int = 0
    reason: str | None = None


def context_sums(per_token: Array, lengths: Sequence[int]) -> Array:
    """Sums over each context's tokens: [tokens, K] with contexts one after the other, to [contexts, K]."""
    if min(lengths) < 1 or sum(lengths) != len(per_token):
        raise ValueError(f"{len(per_token)} tokens for contexts of lengths {list(lengths)}")
    starts = np.concatenate([[0], np.cumsum(lengths[:-1])]).astype(np.intp)
    sums: Array = np.add.reduceat(per_token, starts, axis=0)
    return sums


def resample_counts(strata: NDArray[np.integer], resamples: int, seed: int) -> Array:
    """How much each context counts in each resample: [contexts] stratum numbers to [resamples, contexts].

    The counts of a stratum sum to its number of contexts in every resample, so weights per stratum stay as they are.
    Strata are resampled apart, in ascending order of their number, from one generator: equal arguments, equal draws.
    """
    generator = np.random.default_rng(seed)
    counts = np.ones((resamples, len(strata)))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        size = len(members)
        if size == 1:
            continue
        draws = generator.integers(0, size, (resamples, size - 1)) + size * np.arange(resamples)[:, None]
        drawn = np.bincount(draws.ravel(), minlength=resamples * size).reshape(resamples, size)
        counts[:, members] = drawn * (size / (size - 1))
    return counts


def singletons(strata: NDArray[np.integer]) -> list[int]:
    """The strata of one context: their variation is not in the interval."""
    numbers, sizes = np.unique(strata, return_counts=True)
    return [int(number) for number in numbers[sizes == 1]]


def percentile_interval(values: Array, level: float = 0.95) -> Interval:
    """The central interval of resampled values [resamples], NaN where undefined (see the module's text for those)."""
    defined = np.sort(values[~np.isnan(values)])
    undefined = len(values) - len(defined)
    tail = int(np.floor(len(values) * (1 - level) / 2))
    if undefined > tail:
        reason = f"no interval: {undefined} of {len(values)} resamples are undefined, since they hold no variation"
        return Interval(None, None, undefined, reason)
    remark = f"{undefined} of {len(values)} resamples are undefined; the interval allows for it" if undefined else None
    rank = tail - undefined
    return Interval(float(defined[rank]), float(defined[-1 - rank]), undefined, remark)
