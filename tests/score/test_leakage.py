"""The audit that stops a scoring job whose test contexts could be known to whoever wrote the labels."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from autointerp.catalog.store import Catalog
from autointerp.errors import DataError
from autointerp.score.leakage import audit

TEXT = list(range(100, 120))


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """Two documents, one of the explain split and one of the test split, a window each; nothing in common."""
    with Catalog.open(tmp_path / "catalog.duckdb", write=True) as found:
        for doc, split in enumerate(("explain", "test", "rerank")):
            found.rows("INSERT INTO documents VALUES (?, ?, ?, 20)", [doc, f"doc {doc}", split])
            window(found, doc, doc, split, [1000 * doc + token for token in TEXT])
            context(found, 7, doc, split, 9)
        yield found


def window(catalog: Catalog, number: int, doc: int, split: str, tokens: list[int]) -> None:
    catalog.rows("INSERT INTO windows BY NAME SELECT ? window_id, ? doc, 0 start, ? split, false in_pool, ? tokens",
                 [number, doc, split, tokens])  # fmt: skip


def context(
    catalog: Catalog, feature: int, number: int, split: str, peak: int, kind: str = "band", copy: bool = False
) -> None:
    """A context that is also active, more weakly, at the window's first token."""
    catalog.rows(
        "INSERT INTO contexts BY NAME SELECT ? feature_id, ? kind, ? split, 1 band, 1 \"rank\", ? window_id, 5.0 peak, "
        "[0, ?] positions, [0.5, 5.0] activations, ? duplicate",
        [feature, kind, split, number, peak, copy],
    )  # fmt: skip


def test_a_clean_catalog_passes(catalog: Catalog) -> None:
    audit(catalog, [7])
    audit(catalog, [])


@pytest.mark.parametrize("kind", ["top", "band"])
@pytest.mark.parametrize("seen", ["explain", "rerank"])
def test_the_same_13_tokens_around_the_peak_are_a_leak(catalog: Catalog, seen: str, kind: str) -> None:
    of = {"explain": 0, "rerank": 2}[seen]
    copied = [5, 6, *[1000 * of + token for token in TEXT[3:16]], 8]  # peak at 9 there, at 8 here
    window(catalog, 50, 1, "test", copied)
    context(catalog, 7, 50, "test", 8, kind)
    with pytest.raises(DataError, match=rf"feature 7 in window 50 \(test\) stand in window {of} \({seen}\)"):
        audit(catalog, [7])
    audit(catalog, [8])  # another feature's job is not concerned


def test_what_is_no_leak(catalog: Catalog) -> None:
    window(catalog, 50, 1, "test", [5, 6, *TEXT[3:16], 8])
    context(catalog, 7, 50, "test", 7)  # twelve of the tokens, and another one
    context(catalog, 8, 50, "test", 8)  # of another feature
    context(catalog, 7, 50, "test", 8, copy=True)  # known to the harvest, and left out of scoring
    window(catalog, 51, 1, "test", TEXT[4:16])
    context(catalog, 7, 51, "test", 5)  # too near the edge for 13 tokens
    audit(catalog, [7, 8])


def negative(
    catalog: Catalog, feature: int, number: int, split: str, place: int, kind: str, copy: bool = False
) -> None:
    catalog.rows(
        "INSERT INTO contexts BY NAME SELECT ? feature_id, ? kind, ? split, 0 band, 1 \"rank\", ? window_id, 0.0 peak, "
        "[] positions, [] activations, ? duplicate, 3 cause, ? cause_position",
        [feature, kind, split, number, copy, place],
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["near", "token"])
@pytest.mark.parametrize("shown", ["band", "near", "token"])
def test_hard_negatives_are_looked_at_around_their_cause(catalog: Catalog, kind: str, shown: str) -> None:
    """Explainers are shown some, and a label is graded on others: on texts that its author has not seen."""
    window(catalog, 49, 0, "explain", [1, 2, *range(400, 413), 3])
    context(catalog, 7, 49, "explain", 8) if shown == "band" else negative(catalog, 7, 49, "explain", 8, shown)
    window(catalog, 50, 1, "test", [*range(400, 413), 8, 9])
    negative(catalog, 7, 50, "test", 7, kind)  # around another token
    negative(catalog, 7, 50, "test", 6, kind, copy=True)  # known, and left out
    negative(catalog, 8, 50, "test", 6, kind)  # of another feature
    context(catalog, 9, 50, "test", 6)
    negative(catalog, 9, 49, "explain", 8, "near")  # where it is active its author was told the opposite
    audit(catalog, [7, 8, 9])
    negative(catalog, 7, 50, "test", 6, kind)
    with pytest.raises(DataError, match=r"feature 7 in window 50 \(test\) stand in window 49 \(explain\)"):
        audit(catalog, [7])


@pytest.mark.parametrize("place", [0, 3, 8, 11])
def test_at_the_ends_of_a_document_there_are_fewer_tokens_to_compare(catalog: Catalog, place: int) -> None:
    """The same short document under two names: all that stands around the peak is known, though it is not 13 tokens."""
    for doc, split in ((10, "explain"), (11, "test")):
        catalog.rows("INSERT INTO documents VALUES (?, ?, ?, 12)", [doc, f"doc {doc}", split])
        window(catalog, doc, doc, split, list(range(500, 512)))
        context(catalog, 7, doc, split, place)
    with pytest.raises(DataError, match=r"feature 7 in window 11 \(test\) stand in window 10 \(explain\)"):
        audit(catalog, [7])
    catalog.rows("UPDATE documents SET n_tokens = 40")
    catalog.rows("UPDATE windows SET start = 14")
    audit(catalog, [7])  # there are more tokens before and after, and nobody knows them


def test_a_document_in_two_splits_is_a_leak(catalog: Catalog) -> None:
    window(catalog, 60, 0, "test", [1, 2, 3])
    with pytest.raises(DataError, match="'doc 0' has windows in the splits explain, test"):
        audit(catalog, [7])


def test_a_window_of_another_split_than_its_document_is_a_leak(catalog: Catalog) -> None:
    catalog.rows("UPDATE documents SET split = 'explain' WHERE doc = 1")
    with pytest.raises(DataError, match="'doc 1' has windows in the splits test"):
        audit(catalog, [7])


def test_a_context_of_another_split_than_its_window_is_a_leak(catalog: Catalog) -> None:
    context(catalog, 7, 0, "test", 9)
    with pytest.raises(
        DataError, match="window 0 is of the split explain, and a context of feature 7 puts it into test"
    ):
        audit(catalog, [7])


def test_many_leaks_are_named_in_part(catalog: Catalog) -> None:
    for feature in range(2000):
        context(catalog, feature, 0, "test", 9)
    with pytest.raises(DataError) as error:
        audit(catalog, range(2000))
    assert str(error.value).count("window 0 is of the split") == 3
