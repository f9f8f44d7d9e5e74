"""The index against a plain dict: what is found, and which of two answers stands."""

import hashlib
import random
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.llm import index as module
from autointerp.llm.index import Index, Place

DIGITS = st.sampled_from(["0" * 16, "0" * 15 + "1", "f" * 16, "8" + "0" * 15])
KEYS = st.one_of(
    st.builds(lambda high, low: high + low, DIGITS, DIGITS),  # many that are equal in one half
    st.text(alphabet="0aF ", min_size=31, max_size=33),  # nearly such keys
    st.sampled_from(["", "a", "\ud800", "A" * 32, "a" * 32, "é" * 32]),
)


@given(st.lists(st.lists(KEYS, max_size=8), max_size=4), st.lists(KEYS, max_size=12), st.integers(1, 4))
def test_as_a_dict_in_which_the_first_stands(blocks: list[list[str]], added: list[str], merge_at: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SMALLEST_MERGE", merge_at)
        index, plain = Index(), dict[str, Place]()
        for segment, keys in enumerate(blocks):
            offsets = np.arange(len(keys), dtype=np.int64) * 1000 + 2**39
            index.extend(keys, segment, offsets, offsets % 7 + 1)
            for key, offset in zip(keys, offsets.tolist(), strict=True):
                plain.setdefault(key, Place(segment, offset, offset % 7 + 1))
        index.finish()
        for number, key in enumerate(added):
            place = Place(len(blocks), number * 10, 2**32 - 1)
            index.add(key, place)
            plain.setdefault(key, place)
            assert index.find(key) == plain[key]
        assert len(index) == len(plain)
        assert {key: index.find(key) for key in plain} == plain
        assert index.find("b" * 32) is None


def test_what_is_added_goes_into_the_arrays_now_and_then() -> None:
    keys = [hashlib.blake2b(bytes([n % 256, n // 256]), digest_size=16).hexdigest() for n in range(40_000)]
    index = Index()
    index.finish()
    for number, key in enumerate(keys):
        index.add(key, Place(0, number, 1))
    assert len(index._run.high) == 32_768 and len(index._new) == 40_000 - 32_768
    assert (np.diff(index._run.high.astype(np.float64)) >= 0).all()
    for number in random.Random(0).sample(range(40_000), 2000):
        assert index.find(keys[number]) == Place(0, number, 1)


def test_memory_is_28_bytes_an_answer() -> None:
    index = Index()
    keys = [f"{number:032x}" for number in range(1000)]
    index.extend(keys, 0, np.arange(1000), np.ones(1000, dtype=np.int64))
    index.finish()
    assert sum(column.nbytes for column in index._run) == 28 * 1000
    assert not index._new and not index._loading and sys.getsizeof(index._new) < 100


def test_an_empty_index() -> None:
    index = Index()
    index.finish()
    assert len(index) == 0 and index.find("a" * 32) is None
