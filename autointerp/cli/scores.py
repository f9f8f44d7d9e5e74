"""The scores of all scorers at a glance, on the terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autointerp.cli.tables import print_rows, width

if TYPE_CHECKING:
    from autointerp.score.scoreboard import Line
    from autointerp.score.spread import Spread

_WIDE = 125  # columns


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
    if width() >= _WIDE:
        header = ["scorer", "metric", "median", "by chance", "shuffled labels", "scored", "NULL", "failed"]
        print_rows(header, [_cells(line) for line in lines], words=("scorer", "metric"))
    else:
        header = ["scorer", "median", "chance", "shuffled", "scored", "NULL", "failed"]
        print_rows(header, [_narrow_cells(line) for line in lines], words=("scorer",), tight=True)


def _cells(line: "Line") -> list[str]:
    shuffled = "not measured" if line.of_label else "reads no label"
    if line.shuffled is not None:
        shuffled = f"{_median(line.shuffled)} of {line.shuffled.n:,}"
    return [line.scorer, _metric(line), _median(line.own), _chance(line), shuffled, *_counts(line)]


def _narrow_cells(line: "Line") -> list[str]:
    """The metric below its scorer, and no interval of the shuffled labels: 80 columns are enough."""
    shuffled = "not run" if line.of_label else "no label"
    if line.shuffled is not None and line.shuffled.value is not None:
        shuffled = f"{line.shuffled.value:z.2f}"
    return [f"{line.scorer}\n {_metric(line)}", _median(line.own), _chance(line), shuffled, *_counts(line)]


def _metric(line: "Line") -> str:
    return f"{line.metric} *" if line.ranks else line.metric


def _chance(line: "Line") -> str:
    return "–" if line.chance is None else f"{line.chance:z.2f}"


def _counts(line: "Line") -> list[str]:
    return [f"{count:,}" for count in (line.own.n, line.n_undefined, line.n_failed)]


def _median(spread: "Spread") -> str:
    return "–" if spread.value is None else interval(spread.value, spread.lo, spread.hi)


def interval(value: float, lo: float | None, hi: float | None) -> str:
    """A value with its interval, if it has one."""
    return f"{value:z.2f}" + ("" if lo is None or hi is None else f" [{lo:z.2f}, {hi:z.2f}]")
