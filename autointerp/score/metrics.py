"""Metrics over pooled tokens, weighted, undefined where they are undefined. Pure numpy.

Every metric but the average precision is a function of sums over tokens. It is written once, on an array of such sums
whose last axis names them, so that the score itself and the thousand resamples of its interval take the same path.
An undefined value is NaN inside the arrays and a `Metric` without a value, with its reason, at the edge.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# A variance below this share of the mean square is rounding, not variation: the side counts as constant. Sums of 10^5
# equal float64 numbers are off by some 1e-15 of it; a spread of float32 rounding (1e-7, squared) is below it, too.
FLAT = 1e-12

# A simulated value that rounds to at least 1 predicts that the feature fires.
FIRES = 0.5


@dataclass(frozen=True, slots=True)
class Metric:
    """A value, or None with the reason why there is none. A defined value may carry a remark as its reason."""

    value: float | None
    reason: str | None = None


def moments(true: Array, simulated: Array) -> Array:
    """Per token what `correlation` sums: 1, a, s, a², s², a·s. Shapes [n] and [n] to [n, 6]."""
    return np.stack([np.ones_like(true), true, simulated, true**2, simulated**2, true * simulated], axis=-1)


def correlation(sums: Array) -> Array:
    """Pearson's r of weighted sums of `moments` [..., 6]: [...], NaN where a side is constant or nothing weighs."""
    with np.errstate(divide="ignore", invalid="ignore"):
        a, s, aa, ss, cross = np.moveaxis(sums[..., 1:] / sums[..., :1], -1, 0)
        var_a, var_s = aa - a**2, ss - s**2
        flat = (sums[..., 0] <= 0) | (var_a <= FLAT * aa) | (var_s <= FLAT * ss)
        value = np.clip((cross - a * s) / np.sqrt(var_a * var_s), -1.0, 1.0)
    return np.where(flat, np.nan, value)


def difference_of_correlations(sums: Array) -> Array:
    """r of the first simulation minus r of the second, of weighted sums of both's `moments`, side by side [..., 12]."""
    return correlation(sums[..., :6]) - correlation(sums[..., 6:])


def residuals(true: Array, simulated: Array) -> Array:
    """Per token what the two uncentred measures sum: (a−s)², a², |a−s|, |a|. Shapes [n] and [n] to [n, 4]."""
    error = true - simulated
    return np.stack([error**2, true**2, np.abs(error), np.abs(true)], axis=-1)


def r2_of(sums: Array) -> Array:
    """R²u = 1 − Σ(a−s)²/Σa² of sums of `residuals` [..., 4]. NaN where a is zero throughout."""
    return 1.0 - _ratio(sums[..., 0], sums[..., 1])


def absdev_of(sums: Array) -> Array:
    """AbsDevu = 1 − Σ|a−s|/Σ|a| of sums of `residuals` [..., 4]. NaN where a is zero throughout."""
    return 1.0 - _ratio(sums[..., 2], sums[..., 3])


def confusion(firing: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> Array:
    """Per token what F1 sums: true positive, false positive, false negative. Shapes [n] and [n] to [n, 3]."""
    return np.stack([firing & predicted, ~firing & predicted, firing & ~predicted], axis=-1).astype(np.float64)


def f1_of(sums: Array) -> Array:
    """F1 = 2TP / (2TP + FP + FN) of sums of `confusion` [..., 3]. NaN where nothing fires."""
    true_positive, false_positive, false_negative = np.moveaxis(sums, -1, 0)
    value = _ratio(2 * true_positive, 2 * true_positive + false_positive + false_negative)
    return np.where(true_positive + false_negative > 0, value, np.nan)


def pearson(true: Array, simulated: Array, weights: Array | None = None) -> Metric:
    """Pearson's r over pooled tokens [n], weighted, signed. Undefined if a side is constant where weighed."""
    true, simulated, weights = _checked(true, simulated, weights)
    value = float(correlation(weights @ moments(true, simulated)))
    if not np.isnan(value):
        return Metric(value)
    if weights.sum() <= 0:
        return Metric(None, "no token has a weight")
    flat = [name for name, side in (("true", true), ("simulated", simulated)) if _is_flat(side, weights)]
    return Metric(None, f"the {' and the '.join(flat)} activations are constant")


def r2_uncentred(true: Array, simulated: Array, weights: Array | None = None) -> Metric:
    """1 − mean((a−s)²)/mean(a²) (Bills et al. 2023): both sides in the same units. Below 0 it is worse than silence."""
    true, simulated, weights = _checked(true, simulated, weights)
    return _defined(r2_of(weights @ residuals(true, simulated)), "the true activations are all zero")


def absdev_uncentred(true: Array, simulated: Array, weights: Array | None = None) -> Metric:
    """1 − mean|a−s|/mean|a| (Bills et al. 2023): both sides in the same units. Below 0 it is worse than silence."""
    true, simulated, weights = _checked(true, simulated, weights)
    return _defined(absdev_of(weights @ residuals(true, simulated)), "the true activations are all zero")


def f1(true: Array, simulated: Array, weights: Array | None = None) -> Metric:
    """F1 of "the simulated value is at least 0.5" for "the feature fires (a > 0)", over pooled tokens."""
    true, simulated, weights = _checked(true, simulated, weights)
    return _defined(f1_of(weights @ confusion(true > 0, simulated >= FIRES)), "no token fires")


def average_precision(true: Array, simulated: Array, weights: Array | None = None) -> Metric:
    """AUPRC of the simulated value for "the feature fires (a > 0)": Σ (R_k − R_(k−1)) · P_k over its distinct values.

    A simulator that knows nothing scores the base rate of firing tokens under the weights.
    """
    true, simulated, weights = _checked(true, simulated, weights)
    if not len(true):
        return Metric(None, "no token fires")
    return _defined(auprc(simulated, true > 0, weights), "no token fires")


def auprc(values: Array, truth: NDArray[np.bool_], weights: Array) -> Array:
    """Σ (R_k − R_(k−1)) · P_k over the distinct `values` [n], from the largest down, for `truth` [n].

    `weights` [..., n], not negative, one row for each resample: [...]. NaN where no true one has weight.
    """
    order = np.argsort(-values, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)
    ordered = weights[..., order]
    found, retrieved = (np.cumsum(part, axis=-1)[..., ends] for part in (ordered * truth[order], ordered))
    precision = np.divide(found, retrieved, out=np.zeros_like(found), where=retrieved > 0)
    gained = np.diff(found, axis=-1, prepend=0.0)
    return _ratio((gained * precision).sum(axis=-1), found[..., -1])


def auroc(values: Array, truth: NDArray[np.bool_], weights: Array) -> Array:
    """Area under the ROC curve of `values` [n] for `truth` [n]: how often a true one lies above a false one, ties by half.

    `weights` [..., n], not negative, one row for each resample: [...]. Only their ratios within a class matter. NaN where a class
    has no weight. A value that knows nothing scores 0.5. An interval: `Resampling.interval(partial(auroc, values, truth),
    np.diag(weights), value)`. Raises ValueError for values that are not finite.
    """
    if values.shape != truth.shape or values.ndim != 1 or weights.shape[-1:] != values.shape:
        raise ValueError(f"values of shape {values.shape}, truth {truth.shape}, weights {weights.shape}")
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite")
    true, false = weights[..., truth], weights[..., ~truth]
    if weights.ndim > 1:  # all pairs: for a thousand rows of a hundred values a tenth of the time that ranks take
        above = np.sign(values[truth][:, None] - values[~truth]) / 2 + 0.5
        return _ratio(((true @ above) * false).sum(axis=-1), true.sum(axis=-1) * false.sum(axis=-1))
    order = np.argsort(values[~truth], kind="stable")
    ordered, below = values[~truth][order], np.append(0.0, np.cumsum(false[order]))
    first, after = (np.searchsorted(ordered, values[truth], side=side) for side in ("left", "right"))
    return _ratio(true @ (below[first] + below[after]) / 2, true.sum() * false.sum())


def class_weights(truth: NDArray[np.bool_], strata: NDArray[np.integer]) -> Array:
    """Of each context 1 for its class (`truth` [n]), shared alike by the class's strata, and by the contexts within one: [n]."""
    weights = np.zeros(len(truth))
    for side in (True, False):
        present = np.unique(strata[truth == side])
        for stratum in present:
            members = (strata == stratum) & (truth == side)
            weights[members] = 1 / (len(present) * members.sum())
    return weights


def token_auroc(true: Array, simulated: Array, weights: Array | None = None) -> Metric:
    """`auroc` of the simulated value for "the feature fires (a > 0)", over pooled tokens."""
    true, simulated, weights = _checked(true, simulated, weights)
    fires = true > 0
    return _defined(auroc(simulated, fires, weights), "every token fires" if fires.any() else "no token fires")


def effective_sample_size(weights: Array) -> Metric:
    """(Σw)²/Σw²: the number of equally weighted contexts that would be as informative (Kish, 1965)."""
    square = float(np.sum(weights**2))
    return Metric(float(np.sum(weights)) ** 2 / square) if square > 0 else Metric(None, "no context has a weight")


def _checked(true: Array, simulated: Array, weights: Array | None) -> tuple[Array, Array, Array]:
    true, simulated = np.asarray(true, dtype=np.float64), np.asarray(simulated, dtype=np.float64)
    weights = np.ones_like(true) if weights is None else np.asarray(weights, dtype=np.float64)
    if true.ndim != 1 or true.shape != simulated.shape or true.shape != weights.shape:
        raise ValueError(f"pooled vectors of shapes {true.shape}, {simulated.shape}, weights {weights.shape}")
    if not (np.isfinite(true).all() and np.isfinite(simulated).all() and (weights >= 0).all()):
        raise ValueError("an activation is not finite or a weight is negative")
    return true, simulated, weights


def _is_flat(side: Array, weights: Array) -> bool:
    square = float(weights @ side**2)
    return square - float(weights @ side) ** 2 / float(weights.sum()) <= FLAT * square


def _ratio(numerator: Array, denominator: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Array = np.where(denominator > 0, numerator / denominator, np.nan)
    return ratio


def _defined(value: Array, otherwise: str) -> Metric:
    return Metric(None, otherwise) if np.isnan(value) else Metric(float(value))
