"""The commands `journal stats`, `verify`, `compact` and `export`: what a run asked of models, kept in its folder."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autointerp.cli.options import DEMO_FOLDER
from autointerp.cli.terminal import one_line

if TYPE_CHECKING:
    from autointerp.llm.tally import Spend

_DAMAGED = 1
_SHOWN = 20  # messages of one kind
_WIDTH = 200  # where the output is no terminal

_out = click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=DEMO_FOLDER,
    show_default=True,
    metavar="RUN_DIR",
    help="The run's folder.",
)


@click.group()
def journal() -> None:
    """Look into a run's journal: every reply that a model gave, and what it cost.

    \b
    autointerp journal stats --out reports/mine
    autointerp journal verify --out reports/mine
    autointerp journal compact --out reports/mine
    autointerp journal export --out reports/mine --to replies.parquet

    The journal is described in docs/providers.md.
    """


@journal.command()
@_out
def stats(out: Path) -> None:
    """What was asked: replies, tokens, money and latency by purpose, provider and model.

    Money is in US dollars. A + after it says that some replies have no known price and are not in it. Latency is the
    median, to 5 %.
    """
    from autointerp.llm.journal import Journal
    from autointerp.llm.session import journal_folder

    with Journal(journal_folder(out), read_only=True) as found:
        rows, answers = found.spend(), len(found)
    _print_spend(rows)
    click.echo(f"{sum(row.replies for row in rows):,} replies, {answers:,} answers that a rerun will use")


@journal.command()
@_out
def verify(out: Path) -> None:
    """Read every byte and report torn lines, second answers and damage. Exit code 1 if anything is damaged.

    A torn line is what a crash left of a reply that was on its way: it is ignored, and its question asked again.
    """
    from autointerp.llm.session import journal_folder
    from autointerp.llm.verification import verify as check

    found = check(journal_folder(out))
    for kind, messages, count in (
        ("damage", found.damage, found.n_damaged),
        ("torn", found.torn, len(found.torn)),
        ("leftover", found.leftovers, len(found.leftovers)),
    ):
        for message in messages[:_SHOWN]:
            click.echo(f"{kind:8} {one_line(message)}")
        if count > _SHOWN:
            click.echo(f"{kind:8} … and {count - _SHOWN:,} more")
    click.echo(
        f"{found.segments:,} segments, {found.bytes:,} bytes, {found.lines:,} replies, {found.answers:,} answers, "
        f"{found.duplicates:,} of them to a question that was answered before ({found.copies:,} copies of a line), "
        f"{len(found.torn):,} torn lines"
    )
    if found.n_damaged:
        click.echo(f"damaged: {found.n_damaged:,} places; restore those files from a copy", err=True)
        sys.exit(_DAMAGED)
    click.echo("no damage")


@journal.command()
@_out
def compact(out: Path) -> None:
    """Make one file of the journal's segments, sorted by time; no answer and nothing spent is lost.

    Needs room for a second copy while it works. It can be interrupted at any moment.
    """
    from autointerp.llm.journal import Journal
    from autointerp.llm.segment_folder import need_folder
    from autointerp.llm.session import journal_folder

    folder = journal_folder(out)
    need_folder(folder)  # opened for writing, a journal that is not there would be made
    with Journal(folder) as found:
        done = found.compact()
    click.echo(
        f"{done.segments:,} segments of {done.bytes_before:,} bytes are now {min(1, done.segments)} of "
        f"{done.bytes_after:,} bytes, with {done.lines:,} replies; {done.duplicates:,} second answers gave up their text"
    )


@journal.command()
@_out
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="The file to write: .parquet, .jsonl or .csv.",
)
def export(out: Path, target: Path) -> None:
    """Write one row a reply to a Parquet, JSON lines or CSV file.

    Rows with finish = 'stop' are answers; the others were paid for but are none.
    """
    from autointerp.llm.journal import Journal
    from autointerp.llm.journal_export import export as write
    from autointerp.llm.session import journal_folder

    with Journal(journal_folder(out), read_only=True) as found:
        count = write(found.entries(), target)
    click.echo(f"{count:,} replies in {one_line(str(target))}")


def _print_spend(rows: "Sequence[Spend]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    words = ("purpose", "provider", "model")
    for name in (*words, "replies", "failed", "input", "cached", "written", "output", "money", "latency"):
        table.add_column(name, justify="left" if name in words else "right", overflow="fold")
    for row in rows:
        usage = row.usage
        counts = (row.replies, row.failed, usage.input, usage.cached, usage.written, usage.output)
        cells = [*map(one_line, (row.purpose, row.provider, row.model)), *(f"{count:,}" for count in counts)]
        table.add_row(*map(Text, [*cells, _money(row), f"{row.median_latency_s:.2f} s"]))
    Console(width=None if sys.stdout.isatty() else _WIDTH).print(table)


def _money(row: "Spend") -> str:
    if row.money is None:
        return "–"
    return f"{row.money:,.4f}" + ("+" if row.n_unpriced else "")
