"""The report's data as the browser reads it: an index of all features, and blocks that are inflated on demand.

The index is plain JSON. Details, windows and the dictionary are JSON, deflated (zlib) and in base64, in blocks of
DETAIL_BLOCK features and WINDOW_BLOCK windows. Every window is held once, as numbers of dictionary tokens, whatever
number of features show it. Activations keep their positions and are rounded to whole percent of the feature's maximum
(at least 1); simulated values to tenths of the 0..10 scale.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from autointerp.catalog.descriptors import Descriptors, HardNegative
from autointerp.catalog.label_details import LabelDetails
from autointerp.catalog.page_rows import ContextRow, FeaturePage, LabelRow, Window
from autointerp.catalog.pages import FeatureRow
from autointerp.catalog.steered import SteeredToken
from autointerp.report.blocks import DETAIL_BLOCK, Dictionary
from autointerp.report.feature_scores import Mains, by_label
from autointerp.report.figures import figure, shown
from autointerp.report.text import visible

_SALIENT = 5


def problem(row: FeatureRow) -> str | None:
    """Why the feature has no score, in words; None where it has one."""
    if row.score is not None and math.isfinite(row.score):
        return None
    if row.score is not None:
        return "undefined: the score is not a finite number"
    if row.score_status in ("undefined", "failed"):
        return visible(f"{row.score_status}: {row.score_reason or 'no reason recorded'}")
    if row.explanation_status == "failed":
        return visible(f"no label: {row.explanation_reason or 'no reason recorded'}")
    if row.flag == "dead":
        return "dead: never fires"
    if row.explanation_status is None:
        return "not labelled: too rare" if row.flag == "rare" else "not labelled"
    return "not scored"


def index(rows: Sequence[FeatureRow], salient: Mapping[int, Sequence[str]]) -> dict[str, Any]:
    """The table's columns, one list each, in the catalog's order. `detail` numbers the block of the feature's page."""
    order = {row.feature_id: place for place, row in enumerate(sorted(rows, key=lambda row: row.feature_id))}
    return {
        "id": [row.feature_id for row in rows],
        "detail": [order[row.feature_id] // DETAIL_BLOCK for row in rows],
        "rank": [row.rank for row in rows],
        "rankLo": [row.rank_lo for row in rows],
        "rankHi": [row.rank_hi for row in rows],
        "title": [shown(row.title) for row in rows],
        "description": [shown(row.description) for row in rows],
        "kind": [shown(row.kind) for row in rows],
        "score": [figure(row.score) for row in rows],
        "lo": [figure(row.lo) for row in rows],
        "hi": [figure(row.hi) for row in rows],
        "problem": [problem(row) for row in rows],
        "shuffled": [figure(row.shuffled) for row in rows],
        "detection": [figure(row.balanced_accuracy) for row in rows],
        "detectionLo": [figure(row.balanced_accuracy_lo) for row in rows],
        "detectionHi": [figure(row.balanced_accuracy_hi) for row in rows],
        "gain": [figure(row.lexical_gain) for row in rows],
        "gainLo": [figure(row.lexical_gain_lo) for row in rows],
        "gainHi": [figure(row.lexical_gain_hi) for row in rows],
        "density": [figure(row.density) for row in rows],
        "max": [figure(row.max_activation) for row in rows],
        "flag": [row.flag for row in rows],
        "tokens": [list(salient.get(row.feature_id, ())) for row in rows],
    }


def detail(row: FeatureRow, page: FeaturePage, dictionary: Dictionary, mains: Mains) -> dict[str, Any]:
    """What the page of one feature shows beside its row of the index. `mains`: the scorers' main metrics."""

    def outputs(side: str) -> list[list[float | None]]:
        return [[dictionary.token(o.token), figure(o.logit)] for o in page.output_tokens if o.side == side]

    return {
        "id": row.feature_id,
        "explainer": shown(row.explainer),
        "model": shown(row.model),
        **_details(page.details),
        "metric": row.metric,
        "contextsOk": row.n_ok,
        "contextsFailed": row.n_failed,
        "firingTokens": row.n_tokens,
        "firingWindows": row.n_windows,
        "firingDocuments": row.n_documents,
        "mean": figure(row.mean_activation),
        "descriptors": _descriptors(page.descriptors, dictionary) if page.descriptors else None,
        "contexts": [
            _context(context, row.max_activation, dictionary)
            for context in page.contexts
            if context.window_id in dictionary.windows
        ],
        "histogram": [[b.bin, b.band, b.n_windows] for b in page.histogram],
        "promoted": outputs("promoted"),
        "suppressed": outputs("suppressed"),
        "steered": _steered(page.steered, dictionary),
        "neighbours": [[n.neighbour_id, figure(n.cosine)] for n in page.neighbours],
        "cofiring": [[n.neighbour_id, n.n_both, figure(n.jaccard)] for n in page.cofiring],
        "negatives": [_negative(n, dictionary) for n in page.negatives if n.window_id in dictionary.windows],
        "note": shown(row.score_reason) if row.score is not None else None,
        "scores": by_label(row, page.scores, page.labels, mains),
        "labels": sorted(
            (_label(label, label.explanation_id == row.explanation_id) for label in page.labels),
            key=lambda label: not label["shown"],
        ),
    }


def _details(known: LabelDetails | None) -> dict[str, Any]:
    if known is None:
        return {"confidence": None, "safety": [], "output": None}
    title = shown(known.output_title)
    output = {"title": title, "description": shown(known.output_description), "agrees": known.sides_agree}
    return {
        "confidence": shown(known.confidence),
        "safety": [visible(tag) for tag in known.safety or ()],
        "output": output if title else None,
    }


def _descriptors(known: Descriptors, dictionary: Dictionary) -> dict[str, Any]:
    return {
        "top": None if known.top_token is None else dictionary.token(known.top_token),
        "share": figure(known.top_token_share, 3),
        "entropy": figure(known.token_entropy, 3),
        "position": figure(known.position_dependence, 3),
        "peaks": [figure(peak, 3) for peak in (known.peak_p50, known.peak_p90, known.peak_p99)],
    }


def _steered(rows: Sequence[SteeredToken], dictionary: Dictionary) -> dict[str, Any] | None:
    """What steering changed, and how strongly it was done; None where nobody did."""
    if not rows:
        return None
    sides = {name: [[dictionary.token(row.token), figure(row.change)] for row in rows if row.direction == name]
             for name in ("up", "down")}  # fmt: skip
    return {**sides, "kl": figure(rows[0].kl, 2), "strength": figure(rows[0].strength, 2)}


def _negative(negative: HardNegative, dictionary: Dictionary) -> dict[str, Any]:
    """`cause` is a feature's id (near) or a number of the dictionary (token); `at` is its place in the window."""
    return {
        "kind": negative.kind,
        "split": negative.split,
        "window": dictionary.windows[negative.window_id],
        "cause": dictionary.token(negative.cause) if negative.kind == "token" else negative.cause,
        "at": negative.cause_position,
    }


def _label(label: LabelRow, in_catalog: bool) -> dict[str, Any]:
    return {
        "explainer": shown(label.explainer),
        "model": shown(label.model),
        "title": shown(label.title),
        "shown": in_catalog,
        "problem": None if label.status == "ok" else visible(f"{label.status}: {label.reason or 'no reason recorded'}"),
    }


def _context(context: ContextRow, maximum: float, dictionary: Dictionary) -> dict[str, Any]:
    return {
        "kind": context.kind,
        "split": context.split,
        "band": context.band,
        "peak": figure(context.peak),
        "window": dictionary.windows[context.window_id],
        "positions": context.positions,
        "percent": [_percent(a, maximum) for a in context.activations],
        "simulated": simulated(context.expected) if context.simulation == "ok" else None,
        "failed": visible(context.simulation_reason or "no reason") if context.simulation == "failed" else None,
        "evidence": context.evidence,
        "duplicate": context.duplicate,
    }


def _percent(activation: float, maximum: float) -> int:
    """Whole percent of the feature's maximum; a token that fires never rounds to 0."""
    return min(100, max(1, round(100 * activation / maximum))) if activation > 0 and maximum > 0 else 0


def simulated(expected: Sequence[float] | None) -> list[int | None]:
    """Tenths of the 0..10 scale, one a token; None where the simulator gave no number."""
    return [min(100, max(0, round(10 * e))) if math.isfinite(e) else None for e in expected or ()]


def salient_tokens(page: FeaturePage, windows: Mapping[int, Window]) -> list[int]:
    """The token ids that carry most of the activation in the page's top contexts, strongest first."""
    weight: defaultdict[int, float] = defaultdict(float)
    for context in page.contexts:
        if context.kind == "top" and context.window_id in windows:
            tokens = windows[context.window_id].tokens
            for position, activation in zip(context.positions, context.activations, strict=True):
                weight[tokens[position]] += activation
    ordered = sorted(weight, key=lambda token: (-weight[token], token))
    return ordered[:_SALIENT]
