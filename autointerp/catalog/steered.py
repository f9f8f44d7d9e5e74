"""Reads what steering changed: the table `steered_tokens`, and the facts of the stage that fills it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autointerp.catalog.pages import select
from autointerp.catalog.records import Steered
from autointerp.catalog.store import Catalog

if TYPE_CHECKING:
    import duckdb

STAGE = "steer"


@dataclass(frozen=True, slots=True)
class SteeredToken:
    """A row of the table, for pages."""

    feature_id: int
    direction: str
    token: int
    change: float
    kl: float
    strength: float


def steered_tokens(connection: "duckdb.DuckDBPyConnection", ids: Sequence[int]) -> list[SteeredToken]:
    """By feature, direction and rank. None of an older catalog, opened for reading only, that has no such table."""
    with connection.cursor() as cursor:
        if not cursor.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'steered_tokens'").fetchall():
            return []
    source = (
        "FROM steered_tokens WHERE feature_id IN (SELECT unnest($1::UINTEGER[])) ORDER BY feature_id, direction, rank"
    )
    return select(connection, SteeredToken, source, [list(ids)])


def read_steered(catalog: Catalog, feature_ids: Sequence[int]) -> dict[int, Steered]:
    """Of the features that were steered, and moved something: the tokens, strongest first, and the KL that was reached."""
    rows = catalog.rows(
        "SELECT feature_id, direction, token, kl FROM steered_tokens WHERE feature_id IN (SELECT unnest($ids)) "
        "ORDER BY feature_id, direction, rank",
        {"ids": [int(feature) for feature in feature_ids]},
    )
    tokens: dict[tuple[int, str], list[int]] = defaultdict(list)
    reached: dict[int, float] = {}
    for feature, direction, token, kl in rows:
        tokens[feature, direction].append(token)
        reached[feature] = kl
    return {feature: Steered(tokens[feature, "up"], tokens[feature, "down"], kl) for feature, kl in reached.items()}


def steered_features(catalog: Catalog) -> set[int]:
    """Features with rows."""
    return {feature for (feature,) in catalog.rows("SELECT DISTINCT feature_id FROM steered_tokens")}


def without_rows(catalog: Catalog) -> dict[str, set[int]]:
    """Features that were steered and have no rows. unmoved: nothing changes, since their decoder direction is zero, or no
    strength could be measured. unlisted: the predictions moved, but of no token that is likely enough to be listed.
    """
    facts = catalog.stage_facts(STAGE)
    return {kind: set(facts.get(kind, ())) for kind in ("unmoved", "unlisted")}
