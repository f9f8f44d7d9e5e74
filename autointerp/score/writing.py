"""What a grading leaves in the catalog: scores, and the simulations and judgements that they can be computed from again."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from autointerp.catalog.records import Label
from autointerp.catalog.store import Catalog
from autointerp.score import Grade, ScoreRow
from autointerp.score.evidence_controls import CONTROLS


@dataclass(frozen=True, slots=True)
class Task:
    """One label to grade on one feature's contexts, by `scorers`; `baseline`: the lexicon's label, to compare with.

    `sampled`: the feature is among those of a control.
    """

    feature_id: int
    explanation_id: str
    label: Label
    control: str
    baseline: Label | None
    scorers: tuple[str, ...]
    sampled: bool = False


@dataclass(frozen=True, slots=True)
class Scoring:
    """How a scorer's rows are marked: with its name, the key of all that they depend on, its simulator and its model.

    `of_label` False: what it says is about the feature, and stands under no explanation. `asked`: the key of what it asks for,
    whatever is made of the answers; failed items are tried anew under it (table `draws`).
    """

    name: str
    key: str
    simulator: str
    model: str | None
    of_label: bool = True
    asked: str = ""


@dataclass(frozen=True, slots=True)
class Graded:
    """Grades by the name of their scorer. `bands`: window → band, of the contexts that can be simulated.

    `controls`: by scorer and control, what the same answers came to on other evidence.
    """

    task: Task
    grades: Mapping[str, Grade]
    bands: Mapping[int, int]
    controls: Mapping[str, Mapping[str, Sequence[ScoreRow]]] = field(default_factory=dict)


_WHICH = [
    ("score_key", pa.string()),
    ("feature_id", pa.uint32()),
    ("explanation_id", pa.string()),
    ("control", pa.string()),
]
_HOW = [("status", pa.string()), ("reason", pa.string())]
_SCORES = pa.schema(
    [*_WHICH, ("scorer", pa.string()), ("simulator", pa.string()), ("metric", pa.string()), ("value", pa.float64()),
     ("lo", pa.float64()), ("hi", pa.float64()), ("n_ok", pa.uint32()), ("n_failed", pa.uint32()), *_HOW]
)  # fmt: skip
_SIMULATIONS = pa.schema(
    [*_WHICH, ("scorer", pa.string()), ("simulator", pa.string()), ("model", pa.string()), ("window_id", pa.uint64()),
     ("band", pa.uint8()), *_HOW, ("expected", pa.list_(pa.float32())), ("start", pa.uint16()), ("mass", pa.list_(pa.float32()))]
)  # fmt: skip
_JUDGEMENTS = pa.schema(
    [*_WHICH, ("scorer", pa.string()), ("model", pa.string()), ("window_id", pa.uint64()), ("kind", pa.string()),
     ("truth", pa.bool_()), ("answer", pa.bool_()), ("probability", pa.float64()), *_HOW, ("value", pa.float64()),
     ("marked", pa.list_(pa.uint16())), ("item", pa.uint32())]
)  # fmt: skip
_TEXTS = pa.schema(
    [*_WHICH, ("scorer", pa.string()), ("model", pa.string()), ("number", pa.uint16()), ("wanted", pa.bool_()),
     ("text", pa.string()), ("peak", pa.float32()), *_HOW]
)  # fmt: skip
_TABLES = {"scores": _SCORES, "simulations": _SIMULATIONS, "judgements": _JUDGEMENTS, "written_texts": _TEXTS}


def write_grades(catalog: Catalog, finished: Sequence[Graded], scorings: Mapping[str, Scoring]) -> None:
    """Write the grades in place of those of an earlier try; `scorings` by the names of their scorers."""
    rows: dict[str, list[dict[str, Any]]] = {table: [] for table in _TABLES}
    for graded in sorted(finished, key=lambda graded: (graded.task.feature_id, graded.task.control)):
        for name, grade in graded.grades.items():
            by = _marks(graded.task, scorings[name])
            rows["scores"] += [by | _fields(_defined(row), _SCORES) for row in grade.rows]
            for control, others in graded.controls.get(name, {}).items():
                rows["scores"] += [by | {"control": control} | _fields(_defined(row), _SCORES) for row in others]
            rows["simulations"] += [by | {"band": graded.bands.get(one.window_id, 0)} | _fields(one, _SIMULATIONS)
                                    for one in grade.simulated]  # fmt: skip
            rows["judgements"] += [by | _fields(one, _JUDGEMENTS) for one in grade.judged]
            rows["written_texts"] += [by | _fields(one, _TEXTS) for one in grade.written]
    with catalog.transaction():
        graded_anew = [
            (scorings[name].key, one.task.feature_id, control)
            for one in finished
            for name in one.grades
            for control in ((one.task.control,) if one.task.control else ("", *CONTROLS))
        ]
        which = dict(zip(("keys", "features", "controls"), map(list, zip(*graded_anew, strict=True)), strict=True))
        for table in _TABLES:
            catalog.rows(f"DELETE FROM {table} WHERE (score_key, feature_id, control) IN "
                         "(SELECT unnest($keys), unnest($features), unnest($controls))", which)  # fmt: skip
        for table, schema in _TABLES.items():
            catalog.insert(table, pa.Table.from_pylist(rows[table], schema=schema))


def _marks(task: Task, scoring: Scoring) -> dict[str, Any]:
    """What all rows of a grade have in common, whatever their table."""
    return {"score_key": scoring.key, "feature_id": task.feature_id, "control": task.control,
            "explanation_id": task.explanation_id if scoring.of_label else "", "scorer": scoring.name,
            "simulator": scoring.simulator, "model": scoring.model}  # fmt: skip


def _defined(row: ScoreRow) -> ScoreRow:
    """NaN and infinity, of a scorer of another package, are no score: they would come before all others."""
    if row.value is not None and not math.isfinite(row.value):
        return replace(
            row, value=None, lo=None, hi=None, status="undefined", reason=f"the scorer's value is {row.value}"
        )
    if not all(end is None or math.isfinite(end) for end in (row.lo, row.hi)):
        return replace(
            row, lo=None, hi=None, reason="; ".join(filter(None, [row.reason, "no interval: an end is no number"]))
        )
    return row


def _fields(record: object, schema: pa.Schema) -> dict[str, Any]:
    """Those fields of a record that are columns."""
    return {name: getattr(record, name) for name in schema.names if hasattr(record, name)}
