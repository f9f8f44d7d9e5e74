"""Rows of the catalog for metrics of weighted items (contexts, verdicts, texts): value, interval, reasons. Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autointerp.score import ScoreRow, bootstrap

Array = NDArray[np.float64]
OfWeights = Callable[[Array], Array]
"""Weights [..., n] of the items to the metric [...]; NaN where it is undefined."""
OfSums = Callable[[Array], Array]
"""Sums [..., K] over the items to the metric [...]; NaN where it is undefined."""
NO_WIDTH = "nothing varies within strata, so the interval has no width"
_ROUNDING = 1e-9  # an interval that is narrower has no width but that of the order of additions


@dataclass(frozen=True, slots=True)
class Resamples:
    """How intervals are drawn. `seed` is the feature's own."""

    seed: int
    count: int = 1000


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many of the `things` that were asked about came to something, how many failed, and why one did."""

    n_ok: int
    n_failed: int = 0
    failure: str | None = None
    things: str = "contexts"


@dataclass(frozen=True, slots=True)
class Items:
    """What a metric is computed from: each usable item's weight [n] and stratum [n]; and what became of the others."""

    weights: Array
    strata: NDArray[np.int64]
    n_failed: int = 0
    failure: str | None = None
    things: str = "contexts"


def weighted_row(
    name: str, metric: OfWeights, items: Items, undefined: str, draws: Resamples, sides: Sequence[Iterable[int]] = ()
) -> ScoreRow:
    """The row of a function of the items' weights. `undefined`: why it has no value, where it has none. `sides`: see
    `interval_of`."""
    outcome = Outcome(len(items.weights), items.n_failed, items.failure, items.things)
    return row_of_sums(name, metric, np.diag(items.weights), items.strata, outcome, undefined, draws, sides)


def row_of_sums(
    name: str,
    metric: OfSums,
    sums: Array,
    strata: NDArray[np.int64],
    outcome: Outcome,
    undefined: str,
    draws: Resamples,
    sides: Sequence[Iterable[int]] = (),
    note: str | None = None,
) -> ScoreRow:
    """The row of a function of weighted sums over items, which are `sums` [n, K] in `strata` [n]. `note`: a remark on a value."""
    if not outcome.n_ok and outcome.n_failed:
        return failed_row(name, outcome.n_failed, outcome.failure, outcome.things)
    value = float(metric(sums.sum(axis=0))) if outcome.n_ok else float("nan")
    if np.isnan(value):
        return ScoreRow(name, None, None, None, outcome.n_ok, outcome.n_failed, "undefined", undefined)
    interval = interval_of(metric, strata, sums, value, draws, sides, outcome.things)
    remark = "; ".join(filter(None, (note, interval.reason))) or None
    return ScoreRow(name, value, interval.lo, interval.hi, outcome.n_ok, outcome.n_failed, "ok", remark)


def failed_row(name: str, n_failed: int, reason: str | None, things: str = "contexts") -> ScoreRow:
    """Where nothing was answered."""
    return ScoreRow(
        name, None, None, None, 0, n_failed, "failed", f"all {n_failed} {things} failed, for instance: {reason}"
    )


def interval_of(
    metric: OfSums, strata: NDArray[np.int64], sums: Array, value: float, draws: Resamples,
    sides: Sequence[Iterable[int]] = (), things: str = "contexts",
) -> bootstrap.Interval:  # fmt: skip
    """The interval of `metric` around `value`, with what there is to remark; none where all strata of a side hold one item each.

    `sides`: strata by class; without, all are one side.
    """
    resampling = bootstrap.Resampling(strata, draws.count, draws.seed)
    alone, present = set(resampling.singletons), set(strata.tolist())
    if any(side and side <= alone for side in (present & set(given) for given in sides or [present])):
        return bootstrap.Interval(None, None, 0, f"no interval: too few {things} to tell how the score varies")
    interval = resampling.interval(metric, sums, value)
    is_flat = interval.lo is not None and interval.hi is not None and interval.hi - interval.lo < _ROUNDING
    notes = (interval.reason, NO_WIDTH if is_flat else None)
    return bootstrap.Interval(interval.lo, interval.hi, interval.undefined, "; ".join(filter(None, notes)) or None)


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
