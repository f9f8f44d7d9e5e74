"""How well a value that each context was given separates active contexts from silent ones: AUROC, against each kind of negatives.

For scorers whose model says no yes or no but gives a number. Bands weigh alike, and so do the two classes, as for detection.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from autointerp.catalog.records import Context, FeatureEvidence
from autointerp.hashing import stable_hash
from autointerp.score import Judged, ScoreRow
from autointerp.score.detection import NEGATIVES, judged_contexts
from autointerp.score.metrics import auroc, class_weights
from autointerp.score.weighted_rows import Items, Resamples, weighted_row


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
    draws = Resamples(stable_hash(scorer, seed, evidence.feature_id), resamples)
    rows = []
    for kind in NEGATIVES:
        chosen = [one for one in judged if one.kind in ("band", kind)]
        if kind == NEGATIVES[0] or any(one.kind == kind for one in chosen):
            name = "auroc" if kind == NEGATIVES[0] else f"auroc_{kind}"
            rows.append(_row(name, chosen, bands, draws))
    return rows


def _row(name: str, judged: Sequence[Judged], bands: Mapping[tuple[int, str], int], draws: Resamples) -> ScoreRow:
    ok = [one for one in judged if one.value is not None]
    failures = [one for one in judged if one.value is None]
    values = np.array([one.value for one in ok], dtype=np.float64)
    truth = np.array([one.truth for one in ok], dtype=bool)
    strata = np.array([bands[one.window_id, one.kind] for one in ok], dtype=np.int64)
    items = Items(class_weights(truth, strata), strata, len(failures), failures[0].reason if failures else None)
    sides = [np.unique(strata[truth == side]).tolist() for side in (True, False)]
    undefined = f"no {'silent' if truth.any() else 'activating'} context has a value"
    return weighted_row(name, partial(auroc, values, truth), items, undefined, draws, sides)
