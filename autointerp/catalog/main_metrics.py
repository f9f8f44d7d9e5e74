"""Which of a scorer's metrics stands for it where there is room for one only.

A scorer writes its main metric first, or has one of those that are preferred; so a scorer of another package needs no entry
here.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autointerp.catalog.pages import current_scores, table_names

if TYPE_CHECKING:
    import duckdb

_PREFERRED = ("r_corpus", "balanced_accuracy")


def main_of(written: Sequence[str]) -> str:
    """The main one of the metrics that a scorer has written, in that order; at least one."""
    return next((metric for metric in _PREFERRED if metric in written), written[0])


def written_metrics(connection: "duckdb.DuckDBPyConnection", key: str) -> list[str]:
    """The metrics that stand under a score key, in the order in which its scorer writes them."""
    query = "SELECT metric FROM scores WHERE score_key = ? AND control = '' GROUP BY metric ORDER BY min(rowid)"
    with connection.cursor() as cursor:
        return [metric for (metric,) in cursor.execute(query, [key]).fetchall()]


def main_metrics(connection: "duckdb.DuckDBPyConnection") -> dict[tuple[str, str], bool]:
    """(scorer, metric) of the scores that the catalog shows → whether the catalog is ordered by it: that one first, then the
    main ones in the scorers' order."""
    rows = _rows(connection)
    ranked = _ranked(connection)
    written: dict[str, list[str]] = {}
    keys: dict[str, str] = {}
    for scorer, key, metric in rows:
        written.setdefault(scorer, []).append(metric)
        keys[scorer] = key
    found = {(scorer, metric): True for scorer, key in keys.items() for by, metric in ranked
             if by == key and metric in written[scorer]}  # fmt: skip
    return found | {
        (scorer, main_of(metrics)): (scorer, main_of(metrics)) in found for scorer, metrics in written.items()
    }


def _rows(connection: "duckdb.DuckDBPyConnection") -> list[tuple[str, str, str]]:
    order = "any_value(place), " if "scorings" in table_names(connection) else ""
    places = "LEFT JOIN (SELECT score_key, rowid AS place FROM scorings) USING (score_key)" if order else ""
    query = (
        f"SELECT scorer, score_key, metric FROM scores {places} WHERE control = '' AND score_key IN {current_scores(connection)} "
        f"GROUP BY scorer, score_key, metric ORDER BY {order}min(scores.rowid)"
    )
    with connection.cursor() as cursor:
        return cursor.execute(query).fetchall()


def _ranked(connection: "duckdb.DuckDBPyConnection") -> list[tuple[str, str]]:
    with connection.cursor() as cursor:
        return cursor.execute("SELECT score_key, metric FROM ranking WHERE metric IS NOT NULL").fetchall()
