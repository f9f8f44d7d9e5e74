"""What the controls came to, on the terminal."""

from pathlib import Path

import click

from autointerp.cli.terminal import one_line


def print_controls(out: Path) -> None:
    """How many gates passed; on stderr, loudly, each one that failed."""
    from autointerp.catalog.controls import read_controls
    from autointerp.catalog.store import Catalog
    from autointerp.run_folder import catalog_path

    with Catalog.open(catalog_path(out)) as catalog:
        rows = read_controls(catalog.connection)
        flagged = catalog.rows("SELECT count(*) FILTER (no_lexical_gain), count(no_lexical_gain), "
                               "count(*) FILTER (q_random > 0.05), count(q_random) FROM catalog")[0]  # fmt: skip
    if not rows:
        return
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in ("passed", "FAILED", "undecided")}
    shown = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    click.echo(f"\ncontrols: {shown or 'none with a verdict'} (SELECT * FROM controls)")
    no_gain, of_gain, like_random, of_random = flagged
    if of_gain:
        click.echo(f"labels that add nothing over the token lexicon: {no_gain:,} of {of_gain:,}")
    if of_random:
        click.echo(f"labels not told from those of random directions (q > 0.05): {like_random:,} of {of_random:,}")
    for row in rows:
        if row.warning is not None:
            click.echo(f"CONTROL FAILED: {one_line(row.warning)}", err=True)
