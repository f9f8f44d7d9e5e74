"""The cache of the index: the same answers and sums with it, and never a trace of a stale one."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autointerp.errors import DataError
from autointerp.llm import Journal, Usage
from autointerp.llm import journal as module
from tests.llm.entries import entry

KEYS = [f"{number:032x}" for number in range(8)]


@pytest.fixture(autouse=True)
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Caches are written from 4 lines on; the names of the segments that are parsed."""
    names: list[str] = []
    real = module.read_rows

    def read_rows(path: Path, block: Any) -> Any:
        names.append(path.name)
        return real(path, block)

    monkeypatch.setattr(module, "_WORTH_CACHING", 4)
    monkeypatch.setattr(module, "read_rows", read_rows)
    return names


def fill(folder: Path) -> None:
    """Two segments of 5 lines, written by two processes; a cache of both."""
    for start in (0, 4):
        with Journal(folder) as journal:
            for key in KEYS[start : start + 4]:
                journal.append(entry(key, money=0.1, usage=Usage(9, start, 7, 1), prompt_chars=50))
            journal.append(entry(KEYS[0], text="again", money=0.2, finish="stop" if start else "length"))
    assert (folder / "index.cache").exists()


def state(folder: Path) -> Any:
    with Journal(folder, read_only=True) as journal:
        return journal.spend(), journal.calibration("m"), len(journal), [journal.get(key) for key in KEYS]


def without_cache(folder: Path, tmp_path: Path) -> Any:
    """What a journal is whose segments are all parsed."""
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "index.cache").unlink(missing_ok=True)
    try:
        return state(copy)
    finally:
        shutil.rmtree(copy)


def test_with_the_cache_nothing_is_parsed_and_nothing_differs(tmp_path: Path, parsed: list[str]) -> None:
    folder = tmp_path / "journal"
    fill(folder)
    expected = without_cache(folder, tmp_path)
    parsed.clear()
    assert state(folder) == expected
    assert parsed == []
    with Journal(folder) as journal:
        journal.append(entry("f" * 32, money=1.0))
        journal.append(entry(KEYS[3], text="third"))
    expected = without_cache(folder, tmp_path)
    parsed.clear()
    assert state(folder) == expected
    assert parsed == ["000003.jsonl"]  # two lines were not worth another cache
    for more in "abcd":
        with Journal(folder) as journal:
            journal.append(entry(more * 32))
    assert state(folder) == without_cache(folder, tmp_path)
    parsed.clear()
    state(folder)
    assert len(parsed) <= 4


def change_text(folder: Path) -> None:
    path = folder / "000001.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"money":0.1', b'"money":0.9'))


def touch(folder: Path) -> None:
    os.utime(folder / "000002.jsonl", ns=(1, 1))


def put_one_in_front(folder: Path) -> None:
    shutil.copy(folder / "000002.jsonl", folder / "000000.jsonl")


def compact(folder: Path) -> None:
    with Journal(folder) as journal:
        journal.compact()
        journal.append(entry("9" * 32))


STALE: dict[str, Callable[[Path], Any]] = {
    "text": change_text,
    "time": touch,
    "front": put_one_in_front,
    "removed": lambda folder: (folder / "000001.jsonl").unlink(),
    "compacted": compact,
    "longer": lambda folder: (folder / "000002.jsonl").open("ab").write(b'{"torn'),
    "cache cut": lambda folder: os.truncate(folder / "index.cache", 300),
    "cache empty": lambda folder: os.truncate(folder / "index.cache", 0),
    "cache bits": lambda folder: (folder / "index.cache").write_bytes(
        (folder / "index.cache").read_bytes()[:-1] + b"\xff"
    ),
    "version": lambda folder: (folder / "index.cache").write_bytes(
        (folder / "index.cache").read_bytes().replace(b"index 1", b"index 0")
    ),
}


@pytest.mark.parametrize("change", STALE)
def test_a_stale_or_damaged_cache_is_no_cache(tmp_path: Path, change: str, parsed: list[str]) -> None:
    folder = tmp_path / "journal"
    fill(folder)
    STALE[change](folder)
    expected = without_cache(folder, tmp_path)
    parsed.clear()
    assert state(folder) == expected
    assert parsed
    with Journal(folder):
        pass
    assert state(folder) == expected


def test_a_load_that_fails_half_way_leaves_no_cache(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "index.cache").unlink()
    path = tmp_path / "000002.jsonl"
    text = path.read_bytes()
    path.write_bytes(text + b"damage\n")
    for _ in range(2):
        with pytest.raises(DataError, match=r"000002\.jsonl, line 6"):
            Journal(tmp_path)
        assert not (tmp_path / "index.cache").exists()
    path.write_bytes(text)
    assert state(tmp_path)[2] == 8


def test_a_reader_writes_none_and_a_full_disk_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    (tmp_path / "index.cache").unlink()
    (tmp_path / ".index.cache.0a1b2c3d.partial").write_bytes(b"half")
    state(tmp_path)
    assert not (tmp_path / "index.cache").exists()

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_cache", full)
    with Journal(tmp_path) as journal:
        assert len(journal) == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000001.jsonl", "000002.jsonl", "lock"]
