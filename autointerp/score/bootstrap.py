"""Intervals by the stratified bootstrap over contexts, never over tokens: a context's tokens are not independent.

Every resample draws, from each stratum of n contexts, n − 1 with replacement, and counts each draw n/(n−1) times
(Rao and Wu, 1988, "Resampling inference with complex survey data"). Drawing n of n would understate the variance by the
factor (n−1)/n, which matters for bands of ten contexts or fewer. A stratum of one context shows no variation: it stays
as it is, and `Resampling.singletons` names it. A metric that is a function of sums needs no pooled vectors: the sums of each
context are taken once, and all resamples are one matrix product.

A resample may be undefined (say it holds no context in which the simulation moves). It is neither dropped nor counted
as 0: it could have landed anywhere, so the interval's lower end treats it as lower than all others and the upper end as
higher. Where so many are undefined that an end itself falls among them (usually more than 2.5 %), there is no interval,
and the reason says so.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_NORMAL = NormalDist()
_ROUNDING = (
    1e-9  # relative: scores that are so near each other are equal, and the order of additions made the difference
)


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval, or None with a reason. `undefined` counts the resamples without a value."""

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


@lru_cache(maxsize=32)  # features with all their contexts have the same strata, and then the same draws
def _shared_counts(strata: bytes, resamples: int, seed: int) -> Array:
    counts = resample_counts(np.frombuffer(strata, np.int64), resamples, seed)
    counts.setflags(write=False)
    return counts


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


class Resampling:
    """The resamples of one feature's contexts, for the intervals of all its metrics: the same draws for each of them."""

    def __init__(self, strata: NDArray[np.integer], resamples: int, seed: int) -> None:
        numbers, index, size = np.unique(strata, return_inverse=True, return_counts=True)
        self.singletons: list[int] = [int(number) for number in numbers[size == 1]]
        self._counts = _shared_counts(np.ascontiguousarray(strata, np.int64).tobytes(), resamples, seed)
        self._member = (np.arange(len(numbers))[:, None] == index).astype(np.float64)  # [strata, contexts]
        self._size = size[index].astype(np.float64)  # of its stratum, by context

    def interval(self, of_sums: Callable[[Array], Array], sums: Array, value: float, level: float = 0.95) -> Interval:
        """The BCa interval around the score `value`, which is `of_sums` of the total of `sums` [contexts, K].

        Efron 1987, "Better bootstrap confidence intervals": percentiles that allow for the median bias and the skewness of the
        score. A percentile interval is too low with five contexts a stratum. Undefined resamples: see the module's text.
        """
        values = of_sums(self._counts @ sums)
        ordered = np.sort(values[~np.isnan(values)])
        bias, skewness = _median_bias(ordered, value), self._acceleration(of_sums(self.leave_one_out(sums)))
        ends = (_NORMAL.inv_cdf((1 - level) / 2), _NORMAL.inv_cdf((1 + level) / 2))
        low, high = (_NORMAL.cdf(bias + (bias + end) / max(1 - skewness * (bias + end), 0.1)) for end in ends)
        return between(ordered, len(values), low, 1 - high)

    def leave_one_out(self, sums: Array) -> Array:
        """Total sums without each context in turn: [contexts, K] to [contexts, K]. The others of its stratum stand for it."""
        inside = self._member.T @ (self._member @ sums)
        scale = np.divide(self._size, self._size - 1, out=np.zeros_like(self._size), where=self._size > 1)[:, None]
        found: Array = sums.sum(axis=0) - inside + np.where(scale > 0, (inside - sums) * scale, inside)
        return found

    def _acceleration(self, without_one: Array) -> float:
        """Skewness of the score over six: Σ(Σu³/n³) / 6(Σ(Σu²/n²))^1.5 over strata, with the influences u."""
        defined = ~np.isnan(without_one)
        known = np.where(defined, without_one, 0.0)
        count = self._member.T @ (self._member @ defined)
        mean = self._member.T @ (self._member @ known) / np.maximum(count, 1)
        influence = np.where(defined, (count - 1) * (mean - known) / np.maximum(count, 1), 0.0)
        largest = float(np.abs(influence).max(initial=0.0))
        if largest <= _ROUNDING * float(np.abs(known).max(initial=0.0)):
            return 0.0
        influence /= largest
        squares, cubes = float(influence @ influence), float((influence**3).sum())
        return cubes / (6 * math.sqrt(squares) ** 3)


def between(ordered: Array, resamples: int, below: float, above: float) -> Interval:
    """The resamples without these shares of all at either end; the undefined ones lie beyond both."""
    undefined = resamples - len(ordered)
    left, right = (min(resamples - 1, int(resamples * share + 1e-9)) for share in (below, above))
    if undefined > min(left, right):
        reason = f"no interval: {undefined} of {resamples} resamples are undefined, since they hold no variation"
        return Interval(None, None, undefined, reason)
    remark = f"{undefined} of {resamples} resamples are undefined; the interval allows for it" if undefined else None
    return Interval(float(ordered[left - undefined]), float(ordered[undefined - right - 1]), undefined, remark)


def _median_bias(ordered: Array, value: float) -> float:
    """z0: where the score lies among its resamples, ties by half. Scores of verdicts are few numbers: a tie is common there."""
    if not len(ordered):
        return 0.0
    slack = _ROUNDING * max(abs(value), abs(float(ordered[0])), abs(float(ordered[-1])))
    place = (np.searchsorted(ordered, value - slack) + np.searchsorted(ordered, value + slack, side="right")) / 2
    return _NORMAL.inv_cdf(float(np.clip(place, 0.5, len(ordered) - 0.5)) / len(ordered)) if len(ordered) > 1 else 0.0
