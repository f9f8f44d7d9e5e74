"""How well a value that each context was given separates active contexts from silent ones: AUROC, against each kind of negatives.

For scorers whose model says no yes or no but gives a number. Bands weigh alike, and so do the two classes, as for detection.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from autointerp.catalog.records import Context, FeatureEvidence
from autointerp.hashing import stable_hash
from autointerp.score import Judged, ScoreRow
from autointerp.score.bootstrap import Interval, Resampling
from autointerp.score.detection import NEGATIVES, judged_contexts
from autointerp.score.metrics import auroc, class_weights


@dataclass(frozen=True, slots=True)
class Unusable:
    """In place of what a context's value is made from: why there is none. (`all_asked` raises what is an exception.)"""

    reason: str


def valued(context: Context, value: float | Unusable) -> Judged:
    """A context with its value, or failed."""
    truth = context.peak > 0
    if isinstance(value, Unusable):
        return Judged(context.window_id, context.kind, truth, None, "failed", value.reason)
    return Judged(context.window_id, context.kind, truth, None, "ok", value=value)


def score_separation(
    scorer: str, evidence: FeatureEvidence, judged: Sequence[Judged], *, seed: int = 0, resamples: int = 1000
) -> list[ScoreRow]:
    """`auroc` of the values of a feature's contexts against random silent windows, then `auroc_near` and `auroc_token` against
    each kind of hard negatives that was judged.

    Raises ValueError for a context that is not to be judged.
    """
    bands = {(context.window_id, context.kind): context.band for context in judged_contexts(evidence)}
    unknown = [one for one in judged if (one.window_id, one.kind) not in bands]
    if unknown:
        raise ValueError(
            f"window {unknown[0].window_id} ({unknown[0].kind}) is no context of feature {evidence.feature_id}"
        )
    draw = stable_hash(scorer, seed, evidence.feature_id)
    rows = []
    for kind in NEGATIVES:
        chosen = [one for one in judged if one.kind in ("band", kind)]
        if kind == NEGATIVES[0] or any(one.kind == kind for one in chosen):
            name = "auroc" if kind == NEGATIVES[0] else f"auroc_{kind}"
            strata = np.array([bands[one.window_id, one.kind] for one in chosen], dtype=np.int64)
            rows.append(_row(name, chosen, strata, draw, resamples))
    return rows


def _row(name: str, judged: Sequence[Judged], strata: NDArray[np.int64], seed: int, resamples: int) -> ScoreRow:
    ok = np.array([one.value is not None for one in judged], dtype=bool)
    failures = [one for one in judged if one.value is None]
    n_ok, n_failed = int(ok.sum()), len(failures)
    if not n_ok and n_failed:
        reason = f"all {n_failed} contexts failed, for instance: {failures[0].reason}"
        return ScoreRow(name, None, None, None, 0, n_failed, "failed", reason)
    values = np.array([one.value for one in judged if one.value is not None], dtype=np.float64)
    truth = np.array([one.truth for one in judged], dtype=bool)[ok]
    strata = strata[ok]
    weights = class_weights(truth, strata)
    value = float(auroc(values, truth, weights))
    if np.isnan(value):
        missing = "activating" if not truth.any() else "silent"
        return ScoreRow(name, None, None, None, n_ok, n_failed, "undefined", f"no {missing} context has a value")
    interval = _interval(values, truth, strata, weights, value, seed, resamples)
    notes = [interval.reason]
    if interval.lo is not None and interval.lo == interval.hi:
        notes.append("every resample separates alike, so the interval has no width")
    return ScoreRow(name, value, interval.lo, interval.hi, n_ok, n_failed, "ok", "; ".join(filter(None, notes)) or None)


def _interval(
    values: NDArray[np.float64],
    truth: NDArray[np.bool_],
    strata: NDArray[np.int64],
    weights: NDArray[np.float64],
    value: float,
    seed: int,
    resamples: int,
) -> Interval:
    resampling = Resampling(strata, resamples, seed)
    sides = [set(strata[truth == side].tolist()) for side in (True, False)]
    if any(side <= set(resampling.singletons) for side in sides):
        return Interval(None, None, 0, "no interval: too few contexts to tell how the score varies")
    return resampling.interval(partial(auroc, values, truth), np.diag(weights), value)
