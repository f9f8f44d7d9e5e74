"""The broker, real clients and a server that misbehaves: what is tried again, what fails, what is never asked twice."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autointerp.errors import UserError
from autointerp.llm import (
    Broker,
    CallFailed,
    FailureKind,
    Journal,
    Message,
    Provider,
    Reply,
    Request,
    RequestFailed,
    open_provider,
)
from autointerp.llm.providers.mock import MockProvider
from tests.llm import server as serve
from tests.llm.server import LlmServer

MakeBroker = Callable[..., Broker]


def question(text: str = "why?", **fields: Any) -> Request:
    return Request([Message("user", text)], purpose="explain", template_hash="t1", **fields)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal") as journal:
        yield journal


@pytest.fixture(params=["openai", "anthropic", "http"])
def provider(request: pytest.FixtureRequest, llm_server: LlmServer) -> Provider:
    return open_provider(request.param, base_url=llm_server.url_for(request.param))


@pytest.fixture
def broker(provider: Provider, journal: Journal) -> Broker:
    return Broker(provider, "m", journal, timeout=60, backoff=0.001)


async def fails(call: Coroutine[Any, Any, Any]) -> RequestFailed:
    with pytest.raises(RequestFailed) as caught:
        await call
    return caught.value


async def test_an_answer_is_journalled_and_never_asked_again(
    broker: Broker, provider: Provider, journal: Journal, llm_server: LlmServer
) -> None:
    async with broker:
        answer = await broker.ask(question())
        again = await broker.ask(question())
        other_reason = await broker.ask(replace(question(), purpose="simulate", template_hash="t2"))
        await broker.ask(question(sample=1, check=lambda text: False))  # an answer, and not what was asked for
        await broker.ask(question(sample=1, check=lambda text: False))  # from the journal: not counted again
    assert answer.text == "answer to why?"
    assert (answer.model, answer.finish, answer.from_journal) == ("m", "stop", False)
    assert again == other_reason == replace(answer, from_journal=True)
    assert llm_server.total == 2
    assert (broker.progress.done, broker.progress.from_journal, broker.progress.failed) == (5, 3, 0)
    assert broker.progress.unfit == 1
    assert broker.progress.output_tokens == 2 * len("answer to why?")
    entry = next(journal.entries())
    assert (entry.key, entry.provider, entry.model, entry.served_model) == (answer.key, provider.name, "m", "m-dated")
    assert (entry.purpose, entry.template_hash, entry.sample, entry.attempts) == ("explain", "t1", 0, 1)
    assert 0 < entry.latency_s < 60
    assert entry.usage == answer.usage
    assert entry.time.endswith("+00:00")


async def test_a_later_run_needs_neither_server_nor_key(
    broker: Broker, provider: Provider, journal: Journal, llm_server: LlmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with broker:
        answer = await broker.ask(question())
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    elsewhere = open_provider(provider.name, base_url="http://127.0.0.1:9/v1", api_key_env="MY_API_KEY")
    async with Broker(elsewhere, "m", journal) as later:
        assert await later.ask(question()) == replace(answer, from_journal=True)
        with pytest.raises(UserError, match="API_KEY is not set"):
            await later.ask(question("new"))
    assert llm_server.total == 1


TRANSIENT = [
    serve.rate_limited(),
    serve.rate_limited(retry_after="0.01"),
    serve.status(408),
    serve.status(409),
    serve.status(500, {"message": "oops"}),
    serve.status(502, "<html>bad gateway</html>"),
    serve.status(503),
    serve.status(529),
    serve.reset(),
    serve.half_sent(),
    serve.malformed(),
    serve.garbage(),
    serve.status(200, {"message": "the model behind this gateway is down"}),
    serve.status(200, "[]"),
]


async def test_what_passes_is_tried_again(broker: Broker, journal: Journal, llm_server: LlmServer) -> None:
    async with broker:
        for number, behaviour in enumerate(TRANSIENT):
            llm_server.script(behaviour, behaviour)
            answer = await broker.ask(question(str(number)))
            assert answer.text == f"answer to {number}"
            assert llm_server.total == 3 * (number + 1), behaviour
    assert [entry.attempts for entry in journal.entries()] == [3] * len(TRANSIENT)


async def test_an_overloaded_server_is_given_time_and_not_counted_tries(
    provider: Provider, journal: Journal, llm_server: LlmServer
) -> None:
    llm_server.usual = serve.rate_limited()
    async with Broker(provider, "m", journal, retries=0, backoff=0.001, patience_s=0.3) as broker:
        failure = await fails(broker.ask(question()))
    assert failure.kind == FailureKind.RATE_LIMITED and failure.reason == "HTTP 429: slow down"
    assert failure.attempts == llm_server.total >= 3


@pytest.mark.parametrize(
    ("behaviour", "kind", "reason"),
    [
        (serve.status(408), FailureKind.TIMEOUT, "HTTP 408"),
        (serve.status(500, {"message": "oops"}), FailureKind.SERVER_ERROR, "HTTP 500: oops"),
        (serve.status(502, "<p>\nbad  gateway</p>"), FailureKind.SERVER_ERROR, "HTTP 502: <p> bad gateway</p>"),
        (serve.reset(), FailureKind.SERVER_ERROR, "the connection to http://127.0.0.1:"),
        (serve.half_sent(), FailureKind.SERVER_ERROR, "the connection to http://127.0.0.1:"),
        (serve.garbage(), FailureKind.SERVER_ERROR, "the connection to http://127.0.0.1:"),
        (serve.malformed(), FailureKind.SERVER_ERROR, "the server's reply is not JSON"),
        (serve.status(200, {"message": "down"}), FailureKind.SERVER_ERROR, "the server's reply is not an answer: down"),
    ],
)  # fmt: skip
async def test_what_does_not_pass_fails_by_kind_and_is_not_an_answer(
    provider: Provider,
    journal: Journal,
    llm_server: LlmServer,
    behaviour: serve.Behaviour,
    kind: FailureKind,
    reason: str,
) -> None:
    llm_server.usual = behaviour
    async with Broker(provider, "m", journal, retries=2, backoff=0.001) as broker:
        failure = await fails(broker.ask(question()))
        assert failure.kind == kind
        assert failure.reason.startswith(reason)
        assert failure.attempts == llm_server.total == 3
        assert broker.progress.failed == 1
        assert len(journal) == 0
        assert journal.spend() == []
        llm_server.usual = serve.answer()
        assert (await broker.ask(question())).text == "answer to why?"  # a failure is not remembered


@pytest.mark.parametrize(
    ("behaviour", "kind", "reason"),
    [
        (serve.length(), FailureKind.TRUNCATED, "the answer was cut off at 50 tokens"),
        (serve.refusal(), FailureKind.REFUSED, "the model or its provider's filter refused"),
        (serve.empty(), FailureKind.MALFORMED, "the answer is empty"),
    ],
)
async def test_a_reply_that_is_no_answer_is_paid_once_and_asked_again_by_the_next_run_only(
    broker: Broker,
    journal: Journal,
    llm_server: LlmServer,
    behaviour: serve.Behaviour,
    kind: FailureKind,
    reason: str,
) -> None:
    llm_server.script(behaviour)
    async with broker:
        failure = await fails(broker.ask(question(max_tokens=50)))
        assert (failure.kind, failure.reason, failure.attempts) == (kind, reason, 1)
        assert llm_server.total == 1
        assert len(journal) == 0
        assert [(spend.replies, spend.failed) for spend in journal.spend()] == [(1, 1)]
        assert broker.progress.input_tokens > 0
        assert (await broker.ask(question(max_tokens=50))).text == "answer to why?"


async def test_a_bad_request_is_not_tried_again(broker: Broker, llm_server: LlmServer) -> None:
    too_long = {"message": "too long", "code": "context_length_exceeded"}
    llm_server.script(serve.status(400, too_long), serve.status(422), serve.status(400, {"code": "content_filter"}))
    async with broker:
        failures = [await fails(broker.ask(question(str(number)))) for number in range(3)]
        await broker.ask(question())
    assert [failure.kind for failure in failures] == ["rejected", "rejected", "refused"]
    assert failures[0].reason == "HTTP 400: too long"
    assert llm_server.total == 4


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (serve.status(401, {"message": "bad key"}), r"refused the key \(HTTP 401\); check the .* \w+_KEY"),
        (serve.status(403, {"message": "not in your country"}), "does not allow this key .*not in your country"),
        (serve.status(402), "no credit"),
        (serve.status(429, {"message": "quota", "code": "insufficient_quota"}), "no credit"),
        (serve.status(404, {"message": "no model m"}), "knows no such model or path .*no model m.*--label-model"),
    ],
)  # fmt: skip
async def test_what_no_request_would_survive_ends_the_run(
    provider: Provider, journal: Journal, llm_server: LlmServer, behaviour: serve.Behaviour, message: str
) -> None:
    llm_server.usual = behaviour
    async with Broker(provider, "m", journal, concurrency=2, backoff=0.001) as broker:
        questions = [broker.ask(question(str(number))) for number in range(20)]
        errors = await asyncio.gather(*questions, return_exceptions=True)
        for error in errors:
            assert isinstance(error, UserError)
            assert "\n" not in str(error)
        with pytest.raises(UserError, match=message):
            await broker.ask(question("later"))
    assert llm_server.total <= 2  # those in flight; nothing was sent after the first refusal


async def test_a_server_that_hangs_times_out_and_is_asked_again(
    provider: Provider, journal: Journal, llm_server: LlmServer
) -> None:
    async with Broker(provider, "m", journal, timeout=1, retries=1, backoff=0.001) as broker:
        llm_server.script(serve.hang())
        assert (await broker.ask(question())).text == "answer to why?"
        llm_server.script(serve.hang(), serve.hang())
        failure = await fails(broker.ask(question("again")))
    assert (failure.kind, failure.reason, failure.attempts) == (FailureKind.TIMEOUT, "no answer within 1 s", 2)


async def test_a_server_that_is_not_there_fails_by_name(llm_server: LlmServer, journal: Journal) -> None:
    provider = open_provider("openai", base_url="http://127.0.0.1:9/v1")
    async with Broker(provider, "m", journal, retries=1, backoff=0.001) as broker:
        failure = await fails(broker.ask(question()))
    assert failure.kind == FailureKind.SERVER_ERROR
    assert failure.reason.startswith("the connection to http://127.0.0.1:9/v1 failed (ConnectionRefusedError")


@pytest.mark.parametrize(
    ("headers", "least"),
    [
        ({"retry_after": "0.4"}, 0.4),
        ({"retry_after_ms": "400"}, 0.4),
        ({"x_ratelimit_remaining_requests": "0", "x_ratelimit_reset_requests": "400ms"}, 0.4),
    ],
)
async def test_the_server_is_given_the_time_that_it_asks_for(
    broker: Broker, llm_server: LlmServer, headers: dict[str, str], least: float
) -> None:
    async with broker:
        await broker.ask(question("warm up"))  # the client's import is not part of what is timed
        llm_server.script(serve.rate_limited(**headers))
        await broker.ask(question())
    waited = llm_server.times[2] - llm_server.times[1]
    assert least <= waited < least + 10


async def test_a_pause_of_a_day_fails_the_request_instead(broker: Broker, llm_server: LlmServer) -> None:
    llm_server.script(serve.rate_limited(retry_after="86400"))
    async with broker:
        failure = await fails(broker.ask(question()))
    assert (failure.kind, failure.attempts) == (FailureKind.RATE_LIMITED, 1)


async def test_concurrency_is_used_and_kept(provider: Provider, journal: Journal, llm_server: LlmServer) -> None:
    llm_server.delay = 0.05
    async with Broker(provider, "m", journal, concurrency=5) as broker:
        answers = await asyncio.gather(*(broker.ask(question(str(number))) for number in range(20)))
    assert [answer.text for answer in answers] == [f"answer to {number}" for number in range(20)]
    assert llm_server.most_at_once == 5
    with pytest.raises(UserError, match="--concurrency is 0"):
        Broker(provider, "m", journal, concurrency=0)


async def test_equal_requests_at_the_same_time_share_one_call(broker: Broker, llm_server: LlmServer) -> None:
    llm_server.delay = 0.05
    async with broker:
        answers = await asyncio.gather(*(broker.ask(question()) for _ in range(10)))
        assert llm_server.total == 1
        assert len(set(answers)) == 1
        assert broker.progress.done == 10
        llm_server.usual = serve.refusal()
        failures = await asyncio.gather(*(fails(broker.ask(question("no"))) for _ in range(10)))
    assert llm_server.total == 2
    assert {failure.kind for failure in failures} == {FailureKind.REFUSED}
    assert broker.progress.failed == 10


async def test_one_caller_that_gives_up_does_not_take_the_answer_from_another(
    broker: Broker, journal: Journal, llm_server: LlmServer
) -> None:
    llm_server.delay = 0.2
    async with broker:
        hasty, patient = (asyncio.create_task(broker.ask(question())) for _ in range(2))
        alone = asyncio.create_task(broker.ask(question("alone")))
        await asyncio.sleep(0.1)
        hasty.cancel()
        alone.cancel()
        assert (await patient).text == "answer to why?"
        while broker.progress.in_flight:
            await asyncio.sleep(0.01)
        assert (await broker.ask(question("alone"))).from_journal  # it was paid for, so it was kept
    assert llm_server.total == 2


async def test_leaving_stops_what_is_in_flight_and_keeps_what_was_delivered(
    provider: Provider, journal: Journal, llm_server: LlmServer
) -> None:
    asked = []
    with pytest.raises(KeyError, match="stop here"):
        async with Broker(provider, "m", journal, concurrency=4) as broker:
            await broker.ask(question("0"))
            llm_server.delay = 0.05
            asked = [asyncio.create_task(broker.ask(question(str(number)))) for number in range(1, 40)]
            while broker.progress.done < 10:
                await asyncio.sleep(0.005)
            llm_server.delay = 60
            started = time.monotonic()
            raise KeyError("stop here")
    assert time.monotonic() - started < 30
    await asyncio.gather(*asked, return_exceptions=True)
    answered = {task.result().key for task in asked if not task.cancelled()}
    assert len(answered) >= 9
    assert all(key in journal for key in answered)
    assert llm_server.total < 40


async def test_a_provider_serves_a_second_broker_after_the_first(
    provider: Provider, journal: Journal, llm_server: LlmServer
) -> None:
    for text in ("first", "second"):
        async with Broker(provider, "m", journal) as broker:
            assert (await broker.ask(question(text))).text == f"answer to {text}"


async def test_a_full_disk_ends_the_run(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(entry: object) -> None:
        raise UserError("no room")

    monkeypatch.setattr(journal, "append", full)
    async with Broker(MockProvider(), "m", journal) as broker:
        for _ in range(2):
            with pytest.raises(UserError, match="no room"):
                await broker.ask(question())
        assert broker.progress.failed == 0


async def test_a_scripted_mock_fails_like_a_server(journal: Journal) -> None:
    attempts: Iterator[CallFailed | str] = iter([CallFailed(FailureKind.SERVER_ERROR, "down", retryable=True), "up"])

    def script(request: Request) -> str | Reply:
        step = next(attempts)
        if isinstance(step, CallFailed):
            raise step
        return step

    async with Broker(MockProvider(script), "m", journal, backoff=0.001) as broker:
        assert (await broker.ask(question())).text == "up"
    assert next(journal.entries()).attempts == 2


async def test_a_malformed_answer_is_asked_again_as_another_sample_and_both_are_kept(journal: Journal) -> None:
    async def parsed(broker: Broker) -> int:
        for sample in range(3):
            text = (await broker.ask(question(sample=sample))).text
            if text.isdigit():
                return int(text)
        raise AssertionError

    provider = MockProvider(lambda request: ["not a number", "7"][request.sample])
    for _ in range(2):  # the second run reads both from the journal and ends the same way
        async with Broker(provider, "m", journal) as broker:
            assert await parsed(broker) == 7
    assert len(provider.asked) == 2
