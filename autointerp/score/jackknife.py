"""Standard errors by the stratified jackknife: no resampling, no seed, and tails that are not limited by a number of resamples.

Each context is left out in turn, and the others of its stratum stand for it (Rust and Rao, 1996, "Variance estimation for complex
surveys"): SE² = Σ_h (n_h − 1)/n_h Σ_i (θ_(hi) − θ̄_h)². Small probabilities, as tests over many features and looks before the
end need, are read from Student's t, not from counts of a thousand resamples.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Error:
    """A standard error with its degrees of freedom: contexts − strata."""

    value: float
    freedom: int


def standard_error(strata: NDArray[np.integer], without_one: Array) -> Error | None:
    """From the values without each context in turn [C]. A stratum of one context shows no variation and adds none.

    None where a value is undefined, or every stratum has one context.
    """
    _, index, size = np.unique(strata, return_inverse=True, return_counts=True)
    freedom = int(len(strata) - len(size))
    if freedom < 1 or np.isnan(without_one).any():
        return None
    mean = np.bincount(index, weights=without_one) / size
    squares = np.bincount(index, weights=(without_one - mean[index]) ** 2)
    return Error(float(np.sqrt(((size - 1) / size * squares).sum())), freedom)
