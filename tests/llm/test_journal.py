"""The journal: what is written is found again, torn lines are survived, damage is named, one writer at a time."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autointerp.errors import DataError, UserError
from autointerp.llm import Entry, Journal, Spend, Usage
from autointerp.llm.segments import Segment


def entry(key: str, **changes: Any) -> Entry:
    plain = Entry(
        key=key,
        provider="openai",
        model="m",
        served_model="m-dated",
        payload_hash="00",
        template_hash="t1",
        purpose="explain",
        sample=0,
        usage=Usage(input=100, output=20, cached=10),
        latency_s=1.5,
        attempts=2,
        finish="stop",
        text=f"text of {key}",
        time="2025-06-01T12:00:00.000+00:00",
    )
    return replace(plain, **changes)


def segments(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.jsonl"))


def test_an_entry_is_found_at_once_and_after_reopening(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal") as journal:
        journal.append(entry("a"))
        journal.append(entry("b", text="ünï ⟨tokens⟩ \u2028 \ud800 line\nbreak"))
        first = journal.get("b")
    with Journal(tmp_path / "journal") as journal:
        again = journal.get("b")
        assert len(journal) == 2
        assert "a" in journal
        assert journal.get("c") is None
    assert first == again
    assert again is not None
    assert again.text == "ünï ⟨tokens⟩ \u2028 \ud800 line\nbreak"
    assert again.from_journal
    assert again.usage == Usage(input=100, output=20, cached=10)
    assert (again.model, again.finish, again.key) == ("m", "stop", "b")


def test_a_line_holds_everything_that_the_documentation_names(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(entry("a"))
        assert list(journal.entries()) == [entry("a")]
    line = json.loads((tmp_path / "000001.jsonl").read_text())
    assert set(line) == {
        *("key", "provider", "model", "served_model", "payload_hash", "template_hash", "purpose", "sample"),
        *("usage", "latency_s", "attempts", "finish", "text", "time", "money", "prompt_chars", "logprobs"),
    }
    assert line["usage"] == {"input": 100, "output": 20, "cached": 10, "written": 0}


def test_every_writer_starts_a_segment_of_its_own_and_only_when_it_writes(tmp_path: Path) -> None:
    for key in ("a", "b"):
        with Journal(tmp_path) as journal:
            journal.append(entry(key))
        with Journal(tmp_path):
            pass
    assert segments(tmp_path) == ["000001.jsonl", "000002.jsonl"]


def test_an_answer_is_with_the_operating_system_when_append_returns(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for key in ("a", "b"):
            journal.append(entry(key))
            last = (tmp_path / "000001.jsonl").read_bytes().splitlines(keepends=True)[-1]
            assert last.endswith(b"\n")
            assert json.loads(last)["key"] == key


def test_a_line_torn_anywhere_is_left_out_and_never_appended_to(tmp_path: Path) -> None:
    with Journal(tmp_path / "whole") as journal:
        journal.append(entry("a"))
        journal.append(entry("b", text='x\n"y"'))
    whole = (tmp_path / "whole" / "000001.jsonl").read_bytes()
    start = whole.index(b"\n") + 1
    for cut in range(start, len(whole)):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "000001.jsonl").write_bytes(whole[:cut])
        with Journal(folder) as journal:
            # Only the newline is missing from the longest cut: the answer is whole, and is kept.
            assert ("a" in journal, "b" in journal) == (True, cut == len(whole) - 1)
            journal.append(entry("c"))
        assert (folder / "000001.jsonl").read_bytes() == whole[:cut]
        with Journal(folder) as journal:
            assert "a" in journal
            assert "c" in journal


def test_a_tail_of_zeros_after_a_power_cut_is_a_torn_line(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(entry("a"))
    with (tmp_path / "000001.jsonl").open("ab") as file:
        file.write(b"\0" * 100)
    with Journal(tmp_path) as journal:
        assert len(journal) == 1


@pytest.mark.parametrize("damage", [b'{"key": "a", "te\n', b"[1, 2]\n", b"\n", b"\xff\xfe\n"])
def test_damage_elsewhere_is_named_by_file_and_line(tmp_path: Path, damage: bytes) -> None:
    with Journal(tmp_path) as journal:
        for key in ("a", "b", "c"):
            journal.append(entry(key))
    path = tmp_path / "000001.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + damage + lines[2])
    with pytest.raises(DataError, match=r"000001\.jsonl, line 2"):
        Journal(tmp_path)
    path.write_bytes(b"".join(lines))
    assert len(Journal(tmp_path)) == 3  # the lock of the failed attempt is released


def test_a_line_without_a_key_of_ours_is_named(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(entry("a"))
    path = tmp_path / "000001.jsonl"
    line = json.loads(path.read_text())
    del line["purpose"]
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(DataError, match=r"000001\.jsonl, line 1: .*`purpose`"):
        Journal(tmp_path)


def test_the_first_of_two_answers_to_one_request_stands_and_both_are_paid(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with Journal(tmp_path) as journal:
            journal.append(entry("a", text=text))
    with Journal(tmp_path) as journal:
        answer = journal.get("a")
        assert answer is not None
        assert answer.text == "first"
        assert journal.spend() == [Spend("openai", "explain", "m", 2, 0, Usage(200, 40, 20), None, 2, 1.5)]


def test_spend_sums_by_group_and_counts_replies_that_are_no_answers(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(entry("a", provider="anthropic"))
        journal.append(entry("b", purpose="simulate", usage=Usage(7, 3, 0), money=0.1))
        journal.append(entry("c", purpose="simulate", usage=Usage(5, 1, 2, 1), finish="length", money=0.2))
        journal.append(entry("d", purpose="simulate", model="other", money=0.7))
        journal.append(entry("e", purpose="simulate", model="other", latency_s=0.25))
        live = journal.spend()
        assert journal.get("c") is None  # paid for, but no answer: it is asked again
        assert journal.money == 1.0
    with Journal(tmp_path, read_only=True) as journal:
        assert journal.spend() == live
        assert journal.get("c") is None
        assert journal.money == 1.0
    assert live == [
        Spend("anthropic", "explain", "m", 1, 0, Usage(100, 20, 10), None, 1, 1.5),
        Spend("openai", "simulate", "m", 2, 1, Usage(12, 4, 2, 1), 0.3, 0, 1.5),  # as floats they sum to more
        Spend("openai", "simulate", "other", 2, 0, Usage(200, 40, 20), 0.7, 1, 0.256),  # the upper edge of a bin
    ]


def test_a_reader_looks_on_while_another_writes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not there"):
        Journal(tmp_path / "none", read_only=True)
    with Journal(tmp_path) as writer:
        writer.append(entry("a"))
        with Journal(tmp_path, read_only=True) as reader:
            assert "a" in reader
            with pytest.raises(ValueError, match="read-only"):
                reader.append(entry("b"))
        writer.append(entry("b"))
    assert (tmp_path / "lock").exists()


def test_a_second_process_is_refused_and_told_the_holder(tmp_path: Path) -> None:
    hold = (
        "import sys\nfrom pathlib import Path\nfrom autointerp.llm.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\nprint('held', flush=True)\nsys.stdin.read()"
    )
    root = Path(__file__).resolve().parents[2]
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=rf"in use by process {holder.pid};"):
            Journal(tmp_path)
        holder.kill()
    with Journal(tmp_path):  # killed, not closed: the system released the lock
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_a_full_disk_stops_the_run_and_harms_no_other_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write = os.write

    def full(fd: int, data: bytes) -> int:
        if len(data) > 100:
            return real_write(fd, data[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Journal(tmp_path) as journal:
        journal.append(entry("a"))
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(UserError, match="No space left"):
            journal.append(entry("b"))
        monkeypatch.setattr(os, "write", real_write)
        assert "b" not in journal
        journal.append(entry("c"))
        assert segments(tmp_path) == ["000001.jsonl", "000002.jsonl"]
    with Journal(tmp_path) as journal:
        assert [key in journal for key in "abc"] == [True, False, True]


def test_a_write_that_the_system_cuts_short_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real_write(fd, data[:7]))
    with Journal(tmp_path) as journal:
        journal.append(entry("a"))
        journal.append(entry("b"))
        assert list(journal.entries()) == [entry("a"), entry("b")]


def test_a_segment_is_never_overwritten(tmp_path: Path) -> None:
    Segment(tmp_path / "000001.jsonl").close()
    with pytest.raises(FileExistsError):
        Segment(tmp_path / "000001.jsonl")


def test_a_segment_changed_behind_our_back_is_noticed(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(entry("a"))
        journal.append(entry("b"))
        path = tmp_path / "000001.jsonl"
        path.write_bytes(path.read_bytes().replace(b'"key":"b"', b'"key":"z"'))
        with pytest.raises(DataError, match="was changed while it was in use"):
            journal.get("b")
