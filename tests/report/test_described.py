"""Descriptors, co-firing features and hard negatives on a feature's page; old catalogs do without."""

import re
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import duckdb
import pytest

from autointerp.catalog.store import Catalog
from autointerp.report import write_report
from tests.report.described import build_described
from tests.report.reading import Report, read_report
from tests.report.synthetic import HOSTILE, plant_hostile_text

SECTIONS = ("Silent where it could be expected to fire", "Fires together with", "token entropy", "position dependence")


@pytest.fixture(scope="module")
def described() -> Iterator[duckdb.DuckDBPyConnection]:
    with build_described() as connection:
        yield connection


@pytest.fixture(scope="module")
def path(described: duckdb.DuckDBPyConnection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(described, tmp_path_factory.mktemp("described") / "report.html", title="Described").path


@pytest.fixture(scope="module")
def report(path: Path) -> Report:
    return read_report(path)


def _page(dom: str) -> str:
    return re.sub(r"<script.*?</script>", "", dom, flags=re.DOTALL)


def test_descriptors_are_those_of_the_catalog(report: Report, described: duckdb.DuckDBPyConnection) -> None:
    query = """SELECT top_token, top_token_share, token_entropy, peak_p50, peak_p90, peak_p99
               FROM features WHERE feature_id = 0"""
    top, share, entropy, *peaks = described.execute(query).fetchall()[0]
    known = report.detail(0)["descriptors"]
    assert report.block("dictionary")["ids"][known["top"]] == top
    assert known["share"] == pytest.approx(share, rel=5e-3)
    assert known["entropy"] == pytest.approx(entropy, rel=5e-3)
    assert known["position"] == 0.125
    assert known["peaks"] == pytest.approx(peaks, rel=5e-3)
    dead = report.detail(7)["descriptors"]
    assert dead == {"top": None, "share": None, "entropy": None, "position": None, "peaks": [None] * 3}


def test_features_that_fire_together_are_those_of_the_catalog(
    report: Report, described: duckdb.DuckDBPyConnection
) -> None:
    query = "SELECT neighbour_id, n_both, jaccard FROM cofiring WHERE feature_id = 1 ORDER BY rank"
    expected = described.execute(query).fetchall()
    assert expected
    for found, stored in zip(report.detail(1)["cofiring"], expected, strict=True):
        assert found == pytest.approx(list(stored), rel=1e-3)


def test_negatives_name_their_cause_and_its_place(report: Report, described: duckdb.DuckDBPyConnection) -> None:
    detail, ids = report.detail(1), report.block("dictionary")["ids"]
    assert [n["kind"] for n in detail["negatives"]] == ["near", "near", "token", "token"]
    assert [n["cause"] for n in detail["negatives"][:2]] == [2, 3]
    top = described.execute("SELECT top_token FROM features WHERE feature_id = 1").fetchall()[0][0]
    for negative in detail["negatives"][2:]:
        assert ids[negative["cause"]] == top == report.window(negative["window"])[negative["at"]]


def test_the_same_catalog_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    with build_described() as again:
        write_report(again, tmp_path / "report.html", title="Described")
    assert (tmp_path / "report.html").read_bytes() == path.read_bytes()


def test_a_migrated_catalog_of_the_first_schema_is_a_report(tmp_path: Path) -> None:
    old = tmp_path / "catalog.duckdb"
    with duckdb.connect(str(old)) as connection:
        connection.execute("CREATE TABLE catalog_version (version INTEGER NOT NULL, name VARCHAR NOT NULL)")
        connection.execute(files("autointerp.catalog").joinpath("migrations", "0001_first_light.sql").read_text())
        connection.execute("INSERT INTO catalog_version VALUES (1, '0001_first_light.sql')")
        connection.execute("INSERT INTO features VALUES (0, 9, 3, 2, 0.01, 4.5, 2.0, 1.0, NULL)")
    with Catalog.open(old, write=True) as catalog:
        write_report(catalog.connection, tmp_path / "report.html", title="T")
    detail = read_report(tmp_path / "report.html").detail(0)
    assert (detail["cofiring"], detail["negatives"], detail["descriptors"]["top"]) == ([], [], None)


def test_a_page_says_them_in_words(dump: Callable[[Path, str], str], path: Path, report: Report) -> None:
    page, detail = _page(dump(path, "#feature-1")), report.detail(1)
    assert all(words in page for words in SECTIONS)
    assert "cannot be read" not in page
    assert page.count('<article class="context"') == len(detail["contexts"]) + len(detail["negatives"])
    assert len(re.findall(r'class="t peak cause"', page)) == len(detail["negatives"]) == 4
    assert re.search(r'although its neighbour <a href="#feature-2">', page)
    share = detail["descriptors"]["share"] * 100
    assert f"{share:.1f} %" in page
    other, both, jaccard = detail["cofiring"][0]
    assert re.search(rf'href="#feature-{other}">.*?{jaccard:.3f} <small>{both}</small>', page)


def test_a_catalog_without_them_shows_no_empty_sections(
    dump: Callable[[Path, str], str], small_report_path: Path
) -> None:
    page = _page(dump(small_report_path, "#feature-0"))
    assert "Strongest" in page
    assert not any(words in page for words in SECTIONS)


def test_planted_text_stays_text_in_causes_and_top_tokens(dump: Callable[[Path, str], str], tmp_path: Path) -> None:
    with build_described() as connection:
        plant_hostile_text(connection)
        connection.execute("UPDATE vocabulary SET text = $1, bytes = $2", [HOSTILE, HOSTILE.encode()])
        written = write_report(connection, tmp_path / "report.html", title="T").path
    assert "<img" not in written.read_text(encoding="utf-8")
    dom = dump(written, "#feature-1")
    assert "data-owned" not in dom
    assert "<img" not in dom
    assert re.search(r"although <code.*?&lt;img src=x", _page(dom), re.DOTALL)
    assert "cannot be read" not in _page(dom)
