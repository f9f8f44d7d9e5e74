"""The command `estimate`: what a run will ask of models and what that costs, before anything is sent."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autointerp.cli.options import REMEMBERED, configure, folder_options, model_options, only_option, score_options
from autointerp.cli.terminal import one_line
from autointerp.errors import UserError

if TYPE_CHECKING:
    from autointerp.config import Config
    from autointerp.estimate import Estimate
    from autointerp.projection import Range, Row

_NUMBERS = ("requests", "input tokens", "of these cached", "output tokens", "money", "as a batch")
_WIDTH = 160  # where the output is no terminal


@click.command(epilog=REMEMBERED)
@folder_options
@model_options
@score_options
@click.option("--sample", type=click.IntRange(1), default=20, show_default=True,
              help="Features of each stage whose prompts are looked at; fewer for controls.")  # fmt: skip
@only_option
def estimate(sample: int, only: str, **options: Any) -> None:
    """Say what labelling and scoring a sampled run will ask of models, and what it costs. Nothing is sent.

    \b
    autointerp sample … --out RUN_DIR
    autointerp estimate --out RUN_DIR --label-model gpt-5-mini
    autointerp estimate --out RUN_DIR --label-model NAME --prices FILE.toml

    The prompts are the real ones of a few features; their number is scaled up to the features that are still to be done.
    What the journal holds already is not counted again.
    """
    from autointerp.harvest.runs import runs_of
    from autointerp.run_folder import is_sampled, require_same_sampling

    config, out = configure(**options)
    for one in runs_of(config, out):
        if not is_sampled(one.out):
            raise UserError(f"{one.out}: nothing sampled here yet; run first: autointerp sample --out {out}")
        require_same_sampling(one.config, one.out)
        if one.out != out:
            click.echo(f"{one.out.name}:")
        show(_estimate(one.config, one.out, sample, only))


def _estimate(config: "Config", out: Path, sample: int, features: str) -> "Estimate":
    from autointerp.catalog.store import Catalog
    from autointerp.estimate import estimate as of_run
    from autointerp.pipeline import ids_of
    from autointerp.run_folder import catalog_path

    with Catalog.open(catalog_path(out)) as catalog:
        return of_run(config, catalog, out, sample=sample, only=ids_of(catalog, features))


def show(found: "Estimate") -> None:
    """Print the table and what belongs to it."""
    if found.rows:
        _print_table(found)
    for note in found.notes:
        head, *rest = note.splitlines()
        click.echo("\n".join([f"- {one_line(head)}", *(f"    {line}" for line in rest)]))


def _print_table(found: "Estimate") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    # What a batch would cost is news only where none is asked for already, and one can be.
    batches = any(row.batch is not None and not row.provider.endswith("-batch") for row in found.rows)
    for name in ("stage", "by", "model"):
        table.add_column(name)
    for name in _NUMBERS if batches else _NUMBERS[:-1]:
        table.add_column(name, justify="right")
    rows = [_cells(row) for row in found.rows] + ([_sums(found)] if len(found.rows) > 1 else [])
    for cells in rows:
        table.add_row(*map(Text, cells if batches else cells[:-1]))
    Console(width=None if sys.stdout.isatty() else _WIDTH).print(table)


def _cells(row: "Row") -> list[str]:
    return [
        row.stage, row.part, one_line(row.model), f"{row.requests:,}", _counts(row.input), _short(row.cached),
        _counts(row.output), _dollars(row.money), "–" if row.batch is None else _dollars(row.batch),
    ]  # fmt: skip


def _sums(found: "Estimate") -> list[str]:
    from autointerp.projection import Range

    def total(name: str) -> "Range | None":
        parts = [getattr(row, name) for row in found.rows]
        if None in parts:
            return None
        return Range(sum(part.expected for part in parts), sum(part.most for part in parts))

    given, written, money, batch = (total(name) for name in ("input", "output", "money", "batch"))
    assert given is not None and written is not None
    requests, cached = sum(row.requests for row in found.rows), sum(row.cached for row in found.rows)
    return ["together", "", "", f"{requests:,}", _counts(given), _short(cached), _counts(written), _dollars(money),
            "–" if batch is None else _dollars(batch)]  # fmt: skip


def _counts(count: "Range") -> str:
    return f"{_short(count.expected)} … {_short(count.most)}"


def _short(count: float) -> str:
    return f"{count:,.0f}" if count < 10_000 else f"{count / 1e3:,.0f} k" if count < 1e6 else f"{count / 1e6:,.1f} M"


def _dollars(money: "Range | None") -> str:
    from autointerp.llm.price import money_text

    return "unknown" if money is None else f"{money_text(money.expected)} … {money_text(money.most)}"
