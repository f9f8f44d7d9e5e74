"""The index against a plain dict: what is found, which of two answers stands, and what is on disk and in memory."""

import errno
import hashlib
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.llm import index as module
from autointerp.llm import index_runs as runs_module
from autointerp.llm.index import Index, Place
from autointerp.llm.index_runs import RECORD, Records, Run, merged, new_run, open_run, ordered

DIGITS = st.sampled_from(["0" * 16, "0" * 15 + "1", "f" * 16, "8" + "0" * 15])
KEYS = st.one_of(
    st.builds(lambda high, low: high + low, DIGITS, DIGITS),  # many that are equal in one half, or end in zeros
    st.text(alphabet="0aF ", min_size=31, max_size=33),  # nearly such keys
    st.sampled_from(["", "a", "\ud800", "A" * 32, "a" * 32, "é" * 32]),
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 2 records, pieces of 3, loads of 5: so that tests of a few answers have all of them."""
    make_small(monkeypatch)


def make_small(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(runs_module, "_BLOCK", 2)
    patch.setattr(runs_module, "_PIECE", 3)
    patch.setattr(module, "_LOADED_AT_ONCE", 5)
    patch.setattr(module, "_FEW", 3)


@given(
    st.lists(st.lists(KEYS, max_size=8), max_size=4),
    st.lists(KEYS, max_size=12),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
)
def test_as_a_dict_in_which_the_first_stands(
    blocks: list[list[str]], added: list[str], flush_at: int, again: bool, in_folder: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        make_small(patch)
        index, plain = Index(Path(folder) if in_folder else None), dict[str, Place]()
        for segment, keys in enumerate(blocks):
            offsets = np.arange(len(keys), dtype=np.int64) * 1000 + 2**39
            index.extend(keys, segment, offsets, offsets % 7 + 1)
            for key, offset in zip(keys, offsets.tolist(), strict=True):
                plain.setdefault(key, Place(segment, offset, offset % 7 + 1))
            if again and segment == 1:  # a journal that has grown since
                index.finish()
                index.flush()
                index = Index(index._folder, index.runs)
        index.finish()
        for number, key in enumerate(added):
            place = Place(len(blocks), number * 10, 2**32 - 1)
            if number % 2:  # as a broker does, before it asks
                assert index.find(key) == plain.get(key)
            index.add(key, place)
            if number % flush_at == 0:
                index.flush()
            plain.setdefault(key, place)
            assert index.find(key) == plain[key]
        assert len(index) == len(plain)
        assert {key: index.find(key) for key in plain} == plain
        assert index.find("b" * 32) is None
        index.close()
        assert os.listdir(folder) == []  # nothing names the runs


def hashed(count: int) -> list[str]:
    return [hashlib.blake2b(number.to_bytes(4, "big"), digest_size=16).hexdigest() for number in range(count)]


def test_a_few_runs_each_more_than_twice_all_after_it(tmp_path: Path) -> None:
    keys = hashed(40_000)
    index = Index(tmp_path)
    for number, key in enumerate(keys):
        assert index.find(key) is None
        index.add(key, Place(0, number, 1))
        assert len(index._missing) <= 8192
        if number % 500 == 499:
            index.flush()
            counts = [run.count for run in index.runs]
            assert all(count > 2 * sum(counts[at + 1 :]) for at, count in enumerate(counts))
            assert len(counts) <= 5  # 500 × 3 ** 4 > 40,000
            assert len(list(tmp_path.iterdir())) == len(counts)  # what was merged is gone
    for number in random.Random(0).sample(range(40_000), 2000):
        assert index.find(keys[number]) == Place(0, number, 1)
    assert len(index) == 40_000 and not index._new
    index.close()


def test_memory_is_a_number_for_256_answers(tmp_path: Path) -> None:
    index, count = Index(tmp_path), 300_000
    keys = [f"{number:032x}" for number in range(count)]
    for begin in range(0, count, 1000):
        index.extend(keys[begin : begin + 1000], 0, np.arange(begin, begin + 1000), np.ones(1000, dtype=np.int64))
        assert sum(map(len, index._loading)) < 262_144
    index.finish()
    [run] = index.runs
    assert len(run._fences) == -(-count // 256)
    assert not index._new and not index._loading
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [28 * count]
    assert index.find(keys[-1]) == Place(0, count - 1, 1)
    index.close()


def test_an_empty_index() -> None:
    index = Index(None)
    index.extend([], 0, np.arange(0), np.arange(0))
    index.finish()
    index.flush()
    assert len(index) == 0 and index.find("a" * 32) is None and index.runs == []


def records_of(keys: list[bytes]) -> Records:
    records = np.zeros(len(keys), RECORD)
    records["key"] = np.frombuffer(b"".join(keys), "S16")
    records["place"] = np.arange(len(keys))
    return records


@given(st.lists(st.lists(st.binary(min_size=2, max_size=2), max_size=20), min_size=1, max_size=5))
def test_merging_is_sorting_in_which_the_first_run_wins(lists: list[list[bytes]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        parts = [ordered(records_of([bytes(7) + key + bytes(7) for key in keys])) for keys in lists if keys]
        runs = [new_run(None, lambda part=part: [part]) for part in parts]
        expected: dict[bytes, tuple[Any, ...]] = {}
        for part in parts:
            for record in part.tolist():
                expected.setdefault(record[0], record)
        found = [record for piece in merged(runs) for record in piece.tolist()]
        assert found == [expected[key] for key in sorted(expected)]
        for run in runs:
            run.close()


def test_of_equal_keys_within_a_run_the_first_stays() -> None:
    keys = [b"b" * 16, b"a" * 16, b"b" * 16, bytes(16), b"a" * 16]
    assert [(record[0], record[1]) for record in ordered(records_of(keys)).tolist()] == [
        (b"", 3), (b"a" * 16, 1), (b"b" * 16, 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b"x" + data[1:], lambda data: b""]
)
def test_a_run_that_was_changed_is_not_opened(tmp_path: Path, change: Any, small: None) -> None:
    run = new_run(tmp_path, lambda: [records_of([bytes([n]) * 16 for n in range(9)])])
    run.is_noted = True
    run.close()
    assert run.path is not None
    whole = open_run(run.path, run.count, run.check)
    assert whole is not None and whole._fences == run._fences
    assert whole.find(b"\4" * 16) is not None and whole.find(b"\4" * 15 + b"\5") is None
    whole.close()
    run.path.write_bytes(change(run.path.read_bytes()))
    assert open_run(run.path, run.count, run.check) is None


def full_after(pieces: int, monkeypatch: pytest.MonkeyPatch, places: set[type]) -> None:
    """The disk is full after so many pieces, in files of these types."""
    real = runs_module._written

    def written(file: Any, path: Path | None, content: Any) -> Run:
        def until_full() -> Iterator[Records]:
            for number, piece in enumerate(content):
                if number >= pieces and ("named" if path else type(file).__name__) in places:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                yield piece

        return real(file, path, until_full())

    monkeypatch.setattr(runs_module, "_written", written)


@pytest.mark.parametrize("full", [{"named"}, {"named", "_TemporaryFileWrapper", "BufferedRandom"}])
def test_where_there_is_no_room_a_run_is_elsewhere(
    tmp_path: Path, full: Any, monkeypatch: pytest.MonkeyPatch, small: None
) -> None:
    full_after(1, monkeypatch, full)
    index = Index(tmp_path)
    keys = hashed(60)
    for begin in range(0, 60, 4):
        index.extend(keys[begin : begin + 4], begin, np.arange(4), np.ones(4, dtype=np.int64))
    index.finish()
    for number, key in enumerate(keys):
        assert index.find(key) == Place(number // 4 * 4, number % 4, 1)
    assert index.runs[0].path is None and os.listdir(tmp_path) == []
    index.close()


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "index").write_text("a file")
    index = Index(tmp_path / "index")
    index.add("a" * 32, Place(1, 2, 3))
    index.flush()
    assert index.find("a" * 32) == Place(1, 2, 3) and index.runs[0].path is None
    index.close()
