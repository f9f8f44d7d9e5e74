"""Tables in the terminal."""

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from autointerp.evaluate.tables import Table

_WIDTH = 200  # where the output is no terminal


def print_table(table: "Table", left: int = 1) -> None:
    """The first `left` columns are words, the others numbers."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False)
    for number, name in enumerate(table.header):
        shown.add_column(Text(name), justify="left" if number < left else "right")
    for row in table.rows:
        shown.add_row(*map(Text, row))
    click.echo()
    Console(width=None if sys.stdout.isatty() else _WIDTH).print(shown)
