"""The controls at the head of the report, and on the terminal."""

from pathlib import Path

import duckdb
import pytest

from autointerp.catalog.controls import ControlRow, read_controls
from autointerp.report import write_report
from autointerp.report.controls import control_name
from autointerp.report.summary import summarise
from tests.report.reading import read_report


def fill(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("DELETE FROM controls")
    metric, key = connection.execute("SELECT metric, score_key FROM ranking").fetchall()[0]
    connection.execute("DELETE FROM scorings")
    connection.execute("INSERT INTO scorings VALUES ('simulation', ?, 'x', NULL)", [key])
    for row in (
        ("simulation", "another", "shuffled", 50, 0.3, 0.2, 0.4, 0.0, False, "above the 0: <b>"),
        ("simulation", metric, "shuffled", 50, -0.001, -0.01, 0.01, 0.0, True, None),
        ("simulation", metric, "over_generic", 5, 0.2, None, None, 0.0, None, "nothing can be said"),
        ("simulation", metric, "breadth", 50, 0.1, 0.1, 0.1, None, None, "for comparison"),
    ):
        connection.execute("INSERT INTO controls VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", list(row))


def test_those_of_the_ranking_are_listed_and_failures_of_all_are_warned_of(
    fresh: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    fill(fresh)
    found = summarise(fresh, 8)
    assert [(line.words, line.verdict, line.expected) for line in found.controls] == [
        ("another feature's label", "passed", "0"), ("own label minus that sentence", "undecided", "above 0"),
        ("every token of the right texts", "for comparison", ""),
    ]  # fmt: skip
    assert found.controls[0].value == "−0.001" and found.controls[0].interval == "−0.010 to 0.010"
    assert "A control fails: simulation.another, shuffled: 0.300 [0.200, 0.400] over 50 features" in found.warnings[0]
    page = write_report(fresh, tmp_path / "r.html", title="t").path
    text = page.read_text(encoding="utf-8")
    assert 'id="controls-title"' in text and "above the 0: <b>" not in text and "above the 0: &lt;b&gt;" in text
    read_report(page)


def test_verdicts() -> None:
    def row(expected: float | None, passed: bool | None) -> ControlRow:
        return ControlRow("s", "m", "c", 9, 0.5, None, None, expected, passed, "why", True)

    assert [row(*given).verdict for given in ((None, None), (0.0, None), (0.0, True), (0.5, False))] == [
        "for comparison", "undecided", "passed", "FAILED"]  # fmt: skip
    assert row(0.5, False).warning == "s.m, c: 0.500 over 9 features: why" and row(0.5, True).warning is None


def test_names() -> None:
    assert [control_name(one) for one in ("shuffled", "generic", "breadth")] == [
        "shuffled label", "generic label", "every token of the right texts"]  # fmt: skip


def test_a_catalog_without_the_table_has_none() -> None:
    with duckdb.connect() as connection:
        assert read_controls(connection) == []


def test_the_terminal_says_loudly_what_failed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from autointerp.catalog.store import Catalog
    from autointerp.cli.controls import print_controls

    with Catalog.open(tmp_path / "catalog.duckdb", write=True) as catalog:
        catalog.connection.execute("INSERT INTO ranking VALUES ('e', 'k', 'r_corpus')")
        fill(catalog.connection)
    print_controls(tmp_path)
    said = capsys.readouterr()
    assert "controls: 1 passed, 1 FAILED, 1 undecided" in said.out
    assert said.err.startswith(
        "CONTROL FAILED: simulation.another, shuffled: 0.300 [0.200, 0.400] over 50 features: above"
    )
