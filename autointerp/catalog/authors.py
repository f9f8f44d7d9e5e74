"""Who wrote the labels that the catalog shows, who scored them, and whose models were asked. Pure functions of a connection."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autointerp.catalog.pages import has_column, table_names

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, slots=True)
class Author:
    """`name`: the explainer; or the scorer, with the simulator that worked for it. `model` and `provider` are None where no model
    was asked, `provider` also in what an earlier version recorded.
    """

    name: str
    model: str | None
    provider: str | None


def labellers(connection: "duckdb.DuckDBPyConnection") -> list[Author]:
    """Of the labels that the catalog shows."""
    query = """SELECT DISTINCT explainer, model FROM explanations JOIN ranking USING (explainer_key)
               WHERE explainer IS NOT NULL ORDER BY ALL"""
    found = _rows(connection, query)
    return [Author(name, model, _provider(connection, True, model)) for name, model in found]


def graders(connection: "duckdb.DuckDBPyConnection") -> list[Author]:
    """Of the scores that the catalog shows, the one that ranks first. None of an older catalog, opened for reading only."""
    if "scorings" not in table_names(connection):
        return []
    query = """SELECT scorer, simulator, model FROM scorings
               ORDER BY score_key NOT IN (SELECT score_key FROM ranking WHERE score_key IS NOT NULL), scorer"""
    return [
        Author(f"{scorer} by {simulator}" if simulator else scorer, model, _provider(connection, False, model))
        for scorer, simulator, model in _rows(connection, query)
    ]


def _provider(connection: "duckdb.DuckDBPyConnection", labels: bool, model: str | None) -> str | None:
    """Who answered in the model's name, for labels or for scores."""
    if model is None or not has_column(connection, "spend", "provider"):
        return None
    query = """SELECT DISTINCT provider FROM spend WHERE model = ? AND provider IS NOT NULL
               AND (purpose = 'explain') = ? ORDER BY ALL"""
    return ", ".join(name for (name,) in _rows(connection, query, [model, labels])) or None


def _rows(connection: "duckdb.DuckDBPyConnection", query: str, parameters: Sequence[object] = ()) -> list[Any]:
    with connection.cursor() as cursor:
        return cursor.execute(query, list(parameters)).fetchall()
