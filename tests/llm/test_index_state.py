"""The index and the sums on disk: the same answers and sums with them, and never a trace of stale ones."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autointerp.errors import DataError
from autointerp.llm import Journal, Usage, index_state
from autointerp.llm import journal as module
from tests.llm.entries import entry

KEYS = [f"{number:032x}" for number in range(8)]


@pytest.fixture(autouse=True)
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The index is saved every 4 lines; of the segments that are parsed, name and first line."""
    names: list[str] = []
    real = module.read_rows

    def read_rows(path: Path, block: Any) -> Any:
        names.append(f"{path.name}:{block.number}")
        return real(path, block)

    monkeypatch.setattr(module, "_LINES_BETWEEN_SAVES", 4)
    monkeypatch.setattr(module, "read_rows", read_rows)
    return names


def fill(folder: Path, stop: Callable[[Journal], None] = Journal.close) -> None:
    """Two segments of 5 lines, written by two processes; of the second 3 lines are covered if its process was killed."""
    for start in (0, 4):
        journal = Journal(folder)
        for key in KEYS[start : start + 4]:
            journal.append(entry(key, money=0.1, usage=Usage(9, start, 7, 1), prompt_chars=50))
        journal.append(entry(KEYS[0], text="again", money=0.2, finish="stop" if start else "length"))
        (stop if start else Journal.close)(journal)
    assert (folder / "index" / "state").exists()


def kill(journal: Journal) -> None:
    """What the system does when a process is killed."""
    os.close(journal._lock)
    journal._lock = -1


def state(folder: Path) -> Any:
    with Journal(folder, read_only=True) as journal:
        return journal.spend(), journal.calibration("m"), len(journal), [journal.get(key) for key in KEYS]


def without_index(folder: Path, tmp_path: Path) -> Any:
    """What a journal is whose segments are all parsed."""
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    shutil.rmtree(copy / "index", ignore_errors=True)
    try:
        return state(copy)
    finally:
        shutil.rmtree(copy)


def test_what_was_saved_is_not_parsed_and_nothing_differs(tmp_path: Path, parsed: list[str]) -> None:
    folder = tmp_path / "journal"
    fill(folder)
    expected = without_index(folder, tmp_path)
    parsed.clear()
    assert state(folder) == expected
    assert parsed == ["000002.jsonl:4"]  # saved after 4 lines of the first process, and 4 more
    for more in "abcd":
        with Journal(folder) as journal:
            journal.append(entry(more * 32, money=1.0))
            journal.append(entry(KEYS[3], text="third"))
        assert state(folder) == without_index(folder, tmp_path)
    parsed.clear()
    state(folder)
    assert len(parsed) <= 2  # by a writer, too, once they were four lines


def run_names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "index").iterdir()} - {"state"}


def test_after_a_kill_only_the_last_lines_are_parsed(tmp_path: Path, parsed: list[str]) -> None:
    folder = tmp_path / "journal"
    fill(folder, kill)
    with (folder / "000002.jsonl").open("ab") as file:
        file.write(b'{"key": "torn')
    (folder / "index" / "0123456789abcdef.run").write_bytes(b"written, and not yet named")
    expected = without_index(folder, tmp_path)
    parsed.clear()
    assert state(folder) == expected
    assert parsed == ["000002.jsonl:4"]
    with Journal(folder) as journal:
        for number in range(4):
            journal.append(entry(f"{number:032x}"))
    assert state(folder) == without_index(folder, tmp_path)
    assert run_names(folder) == {name for name, *_ in json.loads(text(folder).split(b"\n", 2)[2])["runs"]}


def text(folder: Path) -> bytes:
    return (folder / "index" / "state").read_bytes()


def change_money(folder: Path) -> None:
    path = folder / "000001.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"money":0.1', b'"money":0.9'))


def touch(folder: Path) -> None:
    os.utime(folder / "000001.jsonl", ns=(1, 1))


def put_one_in_front(folder: Path) -> None:
    shutil.copy(folder / "000002.jsonl", folder / "000000.jsonl")


def compact(folder: Path) -> None:
    with Journal(folder) as journal:
        journal.compact()
        journal.append(entry("9" * 32))


def drop_line(folder: Path) -> None:
    """Of the segment that its process was killed over; and it is longer than before."""
    path = folder / "000002.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[1:]) + 3 * lines[0])


def replaced(name: str, old: bytes, new: bytes) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        [path] = (folder / "index").glob(name)
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new))

    return change


STALE: dict[str, Callable[[Path], Any]] = {
    "money": change_money,
    "time": touch,
    "front": put_one_in_front,
    "removed": lambda folder: (folder / "000001.jsonl").unlink(),
    "begun removed": lambda folder: (folder / "000002.jsonl").unlink(),
    "begun shorter": lambda folder: os.truncate(folder / "000002.jsonl", 200),
    "begun changed": drop_line,
    "compacted": compact,
    "longer": lambda folder: (folder / "000001.jsonl").open("ab").write(b'{"torn'),
    "state cut": lambda folder: os.truncate(folder / "index" / "state", 300),
    "state empty": lambda folder: os.truncate(folder / "index" / "state", 0),
    "state gone": lambda folder: (folder / "index" / "state").unlink(),
    "state a folder": lambda folder: [(folder / "index" / "state").unlink(), (folder / "index" / "state").mkdir()],
    "state bits": replaced("state", b'"runs"', b'"funs"'),
    "version": replaced("state", b"index 2", b"index 1"),
    "run bits": replaced("*.run", b"\3", b"\4"),
    "run gone": lambda folder: [path.unlink() for path in (folder / "index").glob("*.run")],
    "run cut": lambda folder: [os.truncate(path, 28) for path in (folder / "index").glob("*.run")],
    "folder gone": lambda folder: shutil.rmtree(folder / "index"),
    "folder a file": lambda folder: [shutil.rmtree(folder / "index"), (folder / "index").write_text("")],
}


@pytest.mark.parametrize("change", STALE)
def test_a_stale_or_damaged_index_is_none(tmp_path: Path, change: str, parsed: list[str]) -> None:
    folder = tmp_path / "journal"
    fill(folder, kill)
    STALE[change](folder)
    expected = without_index(folder, tmp_path) if change != "folder a file" else None
    parsed.clear()
    found = state(folder)
    assert expected is None or found == expected
    assert parsed != ["000002.jsonl:4"]
    with Journal(folder):
        pass
    parsed.clear()
    assert state(folder) == found
    if change not in ("compacted", "state a folder", "folder a file"):  # one line more; nowhere to write to
        assert parsed == []  # it was made anew


def checked(body: bytes) -> bytes:
    return b"autointerp journal index 2\n%d\n" % zlib.crc32(body) + body


@pytest.mark.parametrize(
    "body",
    [b"x", b"[" * 100_000, b"{}", b"[]", b"5", b'{"segments": 5, "runs": []}', b'{"runs": 5}',
     b'{"segments": [], "begun": null, "runs": [], "tallies": [[1]]}',
     b'{"segments": [], "begun": null, "runs": [["x", 1, 1]], "tallies": []}',
     b'{"segments": [], "begun": null, "runs": [["../../000001.jsonl", 1, 1]], "tallies": []}',
     b'{"segments": [], "begun": null, "runs": [[5, null, "x"]], "tallies": []}',
     b'{"segments": [], "begun": ["000001.jsonl", 1e400, 1, 5], "runs": [], "tallies": []}',
     b'{"segments": [], "begun": ["000001.jsonl", -5, 1, 5], "runs": [], "tallies": []}',
     b'{"segments": [], "begun": ["000001.jsonl", "5", 1, 5], "runs": [], "tallies": []}',
     b'{"segments": [], "begun": [], "runs": [], "tallies": []}'],
)  # fmt: skip
def test_a_state_that_is_whole_and_none_of_ours(tmp_path: Path, body: bytes) -> None:
    with Journal(tmp_path) as journal:
        journal.append(entry("0" * 32))
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "state").write_bytes(checked(body))
    with Journal(tmp_path) as journal:
        assert "0" * 32 in journal and len(journal) == 1


def test_a_load_that_fails_half_way_saves_nothing(tmp_path: Path) -> None:
    fill(tmp_path)
    shutil.rmtree(tmp_path / "index")
    path = tmp_path / "000002.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b"damage\n")
    for _ in range(2):
        with pytest.raises(DataError, match=r"000002\.jsonl, line 6"):
            Journal(tmp_path)
        assert not (tmp_path / "index" / "state").exists()
    path.write_bytes(whole)
    assert state(tmp_path)[2] == 8


def test_damage_behind_what_is_covered_is_named_by_its_line(tmp_path: Path) -> None:
    fill(tmp_path, kill)
    with (tmp_path / "000002.jsonl").open("ab") as file:
        file.write(b"damage\n")
    with pytest.raises(DataError, match=r"000002\.jsonl, line 6"):
        Journal(tmp_path)


def test_a_reader_writes_nothing_and_a_full_disk_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "journal"
    fill(folder)
    shutil.rmtree(folder / "index")
    (folder / "index.cache").write_bytes(b"of an earlier version")
    expected = state(folder)
    assert not (folder / "index").exists()

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(index_state, "write_atomically", full)
    with Journal(folder) as journal:
        for number in range(10, 20):
            journal.append(entry(f"{number:032x}"))
        assert len(journal) == 18 and journal.get(KEYS[7]) == expected[3][7]
    assert sorted(path.name for path in folder.iterdir()) == [
        "000001.jsonl", "000002.jsonl", "000003.jsonl", "index", "lock",
    ]  # fmt: skip
    assert run_names(folder) == set()  # what nothing names is not left behind
    assert state(folder)[2] == 18


def test_without_a_place_for_a_file_the_index_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autointerp.llm import index_runs

    real = index_runs._written

    def written(file: Any, path: Path | None, pieces: Any) -> Any:
        if hasattr(file, "fileno") and type(file).__name__ != "BytesIO":
            file.close()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, path, pieces)

    monkeypatch.setattr(index_runs, "_written", written)
    with Journal(tmp_path) as journal:
        for number in range(40):
            journal.append(entry(f"{number:032x}", money=1.0))
        assert len(journal) == 40 and journal.get(KEYS[1]) is not None
    with Journal(tmp_path) as journal:
        assert len(journal) == 40 and journal.money == 40.0
    assert not (tmp_path / "index" / "state").exists()


def test_a_reader_that_opens_as_runs_are_replaced_looks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    writer = Journal(tmp_path)
    real, writes = index_state.open_run, []

    def open_run(path: Path, count: int, check: int) -> Any:
        if len(writes) < 2:
            writes.append(path)
            for number in range(8):
                writer.append(entry(f"{8 * len(writes) + number:032x}"))
        return real(path, count, check)

    monkeypatch.setattr(index_state, "open_run", open_run)
    with Journal(tmp_path, read_only=True) as reader:
        assert len(writes) == 2 and len(reader) == len(writer) == 24
        assert reader.spend() == writer.spend()
    writer.close()


def test_numbers_that_answers_get_are_the_same_whatever_is_opened_when(tmp_path: Path) -> None:
    """Sessions of random lengths, closed or killed, read beside and after, against a dict."""
    chance, plain, money = random.Random(1), dict[str, str](), 0
    for session in range(25):
        journal = Journal(tmp_path)
        for _ in range(chance.randrange(15)):
            key, kept = f"{chance.randrange(300):032x}", chance.random() < 0.8
            journal.append(entry(key, text=f"{session} {money}", finish="stop" if kept else "length", money=1.0))
            if kept:
                plain.setdefault(key, f"{session} {money}")
            money += 1
        if chance.random() < 0.2:
            journal.compact()
        with Journal(tmp_path, read_only=True) as reader:
            for one in (journal, reader):
                assert (len(one), one.money) == (len(plain), money)
                assert {key: answer.text for key in plain if (answer := one.get(key))} == plain
                assert one.get("f" * 32) is None
        kill(journal) if chance.random() < 0.5 else journal.close()


WRITER = """
import sys
from pathlib import Path
from autointerp.llm import journal
from tests.llm.entries import entry
journal._LINES_BETWEEN_SAVES = 50
with journal.Journal(Path(sys.argv[1])) as found:
    for number in range(len(found), 100_000):
        found.append(entry(f"{number:032x}", money=1.0))
        if number % 100 == 0:
            print(number, flush=True)
"""


def test_killed_at_any_moment(tmp_path: Path, parsed: list[str]) -> None:
    root, chance = Path(__file__).resolve().parents[2], random.Random(2)
    most = 0
    for _ in range(6):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], cwd=root, stdout=subprocess.PIPE)
        with writer:
            assert writer.stdout is not None
            for _ in range(chance.randint(1, 8)):
                most = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
        parsed.clear()
        with Journal(tmp_path, read_only=True) as reader:
            count = len(reader)
            assert count > most and reader.money == count
            for number in range(0, count, 17):
                answer = reader.get(f"{number:032x}")
                assert answer is not None and answer.text == f"text of {number:032x}"
        assert len(parsed) <= 2 and not [name for name in parsed if name.endswith(":1") and count > 400]
    assert len(run_names(tmp_path)) < 12
