"""The table of scores on the terminal, wide and narrow."""

from dataclasses import replace

import pytest

from autointerp.cli import scores, tables
from autointerp.score.scoreboard import Line
from autointerp.score.spread import Spread

LINE = Line(
    "simulation", "r_corpus", True, Spread(1951, -0.0004, -0.01, 0.5), 3, 1, 0.0, Spread(50, 0.1, 0.0, 0.2), True
)


@pytest.mark.parametrize(
    ("line", "metric", "chance", "shuffled", "short"),
    [
        (LINE, "r_corpus *", "0.00", "0.10 [0.00, 0.20] of 50", "0.10"),
        (replace(LINE, shuffled=None, chance=None, ranks=False), "r_corpus", "–", "not measured", "not run"),
        (replace(LINE, shuffled=None, of_label=False), "r_corpus *", "0.00", "reads no label", "no label"),
    ],
)
def test_cells(line: Line, metric: str, chance: str, shuffled: str, short: str) -> None:
    counts = ["1,951", "3", "1"]
    assert scores._cells(line) == ["simulation", metric, "0.00 [-0.01, 0.50]", chance, shuffled, *counts]
    assert scores._narrow_cells(line) == [f"simulation\n {metric}", "0.00 [-0.01, 0.50]", chance, short, *counts]


def test_a_score_without_an_interval_or_a_value() -> None:
    assert [scores._median(Spread(5, 0.25, None, None)), scores._median(Spread(0, None, None, None))] == ["0.25", "–"]


def test_80_columns_hold_the_longest_names(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "width", lambda: 80)
    line = replace(
        LINE,
        scorer="responsiveness",
        metric="responsiveness_balanced",
        ranks=False,
        own=Spread(1951, -0.02, -0.03, -0.01),
    )
    header = ["scorer", "median", "chance", "shuffled", "scored", "NULL", "failed"]
    tables.print_rows(header, [scores._narrow_cells(line)], words=("scorer",), tight=True)
    said = capsys.readouterr().out
    assert "responsiveness_balanced" in said and "-0.02 [-0.03, -0.01]" in said and len(said.splitlines()) == 3
