"""What steering changed on the feature's page; and a catalog that is older than that."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from autointerp.catalog.feature_pages import feature_pages
from autointerp.catalog.pages import feature_rows
from autointerp.report import write_report
from tests.report.reading import read_report
from tests.report.synthetic import build_catalog


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with build_catalog(8, 60) as connection:
        for direction, rank, token, change in (("up", 1, 5, 2.5), ("up", 2, 3, 1.25), ("down", 1, 4, -0.5)):
            row = [1, direction, rank, token, change, 0.25149, 1.5]
            connection.execute("INSERT INTO steered_tokens VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        return write_report(connection, tmp_path_factory.mktemp("steered") / "report.html", title="Steered").path


def test_the_tokens_are_there_in_their_order(path: Path) -> None:
    report = read_report(path)
    found = report.detail(1)["steered"]
    ids = report.block("dictionary")["ids"]
    assert [(ids[token], change) for token, change in found["up"]] == [(5, 2.5), (3, 1.25)]
    assert [(ids[token], change) for token, change in found["down"]] == [(4, -0.5)]
    assert (found["kl"], found["strength"]) == (0.25, 1.5)
    assert report.detail(2)["steered"] is None


def test_a_page_shows_them(dump: Callable[[Path, str], str], path: Path) -> None:
    one, two = (re.sub(r"<script.*?</script>", "", dump(path, f"#feature-{n}"), flags=re.DOTALL) for n in (1, 2))
    assert "Likelier when switched on" in one and "KL 0.25 nats" in one and "Less likely when switched on" in one
    assert "switched on" not in two


def test_an_older_catalog_has_none() -> None:
    with build_catalog(4, 30) as connection:
        connection.execute("DROP TABLE steered_tokens")
        pages = feature_pages(connection, feature_rows(connection)[:2])
    assert [page.steered for page in pages] == [[], []]
