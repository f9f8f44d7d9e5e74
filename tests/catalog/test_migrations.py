"""Catalogs of every earlier schema open, and keep what they hold."""

from importlib.resources import files
from pathlib import Path

import duckdb
import pytest

from autointerp.catalog import pages
from autointerp.catalog.spending import SpendRow, write_spend
from autointerp.catalog.store import Catalog

MIGRATIONS = sorted(
    (file for file in files("autointerp.catalog").joinpath("migrations").iterdir() if file.name.endswith(".sql")),
    key=lambda file: file.name,
)
OLD = "purpose, model, requests, failed, input_tokens, cached_tokens, output_tokens"
ROW = SpendRow("simulate", "openai", "m", 3, 1, 30, 20, 5, 10, 0.25, 1)


def older_catalog(path: Path, schema: int) -> None:
    """A catalog as the version with so many migrations made it, with a row of spending."""
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE catalog_version (version INTEGER NOT NULL, name VARCHAR NOT NULL)")
        for number, file in enumerate(MIGRATIONS[:schema], start=1):
            connection.execute(file.read_text(encoding="utf-8"))
            connection.execute("INSERT INTO catalog_version VALUES (?, ?)", [number, file.name])
        connection.execute(f"INSERT INTO spend ({OLD}) VALUES ('explain', 'm', 7, 1, 700, 500, 70)")


@pytest.mark.parametrize("schema", range(1, len(MIGRATIONS) + 1))
def test_an_older_catalog_is_read_as_it_is_and_migrated_when_it_is_written(tmp_path: Path, schema: int) -> None:
    path = tmp_path / "catalog.duckdb"
    older_catalog(path, schema)
    with Catalog.open(path) as catalog:
        assert [(row.purpose, row.requests) for row in pages.spend_rows(catalog.connection)] == [("explain", 7)]
    with Catalog.open(path, write=True) as catalog:
        assert catalog.value("SELECT max(version) FROM catalog_version") == len(MIGRATIONS)
        columns = f"{OLD}, provider, written_tokens, money, n_unpriced"
        assert catalog.rows(f"SELECT {columns} FROM spend") == [
            ("explain", "m", 7, 1, 700, 500, 70, None, None, None, None)
        ]
        write_spend(catalog, [ROW])
    with Catalog.open(path) as catalog:
        assert catalog.rows(f"SELECT {columns} FROM spend") == [
            ("simulate", "m", 3, 1, 30, 20, 10, "openai", 5, 0.25, 1)
        ]


def test_money_is_null_where_no_price_is_known(tmp_path: Path) -> None:
    with Catalog.open(tmp_path / "catalog.duckdb", write=True) as catalog:
        write_spend(catalog, [SpendRow("explain", "openai", "m", 2, 0, 1, 0, 0, 1, None, 2), ROW])
        assert catalog.rows("SELECT money, n_unpriced FROM spend ORDER BY purpose") == [(None, 2), (0.25, 1)]
        write_spend(catalog, [])
        assert catalog.value("SELECT count(*) FROM spend") == 0
