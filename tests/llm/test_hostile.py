"""Bad input from everywhere: what a server, a file or a user can get wrong is one line, and never costs an answer."""

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from autointerp.config import SpendingConfig
from autointerp.errors import DataError, UserError
from autointerp.llm import Broker, Deferred, Journal, Message, Request, open_provider
from autointerp.llm.batch_store import RequestStore
from autointerp.llm.entry import to_record
from autointerp.llm.price import Price, Tariff
from autointerp.llm.prices import find_price
from autointerp.llm.provider import CallFailed, Queued, Reply
from autointerp.llm.providers.anthropic import read_message
from autointerp.llm.providers.mock import MockProvider
from autointerp.llm.purse import Purse
from autointerp.llm.types import Usage
from autointerp.llm.wire import ReplyReader, WireReply, count
from tests.llm import server as serve
from tests.llm.entries import entry
from tests.llm.server import LlmServer

KEY = "planted-4f9c1e77d2b84a06"
PRICE = Price(1.0, 1.0, 1.0, 1.0)


def question(text: str = "why?", **fields: Any) -> Request:
    return Request([Message("user", text)], **fields)


@pytest.mark.parametrize("said", [-5, 10**400, 2**64, "5", 1.5, float("nan"), True, [], None])
def test_a_count_that_can_not_be_true_is_none(said: object) -> None:
    assert count({"prompt_tokens": said}, "prompt_tokens") == 0


@pytest.mark.parametrize("said", [-5, 10**400, True])
async def test_absurd_usage_costs_no_answer(
    tmp_path: Path, llm_server: LlmServer, monkeypatch: pytest.MonkeyPatch, said: int
) -> None:
    usage = {"prompt_tokens": said, "completion_tokens": said}
    plain = serve.openai_reply
    monkeypatch.setattr(serve, "openai_reply", lambda *asked: plain(*asked) | {"usage": usage})
    provider = open_provider("http", base_url=llm_server.openai_url)
    with Journal(tmp_path) as journal:
        async with Broker(provider, "m", journal, price_of=lambda model: Tariff(PRICE), purse=Purse(1.0)) as broker:
            answer = await broker.ask(question())
    assert answer.usage == Usage()
    with Journal(tmp_path, read_only=True) as journal:
        assert [found.text for found in journal.entries()] == ["answer to why?"]


def test_a_server_that_quotes_the_key_in_an_answer() -> None:
    reply = ReplyReader(KEY, "K").read("a", 200, {}, json.dumps({"text": f"Bearer {KEY}"}).encode())
    assert isinstance(reply, WireReply) and reply.body == {"text": "Bearer [key]"}


def test_a_reason_holds_nothing_that_moves_a_terminal() -> None:
    body = {"error": {"message": "a\x1b[31m\x00\ud800\u202eb\nc"}}
    failure = ReplyReader("", "K").read("a", 400, {}, json.dumps(body).encode())
    assert isinstance(failure, CallFailed) and failure.reason == "HTTP 400: a\ufffd[31m\ufffd\ufffd\ufffdb c"


@pytest.mark.parametrize("text", [None, ["a"], 5])
def test_a_message_whose_text_is_none(text: object) -> None:
    with pytest.raises(CallFailed, match="without text"):
        read_message({"content": [{"type": "text", "text": text}], "stop_reason": "end_turn"})


@pytest.mark.parametrize("ending", ["drained", "stopped"])
async def test_who_waits_for_money_is_not_sent_when_the_run_ends(tmp_path: Path, ending: str) -> None:
    sent, first_may_end = [], asyncio.Event()

    class Slow(MockProvider):
        async def send(self, request: Request, payload: Any) -> Reply:
            sent.append(request.messages[0].content)
            await first_may_end.wait()
            if ending == "stopped":
                raise UserError("refused the key")
            return Reply("fine", usage=Usage(1, 1))

    with Journal(tmp_path) as journal:
        broker = Broker(Slow(), "m", journal, price_of=lambda model: Tariff(PRICE), purse=Purse(0.002))
        async with broker:
            asks = [asyncio.create_task(broker.ask(question(text, max_tokens=10))) for text in ("one", "two")]
            while not sent:
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            if ending == "drained":
                broker.drain()
            first_may_end.set()
            await asyncio.wait(asks)
    assert sent == ["one"]
    assert isinstance(asks[1].exception(), Deferred if ending == "drained" else UserError)


@pytest.mark.parametrize(
    "change",
    [{"money": float("inf")}, {"money": float("nan")}, {"money": 1e300}, {"latency_s": float("inf")}, {"latency_s": float("nan")},
     {"prompt_chars": 10**400}, {"usage": {"input": 10**400, "output": 1, "cached": 0}}, {"logprobs": "deep"}],
)  # fmt: skip
def test_a_line_of_the_journal_that_nobody_wrote(tmp_path: Path, change: dict[str, Any]) -> None:
    line = json.dumps(to_record(entry("0" * 32)) | change)
    (tmp_path / "000001.jsonl").write_text(line.replace('"deep"', "[" * 5000 + "]" * 5000) + "\n")
    with pytest.raises(DataError, match=r"000001\.jsonl, line 1"):
        Journal(tmp_path)


@pytest.mark.parametrize("record", ["x", "[]", "5", '{"model": "m"}', "[" * 50_000])
def test_a_record_of_a_batch_that_is_none(tmp_path: Path, record: str) -> None:
    path = tmp_path / "s.sqlite"
    store = RequestStore(path)
    store.add(Queued("k", "m", {}, "h", "p", "t", 0, 5, 3))
    store.intend("token", ["k"], 0.0)
    store.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE records SET record = ?", (record,))
    db.close()
    store = RequestStore(path)
    with pytest.raises(DataError, match="is damaged"):
        store.first("token")
    store.close()


def test_a_folder_where_the_state_of_batches_should_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be written or read"):
        RequestStore(tmp_path)


@pytest.mark.parametrize(
    "url",
    ["http://[::1", "http://[zz]/", "http://host:abc", "http://127.0.0.1:99999", "http://..x", "http://" + "a" * 300,
     "http://x/\x1b[31m", "http://x/\ud800", "http://x\n.y"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["http", "openai", "anthropic"])
def test_no_url(name: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="expected a whole URL"):
        open_provider(name, base_url=url)
    if name != "http" and "\ud800" not in url:
        monkeypatch.setenv(f"{name.upper()}_BASE_URL", url)
        monkeypatch.setenv(f"{name.upper()}_API_KEY", KEY)
        assert find_price(name, "m") is None
        provider = open_provider(name)
        with pytest.raises(UserError, match="expected a whole URL"):
            provider.connect()


def test_a_host_that_only_the_client_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(UserError, match="expected a whole URL"):
        open_provider("openai", base_url="http://\U0001f4a9.invalid").connect()


@pytest.mark.parametrize(
    "text",
    ["input = 1e308", "input = " + "9" * 5000, "input = inf", "input = -1", "input = true", "input = " + "[" * 50_000,
     "input = 1\nlong = {above = 1, input = 1e308, output = 1}"],
)  # fmt: skip
def test_prices_that_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(f'[[price]]\nmodel = "m"\noutput = 1\n{text}\n')
    with pytest.raises(DataError, match=r"prices\.toml"):
        find_price("openai", "m", (), path)


@pytest.mark.parametrize("name", ["~nobodyatall/x", "a\0b", "a" * 300])
def test_a_file_of_prices_that_can_not_be_there(name: str) -> None:
    with pytest.raises(UserError):
        find_price("openai", "m", (), name)


@pytest.mark.parametrize("budget", [float("inf"), float("nan"), 1e300, 0.0, -1.0])
def test_a_budget_that_is_none(budget: float) -> None:
    with pytest.raises(ValidationError, match="budget"):
        SpendingConfig(budget=budget)
