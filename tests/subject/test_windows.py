"""Windows, ids and splits."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autointerp.hashing import mix, stable_hash
from autointerp.subject.windows import SPLIT_SHARES, cut_document, join, split_of


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=100), st.integers(1, 20))
def test_windows_cover_the_document_in_order(tokens: list[int], length: int) -> None:
    windows = cut_document(7, "d", tokens, length, 0)
    assert windows.tokens.tolist() == tokens
    sizes = np.diff(windows.offsets)
    assert (sizes[:-1] == length).all() and 1 <= sizes[-1] <= length
    assert windows.start.tolist() == windows.offsets[:-1].tolist()
    assert set(windows.doc.tolist()) == {7}


def test_ids_depend_on_document_and_start_only() -> None:
    one = cut_document(0, "a", list(range(50)), 10, 0)
    other = cut_document(9, "a", list(range(30)), 10, 3)
    assert one.window_id[:3].tolist() == other.window_id.tolist()
    assert not set(one.window_id.tolist()) & set(cut_document(0, "b", list(range(50)), 10, 0).window_id.tolist())


def test_join_keeps_everything() -> None:
    parts = [cut_document(i, f"d{i}", list(range(i, 25)), 10, 0) for i in range(3)]
    joined = join(parts)
    assert len(joined) == sum(len(part) for part in parts)
    assert joined.tokens.tolist() == [t for part in parts for t in part.tokens.tolist()]
    assert joined.offsets[-1] == len(joined.tokens)


def test_splits_have_their_shares_and_do_not_depend_on_order() -> None:
    splits = np.array([split_of(f"document {i}", 0) for i in range(20_000)])
    shares = np.bincount(splits, minlength=3) / len(splits)
    assert np.abs(shares - SPLIT_SHARES).max() < 0.015  # four standard deviations
    assert split_of("document 5", 0) == splits[5]
    assert any(split_of(f"document {i}", 1) != splits[i] for i in range(50))


def test_hashes_are_the_same_on_every_machine() -> None:
    # splitmix64 of state 0 and 1: the published first outputs of the generator seeded so.
    assert int(mix(np.array([0], np.uint64))[0]) == 0xE220A8397B1DCDAF
    assert int(mix(np.array([1], np.uint64))[0]) == 0x910A2DEC89025CC1
    assert stable_hash("ab", "c") != stable_hash("a", "bc")
