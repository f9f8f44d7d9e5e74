"""What a terminal of 80 columns shows of a stage under way."""

import sys

import pytest

from autointerp.progress import progress

NOTE = "1,000 answers (10 from the journal), 2 failed, 32 in flight, $1.25"


def test_bar_and_note_both_fit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    with progress("explain", 4_000, "features") as advance:
        advance(1_000, NOTE)
    lines = [line.rstrip() for line in capsys.readouterr().err.splitlines()]
    assert f"  {NOTE}" in lines
    (bar,) = (line for line in lines if "25%" in line)
    assert bar.startswith("explain") and "1,000 / 4,000 features (" in bar and "left" in bar and "…" not in bar
    assert len(bar) <= 80
