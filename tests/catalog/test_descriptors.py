"""Descriptors, co-firing features and hard negatives: the view's columns and the queries, against the tables."""

from collections.abc import Iterator

import duckdb
import pytest

from autointerp.catalog import pages
from autointerp.catalog.descriptors import cofiring, descriptors, hard_negatives, measured
from autointerp.catalog.feature_pages import feature_pages
from autointerp.catalog.page_rows import ContextQuota
from tests.report.described import build_described
from tests.report.synthetic import build_catalog

N = 8
NEW = ["top_token", "top_token_share", "token_entropy", "position_dependence", "peak_p50", "peak_p90", "peak_p99"]
Rows = list[tuple[object, ...]]


@pytest.fixture(scope="module")
def described() -> Iterator[duckdb.DuckDBPyConnection]:
    with build_described(N) as connection:
        yield connection


def _rows(connection: duckdb.DuckDBPyConnection, query: str) -> Rows:
    return connection.execute(query).fetchall()


def test_the_view_ends_with_the_descriptors_and_names_the_token(described: duckdb.DuckDBPyConnection) -> None:
    shown = described.execute("SELECT * FROM catalog ORDER BY feature_id")
    assert [column[0] for column in shown.description or ()][-7:] == NEW
    found = [row[-7:] for row in shown.fetchall()]
    texts = dict(_rows(described, "SELECT token, text FROM vocabulary"))
    stored = _rows(described, f"SELECT {', '.join(NEW)} FROM features ORDER BY feature_id")
    assert found == [(None if row[0] is None else texts[row[0]], *row[1:]) for row in stored]
    assert found[N - 1] == (None,) * 7  # dead
    assert found[0][0] is not None and found[0][3] == 0.125


def test_a_top_token_that_the_vocabulary_lacks_keeps_its_row() -> None:
    with build_described(N) as connection:
        connection.execute(
            "DELETE FROM vocabulary WHERE token IN (SELECT top_token FROM features WHERE feature_id = 0)"
        )
        assert _rows(connection, "SELECT count(*), count(top_token_share) FROM catalog") == [(N, N - 1)]
        assert _rows(connection, "SELECT top_token FROM catalog WHERE feature_id = 0") == [(None,)]


def test_the_neighbourhood_holds_both_measures_with_the_labels(described: duckdb.DuckDBPyConnection) -> None:
    titles = dict(_rows(described, "SELECT feature_id, title FROM catalog"))
    expected: Rows = []
    for kind, query in (
        ("decoder", "SELECT feature_id, rank, neighbour_id, cosine FROM neighbours"),
        ("cofiring", "SELECT feature_id, rank, neighbour_id, jaccard FROM cofiring"),
    ):
        expected += [(f, kind, rank, other, value, titles[other]) for f, rank, other, value in _rows(described, query)]  # type: ignore[index]
    expected.sort(key=lambda row: (row[0], row[1] == "cofiring", row[2]))
    assert _rows(described, "SELECT * FROM neighbourhood") == expected
    assert {row[1] for row in expected} == {"decoder", "cofiring"}


def test_descriptors_and_cofiring_come_as_they_are_stored(described: duckdb.DuckDBPyConnection) -> None:
    assert [row.feature_id for row in descriptors(described, [3, 0])] == [0, 3]
    one = descriptors(described, [0])[0]
    stored = _rows(described, f"SELECT {', '.join(NEW)} FROM features WHERE feature_id = 0")[0]
    assert tuple(getattr(one, name) for name in NEW) == stored
    query = "SELECT feature_id, neighbour_id, n_both, jaccard FROM cofiring WHERE feature_id = 1 ORDER BY rank"
    both = [(c.feature_id, c.neighbour_id, c.n_both, c.jaccard) for c in cofiring(described, [1])]
    assert both == _rows(described, query) != []


def test_a_few_negatives_show_different_causes(described: duckdb.DuckDBPyConnection) -> None:
    # Feature 1 has six near negatives, of ranks 0, 1, 2 beside feature 2 and 3, 4, 5 beside feature 3.
    query = "SELECT cause, rank, window_id FROM contexts WHERE feature_id = 1 AND kind = 'near' ORDER BY rank"
    stored = _rows(described, query)
    assert [row[:2] for row in stored] == [(2, 0), (2, 1), (2, 2), (3, 3), (3, 4), (3, 5)]
    taken = [stored[place] for place in (0, 3, 1, 4, 2)]
    five = [n for n in hard_negatives(described, [1], 5) if n.kind == "near"]
    assert [(n.cause, n.window_id) for n in five] == [(cause, window) for cause, _, window in taken]
    kinds = [n.kind for n in hard_negatives(described, [1], 2)]
    assert kinds == ["near", "near", "token", "token"]
    assert hard_negatives(described, [1], 0) == []


def test_the_token_of_a_negative_stands_where_it_says(described: duckdb.DuckDBPyConnection) -> None:
    tokens = dict(_rows(described, "SELECT window_id, tokens FROM windows"))
    held = [n for n in hard_negatives(described, range(N), 9) if n.kind == "token"]
    assert held
    assert all(tokens[n.window_id][n.cause_position] == n.cause for n in held)  # type: ignore[index]


def test_pages_hold_them_and_nothing_else_changes(described: duckdb.DuckDBPyConnection) -> None:
    rows = pages.feature_rows(described)
    found = {page.feature_id: page for page in feature_pages(described, rows)}
    assert [n.kind for n in found[1].negatives] == ["near", "near", "token", "token"]
    assert found[1].cofiring == cofiring(described, [1])
    assert found[N - 1].descriptors is not None and found[N - 1].descriptors.top_token is None
    assert (found[N - 1].cofiring, found[N - 1].negatives) == ([], [])
    assert feature_pages(described, rows[:1], ContextQuota(negatives=0))[0].negatives == []
    with build_catalog(N, 120) as before:
        plain = {page.feature_id: page for page in feature_pages(before, pages.feature_rows(before))}
    assert all(found[i].contexts == plain[i].contexts and found[i].scores == plain[i].scores for i in range(N))


def test_a_catalog_of_the_first_schema_has_no_room_for_them() -> None:
    with build_catalog(N, 120) as connection:
        rows = pages.feature_rows(connection)
        assert measured(connection)
        connection.execute("DROP TABLE cofiring")
        for table, names in (("features", NEW), ("contexts", ["cause", "cause_position"])):
            for name in names:
                connection.execute(f"ALTER TABLE {table} DROP COLUMN {name}")
        assert not measured(connection)
        page = feature_pages(connection, rows)[0]
    assert (page.descriptors, page.cofiring, page.negatives) == (None, [], [])
    assert page.contexts
