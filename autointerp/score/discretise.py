"""The scale on which simulators answer: the integers 0..10, where 10 is the feature's maximum."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LEVELS = 10


def shown_maximum(shown: Sequence[NDArray[np.floating]]) -> float:
    """M as Bills et al. 2023 take it: the maximum over the records shown, each of their activations [T]."""
    return max((float(one.max(initial=0.0)) for one in shown), default=0.0)


def discretise(activations: NDArray[np.floating], maximum: float) -> NDArray[np.int64]:
    """a' = min(10, floor(10 · max(a, 0) / M)), of the same shape; all zeros where M ≤ 0.

    `maximum` is M, the feature's maximum over the whole harvest (Bills et al. 2023 take it over the records shown:
    `shown_maximum`).
    Raises ValueError if an activation or M is not finite.
    """
    values = np.maximum(np.asarray(activations, dtype=np.float64), 0.0)
    if not (np.isfinite(maximum) and np.isfinite(values).all()):
        raise ValueError("an activation or the feature's maximum is not finite")
    if maximum <= 0:
        return np.zeros(values.shape, dtype=np.int64)
    return np.minimum(LEVELS, np.floor(LEVELS * values / maximum)).astype(np.int64)
