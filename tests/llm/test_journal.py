"""The journal: what is written is found again, torn lines are survived, damage is named, one writer at a time."""

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autointerp.errors import DataError, UserError
from autointerp.llm import Journal, Spend, TokenLogprobs, Usage
from autointerp.llm.segments import Segment
from tests.llm.entries import entry


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


def test_money_written_tokens_and_logprobs_are_kept(tmp_path: Path) -> None:
    tokens = [
        TokenLogprobs("\ud800", -0.25, {"a": -1.5, "\ud800": -0.25}),
        TokenLogprobs("b", -math.inf, {"c": -math.inf}),
    ]
    one = entry("a", money=0.002, prompt_chars=321, logprobs=tokens, usage=Usage(9, 8, 3, 4))
    with Journal(tmp_path) as journal:
        journal.append(one)
        journal.append(entry("b", logprobs=()))
        live = journal.get("a")
    assert '"logprobs":[["\\ud800",-0.25,{"a":-1.5,' in (tmp_path / "000001.jsonl").read_text()
    assert "Infinity" not in (tmp_path / "000001.jsonl").read_text()
    with Journal(tmp_path) as journal:
        answer, without = journal.get("a"), journal.get("b")
        assert next(journal.entries()) == one
    assert answer is not None and answer == live and without is not None
    assert list(answer.logprobs) == tokens and without.logprobs == ()
    assert answer.usage == Usage(9, 8, 3, 4)


def test_lines_of_the_first_version_are_read(tmp_path: Path) -> None:
    line = (
        '{"key":"a","provider":"openai","model":"m","served_model":"m","payload_hash":"00","template_hash":"t",'
        '"purpose":"explain","sample":0,"usage":{"input":5,"output":4,"cached":3},"latency_s":1,"attempts":1,'
        '"finish":"stop","text":"x","time":"2025-06-01T12:00:00.000+00:00"}\n'
    )
    (tmp_path / "000001.jsonl").write_text(line)
    with Journal(tmp_path) as journal:
        answer = journal.get("a")
        assert answer is not None and (answer.text, answer.usage, answer.logprobs) == ("x", Usage(5, 4, 3, 0), ())
        old = next(journal.entries())
        assert (old.money, old.prompt_chars, old.logprobs, old.latency_s) == (None, 0, None, 1.0)
        assert journal.spend() == [Spend("openai", "explain", "m", 1, 0, Usage(5, 4, 3, 0), None, 1, 1.0)]
        assert journal.calibration("m")["explain"].tokens_per_char is None


def test_torn_lines_in_several_segments_are_left_out_by_every_reader(tmp_path: Path) -> None:
    for key in ("a", "b", "c"):
        with Journal(tmp_path) as journal:
            journal.append(entry(key))
    for name in ("000001.jsonl", "000002.jsonl"):
        with (tmp_path / name).open("ab") as file:
            file.write((tmp_path / name).read_bytes()[:-30])
    for read_only in (False, True):
        with Journal(tmp_path, read_only=read_only) as journal:
            assert [one.key for one in journal.entries()] == ["a", "b", "c"]
            assert len(journal) == 3 and journal.spend()[0].replies == 3


def test_keys_that_are_equal_in_one_half(tmp_path: Path) -> None:
    keys = [half * 16 + other * 16 for half in "0af" for other in "0af"]
    with Journal(tmp_path) as journal:
        for key in keys:
            journal.append(entry(key))
    for _ in range(2):
        with Journal(tmp_path) as journal:
            for key in keys:
                answer = journal.get(key)
                assert answer is not None and answer.text == f"text of {key}"
            assert journal.get("0" * 31 + "1") is None
            journal.compact()


def test_answers_of_ten_megabytes(tmp_path: Path) -> None:
    texts = {key: key * 10_000_000 for key in "ab"} | {"c": "short"}
    with Journal(tmp_path) as journal:
        for key, text in texts.items():
            journal.append(entry(key, text=text))
    with (tmp_path / "000001.jsonl").open("ab") as file:
        file.write(b'{"text":"' + b"x" * 3_000_000)
    with Journal(tmp_path) as journal:
        for key, text in texts.items():
            answer = journal.get(key)
            assert answer is not None and answer.text == text
        assert [one.text == texts[one.key] for one in journal.entries()] == [True] * 3


def test_more_segments_than_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autointerp.llm.segments._MOST_OPEN", 3)
    keys = [f"{number:032x}" for number in range(10)]
    for key in keys:
        with Journal(tmp_path) as journal:
            journal.append(entry(key))
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    with Journal(tmp_path, read_only=True) as journal:
        for key in (*keys, *keys[::-1]):
            assert journal.get(key) is not None
        assert [one.key for one in journal.entries()] == keys
        if before:
            assert len(os.listdir("/proc/self/fd")) <= before + 3
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


WRITER = """
import sys
from pathlib import Path
from autointerp.llm import Journal
from tests.llm.entries import entry
with Journal(Path(sys.argv[1])) as journal:
    print("open", flush=True)
    for number in range(3000):
        journal.append(entry(f"{number:032x}", text="x" * (number % 2000), money=1.0))
"""


def test_readers_look_on_while_another_process_writes(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], cwd=root, stdout=subprocess.PIPE)
    counts = [0]
    with writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"open\n"
        while writer.poll() is None:
            with Journal(tmp_path, read_only=True) as reader:
                found = len(reader)
                assert found == len(list(reader.entries())) == round(reader.money) == len(reader)
                assert found == 0 or reader.get(f"{found - 1:032x}") is not None
                assert reader.get(f"{found:032x}") is None
            counts.append(found)
        assert writer.returncode == 0
    assert counts == sorted(counts)
    with Journal(tmp_path) as journal:
        assert len(journal) == 3000


def test_a_segment_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autointerp.llm.segments._MOST_OPEN", 1)
    for key in ("a", "b"):
        with Journal(tmp_path) as journal:
            journal.append(entry(key))
    with Journal(tmp_path, read_only=True) as journal:
        (tmp_path / "000001.jsonl").unlink()
        with pytest.raises(DataError, match=r"000001\.jsonl was changed"):
            journal.get("a")
        with pytest.raises(DataError, match=r"000001\.jsonl is gone"):
            list(journal.entries())
