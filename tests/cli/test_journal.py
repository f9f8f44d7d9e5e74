"""The commands under `autointerp journal`."""

import csv
import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from autointerp import cli
from autointerp.cli.journal import journal as group
from autointerp.llm import Journal, TokenLogprobs, Usage
from tests.llm.entries import entry

ROOT = Path(__file__).resolve().parents[2]
A, B, C = ("a" * 32, "b" * 32, "c" * 32)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `autointerp journal …`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["autointerp", "journal", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    for key in (A, B):
        with Journal(tmp_path / "journal") as journal:
            journal.append(
                entry(key, money=0.25, payload_hash=key * 2, logprobs=[TokenLogprobs("x", -1.5, {"y": -2.0})])
            )
            journal.append(
                entry(C, finish="length", purpose="simulate", text="a,\ud800\n", payload_hash=C * 2,
                      usage=Usage(7, 5, 3, 1), model="bad\x1b[2J")
            )  # fmt: skip
    return tmp_path


def test_every_command_has_help_and_options_have_too() -> None:
    text = (ROOT / "docs" / "providers.md").read_text(encoding="utf-8")
    assert set(group.commands) == {"stats", "verify", "compact", "export"}
    for name, command in group.commands.items():
        assert command.help and f"autointerp journal {name} " in text
        assert all(option.help for option in command.params if option.param_type_name == "option")  # type: ignore[attr-defined]


def test_stats(capsys: pytest.CaptureFixture[str], run_folder: Path) -> None:
    code, out, _ = run(capsys, "stats", "--out", run_folder)
    assert code == 0
    rows = {line.split()[0]: line.split() for line in out.splitlines()}
    assert rows["explain"] == ["explain", "openai", "m", "2", "0", "200", "20", "0", "40", "0.5000", "1.50", "s"]
    assert rows["simulate"][2:] == ["bad⟨U+001B⟩[2J", "2", "2", "14", "6", "2", "10", "–", "1.50", "s"]
    assert out.endswith("4 replies, 2 answers that a rerun will use\n")
    with Journal(run_folder / "journal") as journal:
        journal.append(entry("d" * 32))
    assert "0.5000+" in run(capsys, "stats", "--out", run_folder)[1]


def test_no_journal_is_one_line_and_makes_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for command in ("stats", "verify", "compact", "export"):
        more = ("--to", tmp_path / "x.csv") if command == "export" else ()
        code, _, err = run(capsys, command, "--out", tmp_path / "run", *more)
        assert code == 2 and err.count("\n") == 1 and "is not there" in err
    assert not list(tmp_path.iterdir())


def test_verify_of_a_sound_journal(capsys: pytest.CaptureFixture[str], run_folder: Path) -> None:
    folder = run_folder / "journal"
    with Journal(folder) as journal:
        journal.append(entry(A, payload_hash=A * 2, text="second"))
    with (folder / "000001.jsonl").open("ab") as file:
        file.write(b'{"key":"torn \xff')
    (folder / "000004.jsonl").write_bytes((folder / "000003.jsonl").read_bytes())
    code, out, err = run(capsys, "verify", "--out", run_folder)
    assert (code, err) == (0, "")
    assert "torn     " in out and "000001.jsonl, line 3: torn off after 14 bytes" in out
    assert "6 replies, 4 answers, 2 of them to a question that was answered before (1 copies of a line), 1 torn" in out
    assert run(capsys, "compact", "--out", run_folder)[1].startswith("4 segments")
    code, out, _ = run(capsys, "verify", "--out", run_folder)
    assert code == 0 and "1 segments" in out and "2 answers, 0 of them" in out and "0 torn" in out


DAMAGE = [
    ('"key":"a', '"key":"z', "the key is 'zaaaa"),
    ('"attempts":2', '"attempts":0', "0 attempts"),
    ('"finish":"stop"', '"finish":"stopp"', "finish is 'stopp'"),
    ('"latency_s":1.5', '"latency_s":"1.5"', "latency_s"),
    ('"latency_s":1.5', '"latency_s":-1.5', "latency_s is -1.5"),
    ('"money":0.25', '"money":NaN', "money"),
    ('"input":100', '"input":-100', "a negative count"),
    ('"time":"2025', '"time":"year 2025', "the time is 'year 2025"),
    ('"payload_hash":"aa', '"payload_hash":"', "the payload's hash"),
    ('"payload_hash":"aa', '"payload_hash":"bb', "this key stands for another question there"),
    ('"key":"aa', '"key":"bb', "this question has another key there"),
    ('"logprobs":[[', '"logprobs":[[1,', "logprobs"),
    ('"sample":0', '"sample"0', "no JSON object"),
    ('"text"', '"txet"', "missing required field `text`"),
]


@pytest.mark.parametrize(("sound", "damaged", "message"), DAMAGE, ids=[case[2] for case in DAMAGE])
def test_verify_names_damage_and_goes_on(
    capsys: pytest.CaptureFixture[str], run_folder: Path, sound: str, damaged: str, message: str
) -> None:
    folder = run_folder / "journal"
    with Journal(folder) as journal:
        journal.append(entry(A, payload_hash=A * 2))
    path = folder / "000001.jsonl"
    text = path.read_text()
    assert sound in text
    path.write_text(text.replace(sound, damaged, 1))
    (folder / "000009.jsonl").write_text("[]\n")
    code, out, err = run(capsys, "verify", "--out", run_folder)
    assert code == 1 and err.startswith("damaged: ")
    assert "000001.jsonl, line 1" in out and message in out
    assert "000009.jsonl, line 1: no JSON object" in out and "no damage" not in out


def test_verify_counts_the_lines_of_a_compacted_segment(capsys: pytest.CaptureFixture[str], run_folder: Path) -> None:
    run(capsys, "compact", "--out", run_folder)
    path = run_folder / "journal" / "000003.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    code, out, _ = run(capsys, "verify", "--out", run_folder)
    assert code == 1 and "3 whole lines; a compaction wrote 4" in out


COLUMNS = [
    "key", "provider", "model", "served_model", "payload_hash", "template_hash", "purpose", "sample", "input_tokens",
    "cached_tokens", "written_tokens", "output_tokens", "latency_s", "attempts", "finish", "text", "time", "money",
    "prompt_chars", "logprobs", "calls",
]  # fmt: skip


def test_export(capsys: pytest.CaptureFixture[str], run_folder: Path) -> None:
    targets = {suffix: run_folder / f"replies.{suffix}" for suffix in ("parquet", "jsonl", "csv")}
    for target in targets.values():
        code, out, _ = run(capsys, "export", "--out", run_folder, "--to", target)
        assert code == 0 and out.startswith("4 replies in ")
    table = pq.read_table(targets["parquet"])
    exact = [json.loads(line) for line in targets["jsonl"].read_text().splitlines()]
    with targets["csv"].open(newline="", encoding="utf-8") as file:
        plain = list(csv.DictReader(file))
    assert table.column_names == list(exact[0]) == list(plain[0]) == COLUMNS
    assert [row["text"] for row in exact] == [f"text of {A}", "a,\ud800\n", f"text of {B}", "a,\ud800\n"]
    replaced = [row["text"].replace("\ud800", "\ufffd") for row in exact]
    assert table["text"].to_pylist() == [row["text"] for row in plain] == replaced
    assert exact[0]["logprobs"] == [["x", -1.5, {"y": -2.0}]] == json.loads(table["logprobs"][0].as_py())
    assert table["money"].to_pylist() == [row["money"] for row in exact] == [0.25, None, 0.25, None]
    assert (
        [table[name][1].as_py() for name in COLUMNS[8:12]] == [7, 3, 1, 5] == [int(plain[1][n]) for n in COLUMNS[8:12]]
    )
    code, _, err = run(capsys, "export", "--out", run_folder, "--to", run_folder / "x.xlsx")
    assert code == 2 and ".parquet, .jsonl, .csv" in err


def test_export_takes_rows_in_batches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from autointerp.llm import journal_export

    monkeypatch.setattr(journal_export, "_BATCH_ROWS", 3)
    assert journal_export.export((entry(str(n)) for n in range(10)), tmp_path / "x.parquet") == 10
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups == 4
    assert pq.read_table(tmp_path / "x.parquet")["key"].to_pylist() == [str(n) for n in range(10)]
    monkeypatch.setattr(journal_export, "_BATCH_CHARS", 5)
    journal_export.export((entry(str(n)) for n in range(10)), tmp_path / "y.parquet")
    assert pq.ParquetFile(tmp_path / "y.parquet").num_row_groups == 10
