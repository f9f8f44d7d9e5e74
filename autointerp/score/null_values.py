"""What a score is worth beside those of random directions: p-values and false discovery rates. Pure numpy.

p = (1 + number of random directions that score as high or higher) / (1 + number of random directions): the exact level of a
test that a feature is no better than a random direction, since both are among 1 + n exchangeable draws if it is not (Davison
and Hinkley 1997, section 4.2). It cannot be below 1 / (1 + n). q: Benjamini and Hochberg (1995), "Controlling the false
discovery rate".
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def p_values(scores: Array, null: Array) -> Array:
    """The p-value of each score [n] among the scores [m] of random directions, all defined. Raises ValueError for m = 0."""
    if not len(null):
        raise ValueError("p-values need at least one score of a random direction")
    as_high = len(null) - np.searchsorted(np.sort(null), scores, side="left")
    found: Array = (1 + as_high) / (1 + len(null))
    return found


def q_values(p: Array) -> Array:
    """The smallest false discovery rate at which each hypothesis is rejected: min over k' ≥ k of p_(k') · n / k'. [n] to
    [n]."""
    if not len(p):
        return p
    order = np.argsort(p, kind="stable")
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    found = np.empty_like(p)
    found[order] = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    return found
