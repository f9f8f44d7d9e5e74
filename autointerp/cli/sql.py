"""The command `sql`: read-only queries over a run's catalog."""

import csv
import re
import sys
from pathlib import Path

import click

from autointerp.cli.options import DEMO_FOLDER
from autointerp.cli.tables import width
from autointerp.cli.terminal import json_line, one_line
from autointerp.errors import UserError

_NARROWEST = 7  # characters of a column, on the average, that can still be read: with less a row is shown line by line
_COMMENT = re.compile(r"--[^=\s]*\s")  # no option has white space in its name


class _Query(click.Command):
    """Takes an argument that begins with an SQL comment for what it is: a query."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        queries = [] if "--" in args else [arg for arg in args if _COMMENT.match(arg)]
        rest = [arg for arg in args if arg not in queries]
        return super().parse_args(ctx, [*rest, "--", *queries] if queries else rest)


@click.command(cls=_Query)
@click.argument("query")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=DEMO_FOLDER,
    show_default=True,
    metavar="RUN_DIR",
    help="The run's folder.",
)
@click.option("--format", "style", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
def sql(query: str, out: Path, style: str) -> None:
    """Query a catalog, read-only.

    \b
    autointerp sql "SELECT rank, feature_id, title, score, lo, hi FROM catalog LIMIT 20"
    autointerp sql "SELECT position, text, activation FROM examples
                    WHERE feature_id = 7 AND kind = 'top' AND split = 'test' AND rank = 1 ORDER BY position"
    autointerp sql "SHOW TABLES"

    The tables and views are described in docs/catalog.md.
    """
    import duckdb

    from autointerp.catalog.store import Catalog
    from autointerp.run_folder import catalog_path

    with Catalog.open(catalog_path(out)) as catalog:
        catalog.connection.execute("SET enable_external_access = false").fetchall()
        try:
            cursor = catalog.connection.execute(query)
            names = [column[0] for column in cursor.description or []]
            rows = cursor.fetchall() if names else []
        except (duckdb.Error, AttributeError) as error:
            raise UserError(f"the query failed: {' '.join(str(error).split())}") from None
    if style == "csv":
        table = [tuple(names), *rows]
        csv.writer(sys.stdout).writerows(_harmless(table) if sys.stdout.isatty() else table)
    elif style == "json":
        for row in rows:
            click.echo(json_line(dict(zip(names, row, strict=True))))
    elif len(names) > width() // _NARROWEST:
        _print_records(names, rows)
    else:
        _print_table(names, rows)


def _harmless(rows: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """Rows for a terminal; a file or another program gets them as they are."""
    return [tuple(one_line(value) if isinstance(value, str) else value for value in row) for row in rows]


def _print_table(names: list[str], rows: list[tuple[object, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for index, name in enumerate(names):
        numeric = bool(rows) and all(isinstance(row[index], int | float | None) for row in rows)
        table.add_column(Text(one_line(name)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))  # Text, not markup: a label may hold brackets
    Console(soft_wrap=False, width=None if sys.stdout.isatty() else 200).print(table)


def _print_records(names: list[str], rows: list[tuple[object, ...]]) -> None:
    """A line for each column, a paragraph for each row: of so many columns a table cannot be read."""
    left = max(len(one_line(name)) for name in names)
    click.echo("\n\n".join(
        "\n".join(f"{one_line(name):<{left}}  {_cell(value)}".rstrip() for name, value in zip(names, row, strict=True))
        for row in rows
    ) or "no rows")  # fmt: skip


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else one_line(str(value))
