"""Tables in the terminal."""

import sys
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from autointerp.evaluate.tables import Table

_WIDTH = 200  # where the output is no terminal


def print_table(table: "Table", left: int = 1) -> None:
    """The first `left` columns are words, the others numbers."""
    click.echo()
    print_rows(table.header, table.rows, words=table.header[:left])


def print_rows(
    header: Sequence[str], rows: Sequence[Sequence[str]], words: Collection[str], *, tight: bool = False
) -> None:
    """Columns of `words` begin alike, those of numbers end alike. `tight`: one blank between columns instead of two."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, collapse_padding=tight)
    for name in header:
        shown.add_column(Text(name), justify="left" if name in words else "right")
    for row in rows:
        shown.add_row(*map(Text, row))
    Console(width=width()).print(shown)


def width() -> int:
    """Columns that there are: the terminal's, or plenty where the output is no terminal."""
    from rich.console import Console

    return Console().width if sys.stdout.isatty() else _WIDTH
