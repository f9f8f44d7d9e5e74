"""The controls at the head of the report, and on the terminal."""

from pathlib import Path

import duckdb
import pytest

from autointerp.catalog.controls import ControlRow, Failure, failures, read_controls
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
        (
            "simulation",
            "another",
            "shuffled",
            50,
            0.3,
            0.2,
            0.4,
            0.0,
            False,
            "above the 0: <b>; 2 without a value left out",
        ),
        ("simulation", "further", "shuffled", 50, 0.3, 0.2, 0.4, 0.0, False, "above the 0: <b>"),
        ("detection", "balanced_accuracy", "shuffled", 50, 0.7, -0.0001, 0.9, 0.5, False, "above the 0.5"),
        ("fuzzing", "f1", "shuffled", 50, 0.7, 0.6, 0.9, 0.5, False, "above the 0.5"),
        ("detection", "balanced_accuracy", "always_yes", 50, 0.5, 0.5, 0.5, 0.5, True, None),
        ("simulation", metric, "shuffled", 50, -0.0001, -0.01, 0.01, 0.0, True, None),
        ("simulation", metric, "over_generic", 5, 0.2, None, None, 0.0, None, "inconclusive: 5 features"),
        ("simulation", metric, "breadth", 50, 0.1, 0.1, 0.1, None, None, "for comparison"),
    ):
        connection.execute("INSERT INTO controls VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", list(row))


def test_those_of_the_ranking_are_listed_and_failures_of_all_are_warned_of(
    fresh: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    fill(fresh)
    found = summarise(fresh, 8)
    assert [(line.words, line.verdict, line.expected) for line in found.controls] == [
        ("another feature's label", "passed", "0"), ("own label minus that sentence", "inconclusive", "above 0"),
        ("every token of the right texts", "", ""),
    ]  # fmt: skip
    assert found.controls[0].value == "0.000" and found.controls[0].interval == "−0.010 to 0.010"
    said = [warning for warning in found.warnings if warning.startswith("A control fails")]
    assert said == [
        "A control fails: above the 0: <b> (simulation.another 0.300 [0.200, 0.400] over 50 features; "
        "detection.balanced_accuracy 0.700 [0.000, 0.900] over 50 features; fuzzing.f1 0.700 [0.600, 0.900] over 50 features; "
        "and 1 more metric)."
    ]
    page = write_report(fresh, tmp_path / "r.html", title="t").path
    text = page.read_text(encoding="utf-8")
    assert 'id="controls-title"' in text and "above the 0: <b>" not in text and "above the 0: &lt;b&gt;" in text
    read_report(page)


def test_verdicts() -> None:
    def row(expected: float | None, passed: bool | None, control: str = "shuffled") -> ControlRow:
        return ControlRow("s", "m", control, 9, -0.0004, None, None, expected, passed, "why", True)

    assert [row(*given).verdict for given in ((None, None), (0.0, None), (0.0, True), (0.5, False))] == [
        "for comparison", "inconclusive", "passed", "FAILED"]  # fmt: skip
    assert [row(*given).is_gate for given in ((None, None), (0.0, None), (0.5, True, "always_yes"))] == [
        False,
        True,
        False,
    ]
    assert failures([row(0.5, True), row(0.5, None)]) == []
    assert failures([row(0.5, False)]) == [Failure("shuffled", "why", ["s.m 0.000 over 9 features"], 0)]
    assert [one.control for one in failures([row(0.5, False, "always_yes")])] == [
        "always_yes"
    ]  # a fault of the program


def test_names() -> None:
    assert [control_name(one) for one in ("generic", "breadth", "of another package")] == [
        "one sentence for all features", "every token of the right texts", "of another package"]  # fmt: skip


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
    assert (
        "controls: 1 passed, 4 FAILED, 1 inconclusive; of r_corpus, which ranks: 1 passed, 1 inconclusive" in said.out
    )
    assert said.err.startswith("CONTROL FAILED: shuffled: above the 0: <b> (simulation.another 0.300")
    assert said.err.count("CONTROL FAILED") == 1
