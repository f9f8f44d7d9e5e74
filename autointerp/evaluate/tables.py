"""Findings as a table, as Markdown and as JSON. Pure text; nothing is computed here."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from autointerp.evaluate.grades import GOOD, Estimate, Grade, grades, judge_accuracy
from autointerp.evaluate.planted import FALSEHOODS
from autointerp.evaluate.suite import METRIC, Finding, Findings, Outcome, Scored
from autointerp.reasons import alike, in_short

_NONE = "–"


def heading(findings: Findings) -> str:
    """What was evaluated, on one line."""
    model = f", model {findings.model}" if findings.model else ""
    judge = f", judge {findings.judge}" if findings.judge else ""
    return f"explainer {findings.explainer}, simulator {findings.simulator}{model}{judge}"


@dataclass(frozen=True, slots=True)
class Table:
    """Column names, and rows: one a family and one of all."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(findings: Findings) -> list[Table]:
    """The labels' grades; and the simulator's, where it was tested."""
    found = grades(findings)
    header = ["family", "features", "n_ok", "n_failed", "r", "n_undefined", f"r ≥ {GOOD:g}", "false alarms"]
    header += ["judged the same", "verdicts", "unjudged"] if findings.judge else []
    shown = [Table("By family: labels", header, [_label_cells(findings, grade) for grade in found])]
    if findings.scorer_tested:
        header = ["family", "r of the true label", "true label first", *(f"above {sort}" for sort in FALSEHOODS)]
        rows = [_simulator_cells(grade) for grade in found]
        shown.append(Table("By family: simulator", [*header, "n_ok", "n_failed"], rows))
    return shown


def _label_cells(findings: Findings, grade: Grade) -> list[str]:
    failed = f"{grade.n_failed}" + (f" (+ {grade.n_waiting} waiting)" if grade.n_waiting else "")
    undefined = f"{grade.n_undefined}" + (f" (+ {grade.n_unscored} failed)" if grade.n_unscored else "")
    cells = [grade.family, f"{grade.n_features}", f"{grade.n_ok}", failed, _text(grade.r), undefined, _text(grade.good),
             _text(grade.false_alarms)]  # fmt: skip
    if findings.judge:
        cells += [_text(grade.same), "/".join(str(count) for count in grade.verdicts.values()), f"{grade.n_unjudged}"]
    return cells


def _simulator_cells(grade: Grade) -> list[str]:
    beaten = (_text(grade.beaten[sort]) for sort in FALSEHOODS)
    counts = (f"{grade.n_features - grade.n_unranked}", f"{grade.n_unranked}")
    return [grade.family, _text(grade.true_r), _text(grade.first), *beaten, *counts]


def notes(findings: Findings) -> list[str]:
    """What the table cannot say by itself, a sentence each."""
    said = [f"r is {METRIC} on the test split, a mean over features with a 95 % bootstrap interval over features",
            "false alarms: share of the near misses of the test split in which the label's simulation fires"]  # fmt: skip
    if not findings.scorer_tested:
        said.append(
            f"the simulator {findings.simulator} predicts from a rule, not from text: that true labels score above false ones "
            "is not tested; that needs a model (--simulator logprob_free --provider … --label-model …)"
        )
    if findings.judge is None:
        said.append("no model was given, so nobody judged whether labels mean what the true ones mean")
    else:
        said.append("verdicts are counts of same/broader/narrower/other")
    if findings.scorer_tested:
        said.append(
            "true label first: its r is above that of all three false labels; by chance in 0.25 of the features"
        )
    accuracy = judge_accuracy(findings)
    if any(estimate.n for estimate in accuracy.values()):
        parts = ", ".join(f"{sort} {_text(estimate)}" for sort, estimate in accuracy.items())
        said.append(f"the judge recognised the false labels for what they are: {parts}")
    for what, reasons in _failures(findings).items():
        said.append(f"{what} failed: {in_short(alike(reasons))}")
    if any(one.label is None for one in findings.features):
        said.append("answers are still under way; run the same command again")
    return said


def _failures(findings: Findings) -> dict[str, list[str]]:
    """What did not come about, with the reasons."""
    reasons: dict[str, list[str]] = {}
    for one in findings.features:
        outcomes: list[tuple[str, Outcome[Any] | None]] = [("labels", one.label)]
        outcomes += [("simulations", outcome) for outcome in one.scores.values()]
        outcomes += [("verdicts", outcome) for outcome in one.verdicts.values()]
        for what, outcome in outcomes:
            if outcome is not None and outcome.reason is not None:
                reasons.setdefault(what, []).append(outcome.reason)
    return {f"{len(found):,} {what}": found for what, found in reasons.items()}


def markdown(findings: Findings) -> str:
    """The table and the labels of all features, as a page."""
    lines = ["# Planted features", "", heading(findings), ""]
    for one in tables(findings):
        lines += [markdown_table(one), ""]
    lines += [f"- {note}" for note in notes(findings)]
    details = [[one.feature.id, one.feature.label.title, *_details(one)] for one in findings.features]
    lines += ["", "## Labels", "", *_markdown_table(["feature", "true title", "title", "r", "verdict"], details), ""]
    return "\n".join(lines)


def _details(finding: Finding) -> list[str]:
    label, score, verdict = finding.label, finding.scores.get("label"), finding.verdicts.get("label")
    title = _NONE if label is None else label.value.title if label.value else f"failed: {label.reason}"
    r = score.value.row.value if score is not None and score.value is not None else None
    judged = _NONE if verdict is None else verdict.value.verdict if verdict.value else "failed"
    return [title, _NONE if r is None else f"{r:.3f}", judged]


def markdown_table(table: Table) -> str:
    """The table as Markdown, under its title."""
    return "\n".join([f"## {table.title}", "", *_markdown_table(table.header, table.rows)])


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines]


def _cell(text: str) -> str:
    """A model's words stay within their cell, and are no markup."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")


def as_json(findings: Findings) -> str:
    """Everything: settings, grades, and what was found of each feature."""
    settings = {
        "explainer": findings.explainer, "simulator": findings.simulator, "model": findings.model, "judge": findings.judge,
        "metric": METRIC, "seed": findings.seed,
    }  # fmt: skip
    data = {
        "settings": settings,
        "grades": [asdict(grade) for grade in grades(findings)],
        "judge_accuracy": {sort: asdict(found) for sort, found in judge_accuracy(findings).items() if found.n},
        "features": [_feature(finding) for finding in findings.features],
    }
    return json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _feature(finding: Finding) -> dict[str, Any]:
    feature, label = finding.feature, finding.label
    found: dict[str, Any] = {"id": feature.id, "family": feature.family,
                             "true": {"title": feature.label.title, "description": feature.label.description}}  # fmt: skip
    if label is not None and label.value is not None:
        found["label"] = {
            "title": label.value.title,
            "description": label.value.description,
            "kind": label.value.kind,
        }
    elif label is not None:
        found["failure"] = label.reason
    found["scores"] = {which: _score(outcome) for which, outcome in finding.scores.items()}
    found["verdicts"] = {
        which: {"failure": outcome.reason} if outcome.value is None else asdict(outcome.value)
        for which, outcome in finding.verdicts.items()
    }
    return found


def _score(outcome: Outcome[Scored]) -> dict[str, Any]:
    if outcome.value is None:
        return {"failure": outcome.reason}
    return {**asdict(outcome.value.row), "false_alarms": outcome.value.false_alarms}


def _text(estimate: Estimate) -> str:
    if estimate.value is None:
        return _NONE
    if estimate.lo is None or estimate.hi is None:
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} ({estimate.lo:.2f} … {estimate.hi:.2f})"
