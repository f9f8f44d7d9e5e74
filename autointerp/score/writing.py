"""What a grading leaves in the catalog: scores, and the simulations and judgements that they can be computed from again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from autointerp.catalog.records import Label
from autointerp.catalog.store import Catalog
from autointerp.score import Grade

TABLES = ("scores", "simulations", "judgements")


@dataclass(frozen=True, slots=True)
class Task:
    """One label to grade on one feature's contexts. `baseline`: the lexicon's label of the feature, to compare with."""

    feature_id: int
    explanation_id: str
    label: Label
    control: str
    baseline: Label | None


@dataclass(frozen=True, slots=True)
class Graded:
    """Grades by the name of their scorer. `bands`: window → band, of the contexts that can be simulated."""

    task: Task
    grades: Mapping[str, Grade]
    bands: Mapping[int, int]


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
    [*_WHICH, ("simulator", pa.string()), ("model", pa.string()), ("window_id", pa.uint64()), ("band", pa.uint8()), *_HOW,
     ("expected", pa.list_(pa.float32()))]
)  # fmt: skip
_JUDGEMENTS = pa.schema(
    [*_WHICH, ("scorer", pa.string()), ("model", pa.string()), ("window_id", pa.uint64()), ("kind", pa.string()),
     ("truth", pa.bool_()), ("answer", pa.bool_()), ("probability", pa.float64()), *_HOW]
)  # fmt: skip


def write_grades(
    catalog: Catalog,
    key: str,
    finished: Sequence[Graded],
    simulators: Mapping[str, str],
    models: Mapping[str, str | None],
) -> None:
    """Write the grades in place of those of an earlier try. `simulators` and `models`: of each scorer."""
    scores: list[dict[str, Any]] = []
    simulations: list[dict[str, Any]] = []
    judgements: list[dict[str, Any]] = []
    for graded in sorted(finished, key=lambda graded: (graded.task.feature_id, graded.task.control)):
        task = graded.task
        which = {"score_key": key, "feature_id": task.feature_id, "explanation_id": task.explanation_id,
                 "control": task.control}  # fmt: skip
        for name, grade in graded.grades.items():
            by = {"scorer": name, "simulator": simulators[name], "model": models[name]}
            scores += [which | by | _fields(row, _SCORES) for row in grade.rows]
            simulations += [which | by | {"band": graded.bands[one.window_id]} | _fields(one, _SIMULATIONS)
                            for one in grade.simulated]  # fmt: skip
            judgements += [which | by | _fields(one, _JUDGEMENTS) for one in grade.judged]
    with catalog.transaction():
        for graded in finished:
            for table in TABLES:
                catalog.rows(f"DELETE FROM {table} WHERE score_key = ? AND feature_id = ? AND control = ?",
                             [key, graded.task.feature_id, graded.task.control])  # fmt: skip
        for table, rows, schema in zip(
            TABLES, (scores, simulations, judgements), (_SCORES, _SIMULATIONS, _JUDGEMENTS), strict=True
        ):
            catalog.insert(table, pa.Table.from_pylist(rows, schema=schema))


def _fields(record: object, schema: pa.Schema) -> dict[str, Any]:
    """Those fields of a record that are columns."""
    return {name: getattr(record, name) for name in schema.names if hasattr(record, name)}
