"""The output side of a label, its confidence and its tags on the feature's page."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from autointerp.report import write_report
from autointerp.report.text import visible
from tests.report.reading import Report, read_report
from tests.report.synthetic import HOSTILE, build_catalog

MARK = "The two sides disagree."


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with build_catalog(8, 60) as connection:
        said = "UPDATE explanations SET output_title = ?, output_description = ?, sides_agree = ? WHERE feature_id = ?"
        for row in (("Two", "Says two.", False, 2), ("One", "Says one.", True, 1), (HOSTILE, HOSTILE, None, 0)):
            connection.execute(said, list(row))
        connection.execute(
            "UPDATE explanations SET confidence = 'high', safety = ['deception', ?] WHERE feature_id = 2", [HOSTILE]
        )
        return write_report(connection, tmp_path_factory.mktemp("sides") / "report.html", title="Sides").path


@pytest.fixture(scope="module")
def report(path: Path) -> Report:
    return read_report(path)


def test_details_are_those_of_the_label_that_is_shown(report: Report) -> None:
    one, two, none = report.detail(1), report.detail(2), report.detail(4)
    assert one["output"] == {"title": "One", "description": "Says one.", "agrees": True}
    assert two["output"] == {"title": "Two", "description": "Says two.", "agrees": False}
    assert (two["confidence"], two["safety"]) == ("high", ["deception", visible(HOSTILE)])
    assert (none["output"], none["confidence"], none["safety"]) == (None, None, [])
    assert report.detail(0)["output"]["title"] == visible(HOSTILE)


def test_a_page_says_them_and_marks_sides_that_disagree(dump: Callable[[Path, str], str], path: Path) -> None:
    pages = [re.sub(r"<script.*?</script>", "", dump(path, f"#feature-{n}"), flags=re.DOTALL) for n in (0, 1, 2, 4)]
    assert [MARK in page for page in pages] == [False, False, True, False]
    assert ["Output </small>" in page for page in pages] == [True, True, True, False]
    assert "Says one." in pages[1] and "safety: deception" in pages[2] and "high confidence" in pages[2]
    assert not any("<img" in page for page in pages)
