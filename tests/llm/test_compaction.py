"""Compaction: one segment of all, nothing spent is forgotten, and a crash between any two steps harms nothing."""

import errno
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from autointerp.errors import DataError, UserError
from autointerp.llm import Calibration, Journal, Spend, TokenLogprobs, Usage
from autointerp.llm.segment_folder import list_segments
from tests.llm.entries import entry

KEYS = [f"{number:032x}" for number in range(12)]
STEPS = ("open", "write", "fsync", "replace", "unlink", "remove")


def time(second: int) -> str:
    return f"2025-06-01T12:00:{second:02d}.000+00:00"


def fill(folder: Path) -> None:
    """Three segments: answers out of order, a failure, a second answer, a torn end."""
    order = random.Random(0).sample(range(12), 12)
    for start in (0, 4, 8):
        with Journal(folder) as journal:
            for number in order[start : start + 4]:
                journal.append(entry(KEYS[number], time=time(number), money=0.1, prompt_chars=400))
            if start == 4:
                journal.append(entry("f" * 32, finish="length", money=0.3, time=time(30)))
                journal.append(entry(KEYS[order[0]], text="second", money=0.7, time=time(0), usage=Usage(9, 8, 7, 6)))
                journal.append(entry("e" * 32, logprobs=[TokenLogprobs("a", -0.5, {"b": -1.0})], time=time(31)))
    with (folder / "000002.jsonl").open("ab") as file:
        file.write(b'{"key": "torn')


State = tuple[list[Spend], float, dict[str, Calibration], list[Any]]


def state(folder: Path, *, read_only: bool = True) -> State:
    """Everything that a compaction must not change."""
    with Journal(folder, read_only=read_only) as journal:
        answers = [journal.get(key) for key in (*KEYS, "e" * 32, "f" * 32)]
        return journal.spend(), journal.money, journal.calibration("m"), answers


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_segment_in_the_order_of_time_with_the_same_answers_and_the_same_spending(tmp_path: Path) -> None:
    fill(tmp_path)
    before = state(tmp_path)
    with Journal(tmp_path) as journal:
        done = journal.compact()
        assert (done.segments, done.lines, done.duplicates) == (3, 15, 1)
        assert done.bytes_after == (tmp_path / "000004.jsonl").stat().st_size
        assert journal.spend() == before[0]
        entries = list(journal.entries())
        journal.append(entry("d" * 32))
    assert names(tmp_path) == ["000004.jsonl", "000005.jsonl", "lock"]
    assert [e.time for e in entries] == sorted(e.time for e in entries)
    second = [e for e in entries if e.finish == "duplicate"]
    assert [(e.text, e.money, e.usage) for e in second] == [("", 0.7, Usage(9, 8, 7, 6))]
    (tmp_path / "000005.jsonl").unlink()
    assert state(tmp_path) == before
    assert before[1] == pytest.approx(12 * 0.1 + 0.3 + 0.7)


def test_lines_are_carried_over_byte_for_byte(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(entry("a" * 32, text="\ud800 \u2028 é"))
    path = tmp_path / "000001.jsonl"
    odd = json.loads(path.read_text()) | {"key": "b" * 32, "of a later version": [1, {"x": None}]}
    with path.open("a") as file:
        file.write(json.dumps(odd))  # other spaces, an unknown key, and no newline at the end
    with Journal(tmp_path) as journal:
        journal.compact()
    header, *lines = (tmp_path / "000002.jsonl").read_text().splitlines()
    assert json.loads(header)["lines"] == 2
    assert lines[1] == json.dumps(odd)
    assert json.loads(lines[0])["text"] == "\ud800 \u2028 é"


def test_a_compacted_journal_is_left_alone_and_can_be_compacted_again_when_it_has_grown(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        assert journal.compact().segments == 0
    fill(tmp_path)
    with Journal(tmp_path) as journal:
        journal.compact()
        text = (tmp_path / "000004.jsonl").read_bytes()
        assert journal.compact().bytes_before == len(text) == (tmp_path / "000004.jsonl").stat().st_size
        journal.append(entry("d" * 32, time=time(0)))
        before = journal.spend()
        assert (done := journal.compact()).segments == 2 and done.duplicates == 0
        assert journal.spend() == before
        assert journal.get("d" * 32) is not None and len(journal) == 14
    assert names(tmp_path) == ["000006.jsonl", "lock"]
    assert len(json.loads((tmp_path / "000006.jsonl").read_text().splitlines()[0])["compacted"]) == 2


class Crash(BaseException):
    """The process ends here."""


@contextmanager
def crash_after(steps: int) -> Iterator[list[str]]:
    """Let so many system calls that change files happen; at the next one the process is dead, and does nothing more."""
    done: list[str] = []

    def guarded(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if name == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR):
                return real(*arguments, **named)
            if len(done) >= steps:
                raise Crash
            done.append(name)
            return real(*arguments, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, guarded(name, getattr(os, name)))
        yield done


def test_a_crash_between_any_two_steps_leaves_the_old_state_or_the_new(tmp_path: Path) -> None:
    fill(tmp_path / "start")
    before = state(tmp_path / "start")
    seen = set()
    for steps in range(100):
        folder = tmp_path / str(steps)
        shutil.copytree(tmp_path / "start", folder)
        journal = Journal(folder)
        with crash_after(steps) as done:
            try:
                journal.compact()
                crashed = False
            except Crash:
                crashed = True
        os.close(journal._lock)  # as the system does when a process ends
        left = names(folder)
        seen.add(tuple(name for name in left if name.endswith(".jsonl")))
        assert state(folder) == before, (steps, done, left)  # a reader, with everything as the crash left it
        assert names(folder) == left
        assert state(folder, read_only=False) == before, (steps, done, left)  # a writer, who clears up
        assert not [name for name in names(folder) if name.endswith(".partial")]
        assert not list_segments(folder).leftovers
        with Journal(folder) as again:
            again.compact()
        assert state(folder) == before
        if not crashed:
            break
    assert not crashed and steps >= 6
    old = ("000001.jsonl", "000002.jsonl", "000003.jsonl")
    assert seen == {
        old,
        (*old, "000004.jsonl"),
        (*old[1:], "000004.jsonl"),
        (old[2], "000004.jsonl"),
        ("000004.jsonl",),
    }


def test_a_crash_in_the_middle_of_the_new_segment(tmp_path: Path) -> None:
    """What a kill leaves of a half-written file: it has no segment's name and is cleared up."""
    fill(tmp_path)
    before = state(tmp_path)
    half = (tmp_path / "000001.jsonl").read_bytes()[:100]
    (tmp_path / ".000004.jsonl.0a1b2c3d.partial").write_bytes(b'{"compacted":[],"lines":1}\n' + half)
    assert state(tmp_path) == before
    assert state(tmp_path, read_only=False) == before
    assert names(tmp_path) == ["000001.jsonl", "000002.jsonl", "000003.jsonl", "lock"]


def test_a_full_disk_leaves_the_journal_as_it_was_and_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    before, left = state(tmp_path), names(tmp_path)

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Journal(tmp_path) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(UserError, match="No space left"):
                journal.compact()
        assert names(tmp_path) == left
        assert journal.spend() == before[0]
        assert journal.compact().segments == 3
    assert state(tmp_path) == before


def test_a_segment_of_another_journal_with_the_name_of_a_replaced_one_counts(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    with Journal(tmp_path / "a") as journal:
        journal.compact()
        paid = journal.money
    with Journal(tmp_path / "b") as journal:
        journal.append(entry("d" * 32, text="of b", money=5.0))
        journal.append(entry(KEYS[0], text="of b, the first in the folder", money=1.0))
    shutil.copy(tmp_path / "b" / "000001.jsonl", tmp_path / "a" / "000001.jsonl")
    with Journal(tmp_path / "a") as journal:
        assert journal.money == pytest.approx(paid + 6.0)  # both answers were paid for
        answer = journal.get("d" * 32)
        assert answer is not None and answer.text == "of b"
        spend, standing = journal.spend(), journal.get(KEYS[0])
        assert journal.compact().duplicates == 1
        assert journal.spend() == spend and journal.get(KEYS[0]) == standing
    assert (tmp_path / "a" / "000005.jsonl").exists()


def test_a_reader_that_was_there_before_goes_on(tmp_path: Path) -> None:
    fill(tmp_path)
    with Journal(tmp_path, read_only=True) as reader:
        entries = list(reader.entries())
        with Journal(tmp_path) as journal:
            journal.compact()
        assert list(reader.entries()) == entries
        assert reader.get(KEYS[3]) is not None


def test_a_reader_that_opens_in_the_middle_of_a_compaction_looks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autointerp.llm import journal as module

    fill(tmp_path)
    before = state(tmp_path)
    calls = []

    def listed(folder: Path) -> Any:
        found = list_segments(folder)
        if not calls:
            calls.append(1)
            with Journal(folder) as writer:
                writer.compact()
        return found

    monkeypatch.setattr(module, "list_segments", listed)
    assert state(tmp_path) == before


def test_what_can_not_be_compacted_is_named(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(entry("a" * 32))
        journal.append(entry("b" * 32, time="noon"))
        with pytest.raises(DataError, match=r"000001\.jsonl, line 2: the time is 'noon'"):
            journal.compact()
        assert names(tmp_path) == ["000001.jsonl", "lock"]
    with Journal(tmp_path, read_only=True) as journal, pytest.raises(ValueError, match="read-only"):
        journal.compact()
    (tmp_path / "000002.jsonl").write_text('{"compacted":3}\n')
    with pytest.raises(DataError, match=r"000002\.jsonl, line 1: a damaged header"):
        Journal(tmp_path)
