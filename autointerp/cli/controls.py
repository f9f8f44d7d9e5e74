"""What the controls came to, on the terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autointerp.cli.terminal import one_line

if TYPE_CHECKING:
    from autointerp.catalog.controls import ControlRow

_Q = 0.05  # the false discovery rate up to which a label counts as told from random directions


def print_controls(out: Path) -> None:
    """How many gates passed; on stderr, loudly, what failed."""
    from autointerp.catalog.controls import failures, read_controls
    from autointerp.catalog.store import Catalog
    from autointerp.run_folder import catalog_path

    with Catalog.open(catalog_path(out)) as catalog:
        rows = read_controls(catalog.connection)
        flagged = catalog.rows("SELECT count(*) FILTER (no_lexical_gain), count(no_lexical_gain), "
                               "count(*) FILTER (q_random > ?), count(q_random) FROM catalog", [_Q])[0]  # fmt: skip
    if not rows:
        return
    ranked = [row for row in rows if row.ranks]
    what = f"; of {ranked[0].metric}, which ranks: {_counted(ranked)}" if 0 < len(ranked) < len(rows) else ""
    click.echo(f"\ncontrols: {_counted(rows)}{what} (SELECT * FROM controls)")
    no_gain, of_gain, like_random, of_random = flagged
    if of_gain:
        click.echo(f"labels that add nothing over the token lexicon: {no_gain:,} of {of_gain:,}")
    if of_random:
        click.echo(f"labels not told from those of random directions (q > {_Q}): {like_random:,} of {of_random:,}"
                   + _too_few(ranked))  # fmt: skip
    for failure in failures(rows):
        click.echo(f"CONTROL FAILED: {failure.control}: {one_line(failure.words)}", err=True)


def _too_few(ranked: "Sequence[ControlRow]") -> str:
    """Where random directions are so few that no label can be told from them, that it is so."""
    n = next((row.n for row in ranked if row.control == "random_directions"), None)
    if n is None or 1 / (1 + n) <= _Q:
        return ""
    directions = "direction" if n == 1 else "directions"
    return (f"; with {n:,} random {directions} q is {1 / (1 + n):.2f} or more: for further ones delete the folder null, and run "
            "autointerp null --directions 64")  # fmt: skip


def _counted(rows: "Sequence[ControlRow]") -> str:
    """Gates by their verdict."""
    verdicts = [row.verdict for row in rows if row.is_gate]
    shown = (f"{verdicts.count(verdict)} {verdict}" for verdict in ("passed", "FAILED", "inconclusive"))
    return ", ".join(one for one in shown if not one.startswith("0 ")) or "none with a verdict"
