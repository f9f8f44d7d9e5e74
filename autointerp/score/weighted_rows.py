"""Rows of the catalog for metrics that are functions of one weight an item (a context, a text): value, interval, reasons."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autointerp.score import ScoreRow, bootstrap

Array = NDArray[np.float64]
OfWeights = Callable[[Array], Array]
"""Weights [..., n] of the items to the metric [...]; NaN where it is undefined."""


@dataclass(frozen=True, slots=True)
class Items:
    """What a metric is computed from: each usable item's weight [n] and stratum [n]; how many failed, and why one did."""

    weights: Array
    strata: NDArray[np.int64]
    n_failed: int = 0
    failure: str | None = None


def weighted_row(
    name: str,
    metric: OfWeights,
    items: Items,
    undefined: str,
    *,
    seed: int,
    resamples: int,
    sides: Sequence[Sequence[int]] = (),
) -> ScoreRow:
    """The row of a metric. `undefined`: why it has no value, where it has none. `sides`: groups of strata each of which must have
    some variation for there to be an interval.
    """
    n_ok = len(items.weights)
    if not n_ok and items.n_failed:
        reason = f"all {items.n_failed} failed, for instance: {items.failure}"
        return ScoreRow(name, None, None, None, 0, items.n_failed, "failed", reason)
    value = float(metric(items.weights)) if n_ok else float("nan")
    if np.isnan(value):
        return ScoreRow(name, None, None, None, n_ok, items.n_failed, "undefined", undefined)
    resampling = bootstrap.Resampling(items.strata, resamples, seed)
    interval = _interval(metric, items, resampling, value, sides)
    notes = [interval.reason]
    if interval.lo is not None and interval.lo == interval.hi:
        notes.append("nothing varies within strata, so the interval has no width")
    remark = "; ".join(filter(None, notes)) or None
    return ScoreRow(name, value, interval.lo, interval.hi, n_ok, items.n_failed, "ok", remark)


def _interval(
    metric: OfWeights, items: Items, resampling: bootstrap.Resampling, value: float, sides: Sequence[Sequence[int]]
) -> bootstrap.Interval:
    alone = set(resampling.singletons)
    present = set(items.strata.tolist())
    if any(found and found <= alone for found in (present & set(side) for side in sides or [sorted(present)])):
        return bootstrap.Interval(None, None, 0, "no interval: too few items to tell how the score varies")
    return resampling.interval(metric, np.diag(items.weights), value)


def share(chosen: NDArray[np.bool_], among: NDArray[np.bool_]) -> OfWeights:
    """The weighted share of those `among` that are `chosen`."""

    def of(weights: Array) -> Array:
        whole = (weights * among).sum(axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Array = np.where(whole > 0, (weights * (chosen & among)).sum(axis=-1) / whole, np.nan)
        return found

    return of


def mean(values: Array, among: NDArray[np.bool_]) -> OfWeights:
    """The weighted mean of the `values` [n] of those `among`."""

    def of(weights: Array) -> Array:
        whole = (weights * among).sum(axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Array = np.where(whole > 0, (weights * among) @ values / whole, np.nan)
        return found

    return of
