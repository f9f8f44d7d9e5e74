"""Who wrote the labels that the catalog shows, who scored them, and whose models were asked. Pure functions of a connection."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autointerp.catalog.pages import has_column

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
    return [Author(name, model, _provider(connection, ["explain"], model)) for name, model in found]


def graders(connection: "duckdb.DuckDBPyConnection") -> list[Author]:
    """Of the scores that the catalog shows, the one that ranks first."""
    tables = ["SELECT score_key, 'simulation' AS scorer, model FROM simulations"]
    if has_column(connection, "judgements", "scorer"):  # an older catalog that is opened for reading only has none
        tables.append("SELECT score_key, scorer, model FROM judgements")
    query = f"""SELECT DISTINCT s.scorer, s.simulator, m.model, s.scorer <> 'simulation' AS later
                FROM (SELECT DISTINCT score_key, scorer, simulator FROM scores) s JOIN ranking USING (score_key)
                LEFT JOIN (SELECT DISTINCT * FROM ({" UNION ALL ".join(tables)})) m USING (score_key, scorer)
                ORDER BY 4, 1, 2, 3"""
    return [
        Author(
            f"{scorer} by {simulator}" if simulator else scorer,
            model,
            _provider(connection, ["simulate", "detect"], model),
        )
        for scorer, simulator, model, _ in _rows(connection, query)
    ]


def _provider(connection: "duckdb.DuckDBPyConnection", purposes: Sequence[str], model: str | None) -> str | None:
    """Who answered in the model's name for these purposes."""
    if model is None or not has_column(connection, "spend", "provider"):
        return None
    query = """SELECT DISTINCT provider FROM spend WHERE model = ? AND provider IS NOT NULL
               AND purpose IN (SELECT unnest(?::VARCHAR[])) ORDER BY ALL"""
    return ", ".join(name for (name,) in _rows(connection, query, [model, list(purposes)])) or None


def _rows(connection: "duckdb.DuckDBPyConnection", query: str, parameters: Sequence[object] = ()) -> list[Any]:
    with connection.cursor() as cursor:
        return cursor.execute(query, list(parameters)).fetchall()
