"""All scorers at a glance: of each its main metric over the features, beside what chance and what shuffled labels give.

Read from the catalog, which may be open for reading only.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autointerp.catalog.controls import switched_off
from autointerp.catalog.main_metrics import main_metrics
from autointerp.catalog.pages import current_scores
from autointerp.score.controls import SHUFFLED
from autointerp.score.evidence_controls import chance
from autointerp.score.null_values import Array
from autointerp.score.spread import Spread, median_interval

if TYPE_CHECKING:
    import duckdb

# Where what chance gives depends on the feature, its scorer says so in a metric of its own.
_COMPANIONS = {"accuracy": ("chance", "accuracy_chance"), "f1": ("f1_chance",), "fires": ("base_rate",)}
COMPANIONS = frozenset(name for names in _COMPANIONS.values() for name in names)


@dataclass(frozen=True, slots=True)
class Line:
    """A scorer's metric over the features. `own`: of the features' own labels, n being those with a value.

    `chance`: what answers without knowledge give; None where nobody knows. `shuffled` None: not measured. `of_label` False: the
    scorer looks at no label, so that there is nothing to shuffle. `ranks`: the catalog is ordered by it.
    """

    scorer: str
    metric: str
    ranks: bool
    own: Spread
    n_undefined: int
    n_failed: int
    chance: float | None
    shuffled: Spread | None
    of_label: bool


def companions_of(metric: str) -> tuple[str, ...]:
    """The metrics, one of which holds what chance gives for this one, if the scorer has it."""
    return _COMPANIONS.get(metric, ())


def scoreboard(connection: "duckdb.DuckDBPyConnection") -> list[Line]:
    """A line for the metric that ranks, and one for the main metric of each scorer that the catalog shows."""
    shuffles = SHUFFLED not in switched_off(connection)
    return [_line(connection, *name, ranks, shuffles) for name, ranks in main_metrics(connection).items()]


def _line(connection: "duckdb.DuckDBPyConnection", scorer: str, metric: str, ranks: bool, shuffles: bool) -> Line:
    undefined, failed, labels = _rows(
        connection,
        "SELECT count(*) FILTER (status = 'undefined'), count(*) FILTER (status = 'failed'), "
        "count(*) FILTER (explanation_id <> '')",
        [scorer, metric, ""],
    )[0]
    shuffled = _values(connection, scorer, metric, SHUFFLED) if shuffles else None
    return Line(
        scorer, metric, ranks, median_interval(_values(connection, scorer, metric, "")), undefined, failed,
        _chance(connection, scorer, metric), median_interval(shuffled) if shuffled is not None and len(shuffled) else None,
        bool(labels),
    )  # fmt: skip


def _chance(connection: "duckdb.DuckDBPyConnection", scorer: str, metric: str) -> float | None:
    known = chance(metric)
    for name in companions_of(metric) if known is None else ():
        values = _values(connection, scorer, name, "")
        if len(values):
            return float(np.median(values))
    return known


def _values(connection: "duckdb.DuckDBPyConnection", scorer: str, metric: str, control: str) -> Array:
    rows = _rows(connection, "SELECT value", [scorer, metric, control], "AND value IS NOT NULL")
    return np.array([value for (value,) in rows], dtype=np.float64)


def _rows(
    connection: "duckdb.DuckDBPyConnection", columns: str, which: list[str], condition: str = ""
) -> list[tuple[Any, ...]]:
    shown = f"score_key IN {current_scores(connection)}"
    query = f"{columns} FROM scores WHERE scorer = ? AND metric = ? AND control = ? AND {shown} {condition}"
    with connection.cursor() as cursor:
        return cursor.execute(query, which).fetchall()
