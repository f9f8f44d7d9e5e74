"""A reliability study as tables, Markdown and JSON."""

import json
from dataclasses import asdict

import numpy as np

from autointerp.errors import UserError
from autointerp.evaluate.reliability import Study
from autointerp.evaluate.tables import Table, markdown_table
from autointerp.evaluate.variance import Component, Reliability, reliability

_NONE = "–"
_MEANING = {
    "feature": "features: what scores are to tell",
    "simulator": "simulators: one scores all features higher",
    "feature x simulator": "simulators order features otherwise",
    "contexts": "draw of contexts",
    "explanation": "sample of the explanation",
    "contexts x explanation": "contexts and explanation together",
    "contexts x simulator": "contexts and simulator together",
    "explanation x simulator": "explanation and simulator together",
    "rest": "the rest",
}


def analysed(study: Study, seed: int) -> Reliability:
    """The components, of the features that have all scores. Raises UserError where there are fewer than two."""
    whole = study.scores[study.complete]
    if len(whole) < 2:
        most = max(study.reasons.items(), key=lambda item: item[1], default=("answers are under way", 0))
        raise UserError(f"{len(whole)} of {len(study.features)} features have all their scores; mostly: {most[0]}")
    return reliability(whole, seed=seed)


def heading(study: Study) -> str:
    """What was crossed, on one line."""
    _, draws, samples, _ = study.scores.shape
    model = f" ({study.model})" if study.model else ""
    return (
        f"{study.metric}: {int(study.complete.sum()):,} of {len(study.features):,} features with all scores × {draws} draws of "
        f"contexts × {samples} explanations by {study.explainer}{model} × {' / '.join(by.name for by in study.simulators)}"
    )


def tables(study: Study, found: Reliability) -> list[Table]:
    """Components, reliabilities, and the simulators' means."""
    rows = [[_MEANING[source], *_cells(one)] for source, one in found.components.items()]
    parts = [Table("Where the variance is from", ["source", "variance", "share", "95 % interval"], rows)]
    iccs = [["one score", *_cells(found.icc)[1:]], ["mean of all its scores", *_cells(found.icc_mean)[1:]]]
    parts.append(Table("Reliability: the features' share", ["of a feature", "ICC", "95 % interval"], iccs))
    means = study.scores[study.complete].mean(axis=(0, 1, 2))
    rows = [[by.name, f"{mean:.3f}"] for by, mean in zip(study.simulators, means, strict=True)]
    return [*parts, Table("Simulators", ["simulator", f"mean {study.metric}"], rows)]


def _cells(one: Component) -> list[str]:
    variance = _NONE if one.variance is None else f"{one.variance:.5f}"
    share = _NONE if one.share is None else f"{one.share:.1%}"
    interval = _NONE if one.lo is None or one.hi is None else f"{one.lo:.1%} … {one.hi:.1%}"
    return [variance, share, interval]


def notes(study: Study, found: Reliability) -> list[str]:
    """What the tables cannot say by themselves, a sentence each."""
    said = [f"a draw: up to {study.per_band} contexts a band and {study.silent} silent ones, half of what there is at most",
            "shares leave the simulators' own variance out, since it moves all features alike; negative estimates count as 0",
            "intervals: features resampled"]  # fmt: skip
    if missing := [_MEANING[source] for source, one in found.components.items() if one.variance is None]:
        said.append(f"not crossed, so not told apart: {'; '.join(missing)}")
    lost = len(study.features) - int(study.complete.sum())
    if lost:
        why = "; ".join(
            f"{reason} ({count})" for reason, count in sorted(study.reasons.items(), key=lambda x: -x[1])[:3]
        )
        said.append(
            f"{lost:,} features lack scores and are left out, so the others may be easier: {why or 'answers are under way'}"
        )
    return said


def markdown(study: Study, found: Reliability) -> str:
    """A page."""
    parts = ["# Reliability of scores", heading(study), *(markdown_table(table) for table in tables(study, found))]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes(study, found))]) + "\n"


def as_json(study: Study, found: Reliability) -> str:
    """Everything, with each score (null where there is none)."""
    scores = study.scores.astype(object)
    scores[~np.isfinite(study.scores)] = None
    data = {
        "explainer": study.explainer, "model": study.model, "simulators": [asdict(by) for by in study.simulators],
        "metric": study.metric, "features": study.features, "scores": scores.tolist(), "reasons": study.reasons,
        "per_band": study.per_band, "silent": study.silent, "reliability": asdict(found),
    }  # fmt: skip
    return json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
