"""The report as a browser shows it. Skipped where there is no chromium."""

import re
from collections.abc import Callable
from pathlib import Path

from autointerp.report import write_report
from tests.report.reading import Report
from tests.report.synthetic import build_catalog, plant_hostile_text

Dump = Callable[[Path, str], str]


def _page(dom: str) -> str:
    """The document without its scripts, whose text a search would find."""
    return re.sub(r"<script.*?</script>", "", dom, flags=re.DOTALL)


def _rows(page: str) -> list[int]:
    return [int(number) for number in re.findall(r'<tr data-id="(\d+)"', page)]


def test_the_table_lists_the_features(dump: Dump, small_report_path: Path, small_report: Report) -> None:
    page = _page(dump(small_report_path, ""))
    assert _rows(page) == small_report.index["id"]
    assert "1–24 of 24 features" in page
    assert "undefined: the simulated activations are constant" in page


def test_filters_and_order_can_be_linked(dump: Dump, small_report_path: Path, small_report: Report) -> None:
    index = small_report.index
    expected = [
        feature
        for feature, kind, score in zip(index["id"], index["kind"], index["score"], strict=True)
        if kind == "token set" and score is not None and score >= 0.4
    ]
    page = _page(dump(small_report_path, "#?kind=token+set&score=0.4&sort=id&down=1"))
    assert _rows(page) == sorted(expected, reverse=True)
    assert 0 < len(expected) < 24
    assert "(out of 24)" in page
    assert 'aria-sort="descending"' in page


def test_a_linked_feature_opens_with_its_contexts(dump: Dump, small_report_path: Path, small_report: Report) -> None:
    page = _page(dump(small_report_path, "#feature-16"))
    heading = re.search(r"<h1 tabindex.*?</h1>", page, re.DOTALL)
    assert heading is not None
    assert small_report.row(16)["title"] in heading[0]
    contexts = small_report.detail(16)["contexts"]
    assert page.count('<article class="context"') == len(contexts)
    left_out = [c for c in contexts if c["simulated"] is None and c["failed"] is None]
    marked = [c for c in left_out if c["kind"] == "band" and c["split"] == "test" and not c["duplicate"]]
    assert len(left_out) > 8 and page.count(">not simulated<") == len(marked)  # of the strongest it goes without saying
    assert re.search(r'class="t on[^"]*peak"', page)
    assert re.search(r'class="t[^"]* sim', page)
    assert "cannot be read" not in page
    assert page.count('class="unfold"') == 1  # a scorer, whose further metrics are folded away
    assert page.count('<tr class="more"') == page.count('<tr class="more" hidden=""') == 2
    assert not re.search(r">[−-]0\.00[< ]", page)
    other = small_report.detail(16)["neighbours"][0][0]
    assert f'href="#feature-{other}"' in page


def test_planted_text_is_shown_and_not_run(dump: Dump, tmp_path: Path) -> None:
    with build_catalog(8, 120) as connection:
        plant_hostile_text(connection)
        path = write_report(connection, tmp_path / "report.html", title="T").path
    for fragment in ("", "#feature-0"):
        dom = dump(path, fragment)
        assert "data-owned" not in dom
        assert "<img" not in dom
        assert "&lt;img src=x onerror=alert(1)&gt;⟨U+202E⟩" in _page(dom)
        assert "cannot be read" not in _page(dom)
