"""Through files: requests out, responses in, whole or in part, in any order, from whoever wrote them."""

import json
import os
import random
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autointerp.errors import UserError
from autointerp.llm import FailureKind, Message, ProviderOptions, Request, open_provider
from autointerp.llm.provider import Queued
from autointerp.llm.providers.files import FilesProvider
from autointerp.llm.readable import fenced, visible, write_readable
from tests.llm.batch_driver import Driver, plain, two_steps
from tests.llm.server import openai_reply


class Desk:
    """A folder, and whoever answers what is in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "exchange"
        self.state = folder / "state"

    async def run(self, features: list[Any], rounds: int = 50) -> Driver:
        provider = open_provider(f"files:{self.folder}", folder=self.state)
        assert isinstance(provider, FilesProvider)
        driver = Driver(provider, self.state / "journal.jsonl")
        try:
            await driver.run(features, rounds)
        finally:
            driver.close()
            await provider.close()
        return driver

    async def stopped(self, features: list[Any]) -> str:
        with pytest.raises(UserError) as caught:
            await self.run(features)
        return str(caught.value)

    def asked(self) -> dict[str, dict[str, Any]]:
        """The requests by question."""
        lines = [json.loads(line) for line in (self.folder / "requests.jsonl").read_text().splitlines()]
        return {line["body"]["messages"][-1]["content"]: line for line in lines}

    def answer(self, question: str, text: str | None = None) -> dict[str, Any]:
        line = self.asked()[question]
        body = openai_reply(line["body"], text or f"answer to {question}", "stop")
        response = {"status_code": 200, "request_id": "r", "body": body}
        return {"id": "x", "custom_id": line["custom_id"], "response": response, "error": None}

    def write(self, *lines: dict[str, Any] | str, name: str = "responses.jsonl", end: str = "\n") -> None:
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (self.folder / name).write_text("\n".join(texts) + end, encoding="utf-8")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def test_two_rounds_through_files(desk: Desk) -> None:
    features = [two_steps(number) for number in range(3)]
    told = await desk.stopped(features)
    assert "3 requests wait in" in told and str(desk.folder / "responses.jsonl") in told and "same command" in told
    line = desk.asked()["question 1"]
    assert set(line) == {"custom_id", "method", "url", "body"}
    assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
    assert line["body"] == {
        "model": "m", "messages": [{"role": "user", "content": "question 1"}], "max_completion_tokens": 50,
    }  # fmt: skip
    first = [desk.answer(f"question {number}") for number in (2, 0, 1)]
    desk.write(*first)
    await desk.stopped(features)
    assert sorted(desk.asked()) == [f"and then? answer to question {number}" for number in range(3)]
    desk.write(*first, *[desk.answer(question) for question in desk.asked()])
    driver = await desk.run(features)
    assert driver.answers["and then? answer to question 0"] == "answer to and then? answer to question 0"
    assert not (desk.folder / "requests.jsonl").exists() and not (desk.folder / "requests.md").exists()


async def test_in_part_with_duplicates_strangers_and_damage(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    features = [plain(number) for number in range(8)]
    await desk.stopped(features)
    key = desk.asked()["question 2"]["custom_id"]
    error = {"custom_id": desk.asked()["question 3"]["custom_id"], "response": None, "error": {"message": "e"}}
    desk.write(
        desk.answer("question 0"), desk.answer("question 0", "a second answer"), "{ not json", "[1, 2]",
        {"custom_id": "0" * 32, "text": "of another run"}, {"custom_id": "\ud800", "text": "lone surrogate"},
        {"custom_id": key, "text": "short form"}, {"custom_id": key}, {"custom_id": key, "text": 5}, error,
        desk.answer("question 3"), "", json.dumps(desk.answer("question 4"))[:-9], end="",
    )  # fmt: skip
    desk.write(desk.answer("question 5"), desk.answer("question 0", "too late"), name="responses-2.jsonl")
    capsys.readouterr()
    told = await desk.stopped(features)
    assert "4 requests wait" in told
    assert sorted(desk.asked()) == [f"question {number}" for number in (1, 4, 6, 7)]
    said = capsys.readouterr().err
    path = desk.folder / "responses.jsonl"
    assert f"{path}, line 3, 4, 8, 9: no result of a batch" in said
    assert f"{path}: 2 lines answer no request of this run" in said and "responses-2" not in said
    desk.write(*[{"custom_id": line["custom_id"], "text": question} for question, line in desk.asked().items()])
    driver = await desk.run(features)
    assert driver.answers["question 0"] == "answer to question 0"
    assert driver.answers["question 2"] == "short form" and driver.answers["question 3"] == "answer to question 3"
    assert driver.answers["question 5"] == "answer to question 5" and driver.answers["question 7"] == "question 7"


async def test_reported_errors_are_failures_or_asked_again(desk: Desk) -> None:
    features = [plain(number) for number in range(5)]
    await desk.stopped(features)
    keys = {question: line["custom_id"] for question, line in desk.asked().items()}

    def failed(number: int, status: int, **error: Any) -> dict[str, Any]:
        response = {"status_code": status, "body": {"error": {"message": "it is so", **error}}}
        return {"custom_id": keys[f"question {number}"], "response": response, "error": None}

    vllm = {"custom_id": keys["question 2"], "response": {"status_code": 400, "body": None},
            "error": {"error": {"message": "too long", "type": "BadRequestError", "code": 400}}}  # fmt: skip
    desk.write(failed(0, 400), failed(1, 500), vllm, failed(3, 400, code="content_filter"), desk.answer("question 4"))
    provider = open_provider(f"files:{desk.folder}", folder=desk.state)
    assert isinstance(provider, FilesProvider)
    driver = Driver(provider, desk.state / "journal.jsonl")
    with pytest.raises(UserError, match="1 requests wait"):
        await driver.run(features)
    await provider.close()
    kinds = {question: failure.kind for question, failure in driver.failures.items()}
    assert kinds == {"question 0": FailureKind.REJECTED, "question 2": FailureKind.REJECTED,
                     "question 3": FailureKind.REFUSED}  # fmt: skip
    assert driver.failures["question 2"].reason == "HTTP 400: too long"
    assert driver.retries == {"question 1": 1} and list(desk.asked()) == ["question 1"]


async def test_a_partial_last_line_counts_when_it_is_whole(desk: Desk) -> None:
    await desk.stopped([plain(0)])
    whole = json.dumps(desk.answer("question 0"))
    for cut in (1, len(whole) // 2, len(whole) - 1):
        desk.write(whole[:cut], end="")
        assert "1 requests wait" in await desk.stopped([plain(0)])
    desk.write(whole, end="")  # whole, though without a newline
    assert (await desk.run([plain(0)])).answers == {"question 0": "answer to question 0"}


async def test_other_encodings_of_lines(desk: Desk) -> None:
    await desk.stopped([plain(0), plain(1)])
    lines = [json.dumps(desk.answer(f"question {number}")) for number in (0, 1)]
    (desk.folder / "responses.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n")
    assert len((await desk.run([plain(0), plain(1)])).answers) == 2


async def test_any_order_and_any_cut_gives_the_same(desk: Desk) -> None:
    """Answers come in over several runs, shuffled; what is asked again is always what is not answered yet."""
    chance, count = random.Random(3), 12
    features = [plain(number) for number in range(count)]
    await desk.stopped(features)
    answers = [desk.answer(f"question {number}") for number in range(count)]
    chance.shuffle(answers)
    for cut in (1, 5, 11):
        desk.write(*chance.sample(answers[:cut], cut))
        await desk.stopped(features)
        assert len(desk.asked()) == count - cut
    desk.write(*answers)
    assert (await desk.run(features)).answers == {f"question {n}": f"answer to question {n}" for n in range(count)}


async def test_what_is_not_asked_any_more_is_not_written(desk: Desk) -> None:
    await desk.stopped([plain(0), plain(1)])
    await desk.stopped([plain(1)])
    assert list(desk.asked()) == ["question 1"]


async def test_nothing_queued_yields_nothing(desk: Desk) -> None:
    provider = FilesProvider(ProviderOptions(argument=str(desk.folder), folder=desk.state))
    assert [delivered async for delivered in provider.collect()] == []
    await provider.close()
    assert not desk.folder.exists()


async def test_without_an_argument_the_run_folder_is_used(tmp_path: Path) -> None:
    provider = FilesProvider(ProviderOptions(folder=tmp_path))
    driver = Driver(provider, tmp_path / "journal")
    with pytest.raises(UserError, match="1 requests wait"):
        await driver.run([plain(0)])
    await provider.close()
    assert (tmp_path / "requests.jsonl").is_file()
    with pytest.raises(UserError, match="--provider files:DIR"):
        await FilesProvider(ProviderOptions()).queue(_queued("x"))


async def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "exchange").write_text("a file where the folder should be")
    provider = FilesProvider(ProviderOptions(argument=str(tmp_path / "exchange"), folder=tmp_path / "state"))
    await provider.queue(_queued("x"))
    with pytest.raises(UserError, match="exchange"):
        _ = [delivered async for delivered in provider.collect()]
    await provider.close()


async def test_memory_does_not_grow_with_payloads(tmp_path: Path) -> None:
    """50 MB of questions pass through in less than 5 MB."""
    import tracemalloc

    provider = FilesProvider(ProviderOptions(folder=tmp_path))
    await provider.queue(_queued("warm"))
    tracemalloc.start()
    for number in range(500):
        await provider.queue(_queued(f"{number} " + "x" * 100_000))
    with pytest.raises(UserError, match="501 requests wait"):
        _ = [delivered async for delivered in provider.collect()]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    await provider.close()
    assert (tmp_path / "requests.jsonl").stat().st_size > 50e6
    assert peak < 10e6, peak


HOSTILE = "a\n```\n# heading\n``````\n\x1b[31mred\x1b[0m\r\u202edesrever\u2028line\x00\ud800 <script>é"


def test_hostile_text_stays_in_its_block(tmp_path: Path) -> None:
    write_readable(tmp_path / "r.md", [_queued(HOSTILE), _queued("plain")], 2)
    raw = (tmp_path / "r.md").read_bytes()
    assert not set(raw) & {0x1B, 0x0D, 0x00} and b"\xe2\x80" not in raw
    text = raw.decode()
    blocks, headings = _blocks(text)
    assert headings == ["# Requests to be answered", f"## {_queued(HOSTILE).key}", f"## {_queued('plain').key}"]
    assert blocks == [
        "a\n```\n# heading\n``````\n\\x1b[31mred\\x1b[0m\\r\\u202edesrever\\u2028line\\x00\\ud800 <script>é", "plain",
    ]  # fmt: skip
    assert fenced("```").startswith("````text\n") and visible("a\tb\n") == "a\tb\n"


def test_the_readable_copy_is_capped(tmp_path: Path) -> None:
    write_readable(tmp_path / "r.md", (_queued(str(number)) for number in range(1000)), 1000)
    text = (tmp_path / "r.md").read_text()
    assert text.count("\n## ") == 200 and "1,000 requests wait" in text and "of the first 200" in text
    write_readable(tmp_path / "r.md", (_queued("x" * 1_500_000) for _ in range(3)), 3)
    assert (tmp_path / "r.md").stat().st_size < 2_100_000
    assert "of the first 1;" in (tmp_path / "r.md").read_text() or "of the first 1." in (tmp_path / "r.md").read_text()


def test_what_requests_share_is_shown_once_in_the_readable_copy(tmp_path: Path) -> None:
    shared = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "the same question"}]
    queued = [replace(_queued(""), key=key, payload={"messages": shared}) for key in ("a" * 32, "b" * 32)]
    write_readable(tmp_path / "r.md", queued, 2)
    text = (tmp_path / "r.md").read_text()
    assert text.count("be brief") == 1 and f"system: as in {'a' * 32} above" in text
    assert text.count("the same question") == 2


async def test_the_schema_is_in_both(desk: Desk) -> None:
    provider = FilesProvider(ProviderOptions(argument=str(desk.folder)))
    request = Request([Message("system", "be brief"), Message("user", "q")], json_schema={"type": "object"})
    payload = provider.payload("m", request)
    assert payload == open_provider("openai").payload("m", request)
    await provider.queue(Queued("k" * 32, "m", payload, "p", "t", "h", 0, 9, 9))
    with pytest.raises(UserError):
        _ = [delivered async for delivered in provider.collect()]
    await provider.close()
    assert desk.asked()["q"]["body"]["response_format"]["json_schema"]["schema"] == {"type": "object"}
    readable = (desk.folder / "requests.md").read_text()
    assert '{"type": "object"}' in readable and "system:\n" in readable and "be brief" in readable


async def test_a_full_disk_is_said_and_loses_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        patched.setattr(os, "replace", full)
        assert "No space left on device" in await desk.stopped([plain(0)])
    await desk.stopped([plain(0)])
    assert [path.name for path in desk.folder.iterdir() if "partial" in path.name] == []


async def test_answers_taken_over_leave_the_state(desk: Desk) -> None:
    await desk.stopped([plain(0)])
    desk.write(desk.answer("question 0"))
    await desk.run([plain(0)])
    with sqlite3.connect(desk.state / "files.sqlite") as db:
        assert db.execute("SELECT count(*) FROM requests").fetchone() == (0,)
        assert db.execute("SELECT count(*) FROM records").fetchone() == (0,)
        assert db.execute("SELECT count(*) FROM known").fetchone() == (1,)


def test_it_is_named_files_whatever_the_folder(tmp_path: Path) -> None:
    provider = open_provider(f"files:{tmp_path}")
    assert provider.name == "files"
    assert provider.capabilities.batch and provider.capabilities.temperature and provider.capabilities.json_schema


def _queued(text: str) -> Queued:
    key = f"{abs(hash(text)):032x}"[:32]
    payload = {"model": "m", "messages": [{"role": "user", "content": text}], "max_completion_tokens": 9}
    return Queued(key, "m", payload, "p", "t", "h", 0, 9, len(text))


def _blocks(markdown: str) -> tuple[list[str], list[str]]:
    """Fenced blocks and headings as CommonMark reads them: a fence is closed by one at least as long."""
    blocks: list[str] = []
    headings: list[str] = []
    inside: list[str] | None = None
    fence = 0
    lines: Iterator[str] = iter(markdown.split("\n"))
    for line in lines:
        ticks = len(line) - len(line.lstrip("`"))
        if inside is not None:
            if ticks >= fence and not line.strip("`").strip():
                blocks.append("\n".join(inside))
                inside = None
            else:
                inside.append(line)
        elif ticks >= 3:
            inside, fence = [], ticks
        elif line.startswith("#"):
            headings.append(line)
    assert inside is None
    return blocks, headings
