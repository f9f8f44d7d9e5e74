"""When a report is written anew: whenever anything that it shows has changed, and only then."""

from types import SimpleNamespace
from typing import Any, cast

import duckdb
import pytest

from autointerp.catalog.store import Catalog
from autointerp.pipeline import _state


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE scores SET value = value + 1e-9 WHERE feature_id = (SELECT min(feature_id) FROM scores WHERE value IS NOT NULL)",
        "UPDATE explanations SET title = title || '.' WHERE feature_id = (SELECT min(feature_id) FROM explanations)",
        "DELETE FROM scores WHERE feature_id = (SELECT min(feature_id) FROM scores)",
    ],
)
def test_any_label_or_score(fresh: duckdb.DuckDBPyConnection, change: str) -> None:
    def state() -> list[tuple[Any, ...]]:
        return _state(cast(Catalog, SimpleNamespace(rows=lambda query: fresh.execute(query).fetchall())))

    before = state()
    assert state() == before
    fresh.execute(change)
    assert state() != before
