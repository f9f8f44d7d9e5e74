"""The catalog: one DuckDB file. Opening, migrating, inserting and reading it; what the rows mean is elsewhere.

A second process cannot open the file while a writer has it, so stages hold it only as long as they run. Every write of a
stage's results happens in a transaction: a killed run leaves whole chunks or nothing.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import duckdb

from autointerp import __version__
from autointerp.errors import DataError, UserError

if TYPE_CHECKING:
    import pyarrow as pa


class _EmptyFile(DataError):
    """A database without a table: what is left of a process that was killed as it made the file."""


class Catalog:
    """A catalog file, open for reading or for writing. A context manager: connections left open are reported at exit."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: Path) -> None:
        self.connection = connection
        self.path = path

    @classmethod
    def open(cls, path: Path, *, write: bool = False) -> "Catalog":
        """Open an existing catalog, or with `write` create and migrate one.

        Raises UserError when the file is missing, is held by another process or is not a catalog.
        """
        if not write and not path.exists():
            below = sorted(str(found.parent) for found in path.parent.glob("*/catalog.duckdb"))
            if below:
                raise UserError(f"{path.parent}: holds several runs; give one of them: {', '.join(below)}")
            raise UserError(f"{path}: no catalog here; make one with: autointerp sample --out {path.parent}")
        try:
            connection = duckdb.connect(str(path), read_only=not write)
        except duckdb.IOException as error:
            message = str(error).splitlines()[0].partition(". However")[0]
            if "lock" in str(error):
                raise UserError(
                    f"{path}: another process has this catalog open for writing; wait for it ({message})"
                ) from error
            raise DataError(f"{path}: cannot be opened as a DuckDB file ({message})") from error
        catalog = cls(connection, path)
        try:
            if write:
                catalog._migrate()
            elif not catalog._version():
                kind = DataError if catalog.value("SELECT count(*) FROM duckdb_tables()") else _EmptyFile
                raise kind(f"{path}: a DuckDB file, but not a catalog of autointerp (no table catalog_version)")
        except BaseException:
            connection.close()
            raise
        return catalog

    @classmethod
    def is_empty(cls, path: Path) -> bool:
        """Whether the file is a database without any table. Raises as `open` does."""
        try:
            cls.open(path).close()
        except _EmptyFile:
            return True
        return False

    def __enter__(self) -> "Catalog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()

    def rows(self, query: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query, fetched: an open result would own the connection."""
        return self.connection.execute(query, parameters).fetchall()

    def value(self, query: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> Any:
        """The first column of the first row; None without rows."""
        found = self.rows(query, parameters)
        return found[0][0] if found else None

    def arrow(self, query: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> "pa.Table":
        return self.connection.sql(query, params=parameters or None).to_arrow_table()

    def insert(self, table: str, rows: "pa.Table") -> None:
        """Append an Arrow table; columns are matched by name."""
        if rows.num_rows == 0:
            return
        self.connection.register("incoming", rows)
        try:
            self.connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")
        finally:
            with suppress(duckdb.Error):  # in a transaction that failed; its error is the one to be seen
                self.connection.unregister("incoming")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing."""
        self.connection.begin()
        try:
            yield
        except BaseException:
            self.connection.rollback()
            raise
        self.connection.commit()

    def stage_fingerprint(self, stage: str) -> str | None:
        """What the finished `stage` was computed from, or None."""
        found = self.value("SELECT fingerprint FROM stages WHERE stage = ?", [stage])
        return None if found is None else str(found)

    def stage_facts(self, stage: str) -> dict[str, Any]:
        found = self.value("SELECT facts FROM stages WHERE stage = ?", [stage])
        return {} if found is None else dict(json.loads(found))

    def finish_stage(self, stage: str, fingerprint: str, config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Record, within the caller's transaction, that a stage is complete."""
        self.connection.execute("DELETE FROM stages WHERE stage = ?", [stage])
        row = [stage, fingerprint, json.dumps(config, sort_keys=True), __version__, json.dumps(facts, sort_keys=True)]
        self.connection.execute("INSERT INTO stages VALUES (?, ?, ?, ?, ?)", row)

    def _version(self) -> int:
        found = self.value("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'catalog_version'")
        return int(self.value("SELECT max(version) FROM catalog_version") or 0) if found else 0

    def _migrate(self) -> None:
        """Apply the numbered migrations that this file lacks, then make the views anew."""
        with self.transaction():
            self.connection.execute(
                "CREATE TABLE IF NOT EXISTS catalog_version (version INTEGER NOT NULL, name VARCHAR NOT NULL)"
            )
            done = self._version()
            migrations = sorted(
                files("autointerp.catalog").joinpath("migrations").iterdir(), key=lambda file: file.name
            )
            numbered = [(int(file.name[:4]), file) for file in migrations if file.name.endswith(".sql")]
            if done > numbered[-1][0]:
                raise UserError(f"{self.path}: written by a newer autointerp (schema {done}); upgrade to read it")
            for version, file in numbered:
                if version > done:
                    self.connection.execute(file.read_text(encoding="utf-8"))
                    self.connection.execute("INSERT INTO catalog_version VALUES (?, ?)", [version, file.name])
            self.connection.execute(files("autointerp.catalog").joinpath("views.sql").read_text(encoding="utf-8"))
