"""The median over features, with an interval that holds whatever the distribution."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Spread:
    """A median over n features with its 95 % interval, which few features do not have."""

    n: int
    value: float | None
    lo: float | None
    hi: float | None


def median_interval(values: NDArray[np.float64]) -> Spread:
    """The median of n defined values, and the order statistics k and n + 1 − k around it, with the largest k for which a
    binomial of n fair coins is below k with a chance of at most 2.5 % (Conover 1999, section 3.2). n < 6: no interval."""
    ordered, n = np.sort(np.asarray(values, dtype=np.float64)), len(values)
    if not n:
        return Spread(0, None, None, None)
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2) for k in range(n // 2 + 1)
    ]
    below = np.cumsum(np.exp(logs))  # P(at most k heads)
    k = int(np.searchsorted(below, 0.025, side="right"))
    if not k:
        return Spread(n, float(np.median(ordered)), None, None)
    return Spread(n, float(np.median(ordered)), float(ordered[k - 1]), float(ordered[n - k]))
