"""The scores of one feature as its page shows them: by label, then by scorer, the main metric first, controls beside it."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from autointerp.catalog.controls import CHECKS
from autointerp.catalog.main_metrics import main_of
from autointerp.catalog.page_rows import LabelRow, ScoreRow
from autointerp.catalog.pages import FeatureRow
from autointerp.report.controls import control_name
from autointerp.report.figures import figure, shown
from autointerp.report.text import visible
from autointerp.score.calibration import NOT_ASKED_FOR
from autointerp.score.controls import SHUFFLED
from autointerp.score.evidence_controls import chance
from autointerp.score.scoreboard import COMPANIONS, companions_of
from autointerp.score.verdicts import NO_PROBABILITIES

Mains = Mapping[tuple[str, str], bool]
"""(scorer, metric), as `main_metrics` has them: the one that ranks first."""
_NOT_ASKED_FOR = (NO_PROBABILITIES, NOT_ASKED_FOR.reason)


def by_label(
    row: FeatureRow, scores: Sequence[ScoreRow], labels: Sequence[LabelRow], mains: Mains
) -> list[dict[str, Any]]:
    """The catalog's label first, with what is said of the feature itself; then other labels. Metrics that nobody asked for are
    left out."""
    own = row.explanation_id or ""
    wanted = [score for score in scores if score.control not in CHECKS and score.reason not in _NOT_ASKED_FOR]
    controls: dict[tuple[str, str, str], dict[str, float | None]] = {}
    for score in wanted:
        if score.control:
            of = controls.setdefault((score.scorer, score.simulator, score.metric), {})
            of[score.control] = figure(score.value)
    names = {label.explanation_id: label for label in labels}
    found: dict[str, list[ScoreRow]] = {}
    for score in wanted:
        if not score.control:
            found.setdefault(score.explanation_id or own, []).append(score)
    order = sorted(found, key=lambda explanation: (explanation != own, explanation))
    return [
        _label(names.get(one), one == own, _by_scorer(found[one], controls if one == own else {}, mains))
        for one in order
    ]


def _label(label: LabelRow | None, in_catalog: bool, scorers: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "label": shown(label.explainer) if label else None,
        "model": shown(label.model) if label else None,
        "shown": in_catalog,
        "scorers": scorers,
    }


def _by_scorer(
    scores: Sequence[ScoreRow], controls: Mapping[tuple[str, str, str], dict[str, float | None]], mains: Mains
) -> list[dict[str, Any]]:
    places = {scorer: place for place, (scorer, _) in reversed(list(enumerate(mains)))}

    def by(score: ScoreRow) -> tuple[int, str, str]:
        return places.get(score.scorer, len(places)), score.scorer, score.simulator

    blocks = []
    for (_, scorer, simulator), group in groupby(sorted(scores, key=by), by):
        rows = {score.metric: score for score in group}
        firsts = [metric for name, metric in mains if name == scorer and metric in rows] or [main_of(sorted(rows))]
        others = sorted(metric for metric in rows if metric not in COMPANIONS and metric not in firsts)
        lines = [
            _line(rows[one], rows, controls.get((scorer, simulator, one), {}), main=one in firsts)
            for one in (*firsts, *others)
        ]
        first = rows[firsts[0]]
        blocks.append({"scorer": visible(scorer), "simulator": visible(simulator), "ok": first.n_ok, "failed": first.n_failed,
                       "label": bool(first.explanation_id), "metrics": lines})  # fmt: skip
    return blocks


def _line(
    score: ScoreRow, beside: Mapping[str, ScoreRow], controls: Mapping[str, float | None], *, main: bool
) -> dict[str, Any]:
    """One metric; a main one with all its controls, others with the shuffled label's."""
    value = figure(score.value)
    known = chance(score.metric)
    companion = next((beside[name] for name in companions_of(score.metric) if name in beside), None)
    return {
        "metric": visible(score.metric),
        "value": value,
        "lo": figure(score.lo),
        "hi": figure(score.hi),
        "chance": figure(companion.value) if known is None and companion else known,
        "shuffled": controls.get(SHUFFLED),
        "others": {control_name(name): value for name, value in controls.items() if main and name != SHUFFLED},
        "problem": None if value is not None else visible(f"{score.status}: {score.reason or 'no reason recorded'}"),
        "note": shown(score.reason) if value is not None else None,
    }
