"""The table of draws: every item its next one, in a few statements however many there are."""

from pathlib import Path

import pytest

from autointerp.catalog.draws import draw_again, read_draws
from autointerp.catalog.store import Catalog


def test_every_item_has_its_next_draw_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Catalog.open(tmp_path / "c.duckdb", write=True) as catalog:
        draw_again(catalog, "score", "key", [(number, "") for number in range(500)])
        draw_again(catalog, "score", "other", [(7, "")])
        statements, rows = [], Catalog.rows
        monkeypatch.setattr(
            Catalog, "rows", lambda self, query, *given: (statements.append(query), rows(self, query, *given))[1]
        )
        draw_again(catalog, "score", "key", [*((number, "") for number in range(8)), (8, "shuffled")])
        draw_again(catalog, "score", "key", [])
        assert len(statements) <= 6
        found = read_draws(catalog, "score", "key")
        assert len(found) == 501 and (found[7, ""], found[8, ""], found[8, "shuffled"]) == (2, 1, 1)
        assert read_draws(catalog, "score", "other") == {(7, ""): 1}
