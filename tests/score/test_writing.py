"""What a scorer of another package may hand over, and how it stands in the catalog."""

from pathlib import Path

from autointerp.catalog.records import Label
from autointerp.catalog.store import Catalog
from autointerp.score import Grade, ScoreRow
from autointerp.score.writing import Graded, Scoring, Task, write_grades


def test_nan_and_infinity_are_no_scores(tmp_path: Path) -> None:
    nan, infinite = float("nan"), float("inf")
    rows = [
        ScoreRow("a", nan, 0.1, 0.2, 5, 1, "ok"),
        ScoreRow("b", -infinite, None, None, 5, 1, "ok", "old"),
        ScoreRow("c", 0.5, nan, 0.7, 5, 1, "ok", "a remark"),
        ScoreRow("d", 0.5, 0.3, 0.7, 5, 1, "ok"),
    ]
    task = Task(3, "e", Label("t", "d"), "", None, ("other",))
    with Catalog.open(tmp_path / "catalog.duckdb", write=True) as catalog:
        graded = Graded(task, {"other": Grade(rows)}, {}, {"other": {"always_yes": rows[:1]}})
        write_grades(catalog, [graded], {"other": Scoring("other", "key", "", None)})
        query = "SELECT value, lo, hi, status, reason FROM scores WHERE control = '' ORDER BY metric"
        assert catalog.rows(query) == [
            (None, None, None, "undefined", "the scorer's value is nan"),
            (None, None, None, "undefined", "the scorer's value is -inf"),
            (0.5, None, None, "ok", "a remark; no interval: an end is no number"),
            (0.5, 0.3, 0.7, "ok", None),
        ]
        assert catalog.rows("SELECT value, n_failed FROM scores WHERE control = 'always_yes'") == [(None, 1)]
