"""The queries of what the harvest measures beyond counts: descriptors, features that fire together, hard negatives.

Like `feature_pages`, which asks them: many features at a time, pure functions of a connection, rows ordered completely.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autointerp.catalog.pages import select

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, slots=True)
class Descriptors:
    """What a feature fires on and how. Each is None where the feature never fires or the catalog is older than it.

    `top_token`: the token on which it fires most, and its share of the firings. `token_entropy`: bits. `position_dependence`:
    0 where it fires anywhere in a window, towards 1 in one place only. `peak_p…`: quantiles of its windows' peaks.
    """

    feature_id: int
    top_token: int | None
    top_token_share: float | None
    token_entropy: float | None
    position_dependence: float | None
    peak_p50: float | None
    peak_p90: float | None
    peak_p99: float | None


@dataclass(frozen=True, slots=True)
class CofiringNeighbour:
    """A feature that fires on the same tokens: `n_both` of the random pool, `jaccard` of those on which either fires."""

    feature_id: int
    neighbour_id: int
    n_both: int
    jaccard: float


@dataclass(frozen=True, slots=True)
class HardNegative:
    """A window in which the feature is silent although a neighbour fires there (near) or its top token is there (token).

    `cause` is the neighbour's id or the token, `cause_position` where in the window it is.
    """

    feature_id: int
    kind: str
    split: str
    window_id: int
    cause: int
    cause_position: int


_OF_FEATURES = "feature_id IN (SELECT unnest($1::UINTEGER[]))"
# One of each cause in turn, so that a few show different neighbours.
_NEGATIVES = f"""FROM (
    SELECT feature_id, kind, split, window_id, cause, cause_position,
        row_number() OVER (PARTITION BY feature_id, kind ORDER BY turn, rank, split, window_id) AS place
    FROM (
        SELECT *, row_number() OVER (PARTITION BY feature_id, kind, cause ORDER BY rank, split, window_id) AS turn
        FROM contexts WHERE kind IN ('near', 'token') AND {_OF_FEATURES}
    )
    QUALIFY place <= $2
) ORDER BY feature_id, kind, place"""


def measured(connection: "duckdb.DuckDBPyConnection") -> bool:
    """Whether the catalog has room for these. One of the first schema that is opened for reading only has not."""
    with connection.cursor() as cursor:
        return bool(cursor.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'cofiring'").fetchall())


def descriptors(connection: "duckdb.DuckDBPyConnection", ids: Sequence[int]) -> list[Descriptors]:
    """One row a feature, by number."""
    return select(connection, Descriptors, f"FROM features WHERE {_OF_FEATURES} ORDER BY feature_id", [list(ids)])


def cofiring(connection: "duckdb.DuckDBPyConnection", ids: Sequence[int]) -> list[CofiringNeighbour]:
    """By feature, the largest Jaccard index first. Rare features have none."""
    return select(
        connection, CofiringNeighbour, f"FROM cofiring WHERE {_OF_FEATURES} ORDER BY feature_id, rank", [list(ids)]
    )


def hard_negatives(connection: "duckdb.DuckDBPyConnection", ids: Sequence[int], each: int) -> list[HardNegative]:
    """At most `each` of either kind a feature, near ones first. None where the stage `negatives` was not run."""
    return select(connection, HardNegative, _NEGATIVES, [list(ids), each])
