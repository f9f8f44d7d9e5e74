"""The scores of all scorers at a glance, on the terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autointerp.cli.tables import print_rows

if TYPE_CHECKING:
    from autointerp.score.scoreboard import Line
    from autointerp.score.spread import Spread


def print_scores(out: Path, facts: Mapping[str, Any]) -> None:
    """A row a scorer: medians over features beside chance and shuffled labels; what ranks is marked. `facts` of the stage."""
    from autointerp.catalog.store import Catalog
    from autointerp.run_folder import catalog_path
    from autointerp.score.scoreboard import scoreboard

    with Catalog.open(catalog_path(out)) as catalog:
        lines = scoreboard(catalog.connection)
    by = f", simulator {facts['simulator']}" if facts["simulator"] else ""
    click.echo(
        f"scores of the labels by {facts['explainer']}{by}: medians over features with 95 % intervals; * ranks the catalog"
    )
    header = ["scorer", "metric", "median", "by chance", "shuffled labels", "scored", "NULL", "failed"]
    print_rows(header, [_cells(line) for line in lines], words=("scorer", "metric"))


def _cells(line: "Line") -> list[str]:
    metric = f"{line.metric} *" if line.ranks else line.metric
    chance = "–" if line.chance is None else f"{line.chance:z.2f}"
    return [line.scorer, metric, _median(line.own), chance, _shuffled(line), f"{line.own.n:,}", f"{line.n_undefined:,}",
            f"{line.n_failed:,}"]  # fmt: skip


def _shuffled(line: "Line") -> str:
    if not line.of_label:
        return "reads no label"
    return "not measured" if line.shuffled is None else f"{_median(line.shuffled)} of {line.shuffled.n:,}"


def _median(spread: "Spread") -> str:
    return "–" if spread.value is None else interval(spread.value, spread.lo, spread.hi)


def interval(value: float, lo: float | None, hi: float | None) -> str:
    """A value with its interval, if it has one."""
    return f"{value:z.2f}" + ("" if lo is None or hi is None else f" [{lo:z.2f}, {hi:z.2f}]")
