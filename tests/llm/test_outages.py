"""Outages, storms, Ctrl-C and budgets: what the broker does where one request's own tries are not the point."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from autointerp.errors import UserError
from autointerp.llm import (
    Broker,
    CallFailed,
    Deferred,
    FailureKind,
    Journal,
    Message,
    Reply,
    Request,
    RequestFailed,
    Usage,
    open_provider,
)
from autointerp.llm.breaker import Breaker
from autointerp.llm.price import Price, Tariff
from autointerp.llm.providers.mock import MockProvider
from autointerp.llm.purse import Purse
from tests.llm import server as serve
from tests.llm.server import LlmServer

PRICE = Price(input=1.0, output=1.0, cached_input=0.5, cache_write=1.25)


def question(number: int = 0) -> Request:
    return Request([Message("user", f"{number}")], max_tokens=100)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal") as journal:
        yield journal


async def ask_all(broker: Broker, count: int) -> list[object]:
    return await asyncio.gather(*(broker.ask(question(number)) for number in range(count)), return_exceptions=True)


@pytest.mark.parametrize("headers", [{}, {"retry_after": "0.05"}])
async def test_a_storm_of_429s_loses_nothing(llm_server: LlmServer, journal: Journal, headers: dict[str, str]) -> None:
    llm_server.script(*[serve.rate_limited(**headers)] * 150)
    provider = open_provider("http", base_url=llm_server.openai_url)
    async with Broker(provider, "m", journal, concurrency=32, retries=2, backoff=0.005) as broker:
        answers = await ask_all(broker, 60)
        assert broker.limiter.limit < 16  # it learnt to send less
    assert [getattr(answer, "text", answer) for answer in answers] == [f"answer to {number}" for number in range(60)]
    assert llm_server.delivered.total() == 60 and llm_server.total == 210


async def test_a_pause_that_a_success_announces_is_kept(journal: Journal) -> None:
    sent: list[float] = []

    def script(request: Request) -> Reply:
        sent.append(time.monotonic())
        return Reply("yes", pause=0.6 if len(sent) == 1 else None)

    async with Broker(MockProvider(script), "m", journal, concurrency=1) as broker:
        await ask_all(broker, 3)
    assert sent[1] - sent[0] >= 0.59 and sent[2] - sent[1] < 0.5


async def test_an_outage_ends_the_run_and_not_the_dictionary(journal: Journal) -> None:
    said: list[str] = []
    attempts = 0

    def script(request: Request) -> str:
        nonlocal attempts
        attempts += 1
        if attempts <= 5:
            return "yes"
        raise CallFailed(FailureKind.SERVER_ERROR, "HTTP 502", retryable=True)

    options = {"concurrency": 20, "retries": 3, "backoff": 0.01, "give_up_s": 1.0}
    async with Broker(MockProvider(script), "m", journal, say=said.append, **options) as broker:  # type: ignore[arg-type]
        began = time.monotonic()
        outcomes = await ask_all(broker, 500)
        assert time.monotonic() - began < 20
        with pytest.raises(UserError, match=r"is down: .* attempts in .* run the same command again"):
            await broker.ask(question(-1))
    ended = [outcome for outcome in outcomes if isinstance(outcome, UserError)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, RequestFailed)]
    assert len(ended) + len(failed) == 495 and len(failed) <= 40  # those in flight when it began, at most twice over
    assert attempts < 250
    assert said == ["the provider does not answer (HTTP 502); trying on with pauses"]


async def test_an_outage_that_passes_costs_no_answer(journal: Journal) -> None:
    said: list[str] = []
    began = time.monotonic()

    def script(request: Request) -> str:
        if time.monotonic() - began < 0.5:
            raise CallFailed(FailureKind.SERVER_ERROR, "HTTP 502", retryable=True)
        return "yes"

    async with Broker(
        MockProvider(script), "m", journal, concurrency=8, give_up_s=60, backoff=0.3, say=said.append
    ) as broker:
        outcomes = await ask_all(broker, 100)
    assert all(getattr(outcome, "text", outcome) == "yes" for outcome in outcomes)
    assert said[-1] == "the provider answers again"


async def test_one_poisonous_request_is_its_own_trouble(journal: Journal) -> None:
    def script(request: Request) -> str:
        raise CallFailed(FailureKind.SERVER_ERROR, "HTTP 500", retryable=True)

    async with Broker(MockProvider(script), "m", journal, retries=15, backoff=1e-5, give_up_s=0.0) as broker:
        with pytest.raises(RequestFailed):
            await broker.ask(question())


async def test_a_server_that_never_answered_is_given_up_sooner() -> None:
    breaker = Breaker(1, give_up_s=0.5, say=lambda line: None)
    for _ in range(10):
        breaker.failed("key", "refused")
    await asyncio.sleep(0.06)
    with pytest.raises(UserError, match="is down"):
        breaker.failed("key", "refused")


async def test_draining_keeps_what_is_in_flight_and_sends_nothing_more(llm_server: LlmServer, journal: Journal) -> None:
    llm_server.delay = 0.3
    provider = open_provider("http", base_url=llm_server.openai_url)
    async with Broker(provider, "m", journal, concurrency=4) as broker:
        tasks = [asyncio.create_task(broker.ask(question(number))) for number in range(20)]
        while llm_server.total < 4:
            await asyncio.sleep(0.005)
        broker.drain()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        with pytest.raises(Deferred):
            await broker.ask(question(99))
        known = await broker.ask(question(0))
        assert known.from_journal
    assert llm_server.total == 4 and len(list(journal.entries())) == 4
    assert sum(isinstance(outcome, Deferred) for outcome in outcomes) == 16


async def test_draining_wakes_those_that_wait_to_try_again(journal: Journal) -> None:
    def script(request: Request) -> str:
        raise CallFailed(FailureKind.SERVER_ERROR, "HTTP 500", retryable=True, retry_after=500)

    async with Broker(MockProvider(script), "m", journal) as broker:
        task = asyncio.create_task(broker.ask(question()))
        await asyncio.sleep(0.05)
        broker.drain()
        with pytest.raises(Deferred):
            await asyncio.wait_for(task, 5)


async def test_a_budget_is_never_passed_and_used_nearly_up(journal: Journal) -> None:
    def script(request: Request) -> Reply:
        return Reply("yes", usage=Usage(input=50, output=50))  # a ten-thousandth of a dollar

    options = {"price_of": lambda model: Tariff(PRICE), "purse": Purse(0.01), "concurrency": 64}
    async with Broker(MockProvider(script), "m", journal, **options) as broker:  # type: ignore[arg-type]
        outcomes = await ask_all(broker, 500)
        assert broker.is_over_budget
    over = [o for o in outcomes if isinstance(o, RequestFailed) and o.kind == FailureKind.OVER_BUDGET]
    answered = 500 - len(over)
    assert 80 <= answered <= 100  # 100 would be the whole budget; the last ones are held back by their worst case
    assert journal.money == pytest.approx(answered * 1e-4) and broker.progress.money == pytest.approx(answered * 1e-4)


async def test_draining_sends_nothing_that_waited_for_money(journal: Journal) -> None:
    asked: list[str] = []

    async def send(request: Request, payload: object) -> Reply:
        asked.append(request.messages[0].content)
        await asyncio.sleep(0.1)
        return Reply("yes", usage=Usage(input=1, output=1))

    provider = MockProvider()
    provider.send = send  # type: ignore[method-assign]
    purse = Purse(0.002)  # room for one request's worst case, and for many at what they cost
    async with Broker(
        provider, "m", journal, price_of=lambda model: Tariff(PRICE), purse=purse, concurrency=8
    ) as broker:
        tasks = [asyncio.create_task(broker.ask(question(number))) for number in range(3)]
        while not asked:
            await asyncio.sleep(0.005)
        broker.drain()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert asked == ["0"] and purse.reserved == 0
    assert [getattr(outcome, "text", type(outcome)) for outcome in outcomes] == ["yes", Deferred, Deferred]


async def test_a_run_that_is_ended_keeps_the_answers_under_way(journal: Journal) -> None:
    asked: list[str] = []

    async def send(request: Request, payload: object) -> Reply:
        asked.append(request.messages[0].content)
        if asked[-1] == "1":
            raise UserError("no credit")
        await asyncio.sleep(30.0 if asked[-1] == "99" else 0.1)
        return Reply("yes")

    provider = MockProvider()
    provider.send = send  # type: ignore[method-assign]
    with pytest.raises(UserError, match="no credit"):
        async with Broker(provider, "m", journal, concurrency=2) as broker:
            await asyncio.gather(*(broker.ask(question(number)) for number in range(9)))
    assert asked == ["0", "1"] and len(journal) == 1
    # Any other end, such as a second Ctrl-C, does not wait.
    with pytest.raises(KeyError):
        async with Broker(provider, "m", journal) as broker:
            task = asyncio.create_task(broker.ask(question(99)))
            await asyncio.sleep(0.01)
            raise KeyError
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_replies_that_are_no_answers_cost_too(journal: Journal) -> None:
    def script(request: Request) -> Reply:
        return Reply("no", "refusal", usage=Usage(input=50, output=50))

    purse = Purse(1.0)
    async with Broker(MockProvider(script), "m", journal, price_of=lambda model: Tariff(PRICE), purse=purse) as broker:
        with pytest.raises(RequestFailed):
            await broker.ask(question())
    assert purse.spent == pytest.approx(1e-4) and purse.reserved == 0
    assert next(journal.entries()).money == pytest.approx(1e-4)


async def test_offline_the_journal_alone_answers(journal: Journal) -> None:
    async with Broker(MockProvider(), "m", journal) as broker:
        answer = await broker.ask(question())
    provider = MockProvider()
    async with Broker(provider, "m", journal, offline=True) as broker:
        assert await broker.ask(question()) == replace(answer, from_journal=True)
        with pytest.raises(Deferred):
            await broker.ask(question(1))
    assert provider.asked == []


async def test_a_clock_that_jumps_changes_nothing(
    llm_server: LlmServer, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = time.time, 0

    def jumping() -> float:
        nonlocal calls
        calls += 1
        return real() + (86_400 if calls % 2 else -86_400)

    monkeypatch.setattr(time, "time", jumping)
    llm_server.script(serve.rate_limited(retry_after="0.05"), serve.status(500), serve.reset())
    provider = open_provider("http", base_url=llm_server.openai_url)
    async with Broker(provider, "m", journal, backoff=0.01) as broker:
        answers = await asyncio.wait_for(ask_all(broker, 20), 30)
    assert [getattr(answer, "text", answer) for answer in answers] == [f"answer to {number}" for number in range(20)]


async def test_a_server_that_rejects_everything_ends_the_run(journal: Journal) -> None:
    attempts = 0

    def script(request: Request) -> str:
        nonlocal attempts
        attempts += 1
        raise CallFailed(FailureKind.REJECTED, "HTTP 400: response_format is not supported")

    async with Broker(MockProvider(script), "m", journal, concurrency=2) as broker:
        outcomes = await ask_all(broker, 100)
        with pytest.raises(UserError, match=r"rejects every request .*response_format"):
            await broker.ask(question(-1))
    assert attempts <= 22 and sum(isinstance(outcome, RequestFailed) for outcome in outcomes) <= 20


async def test_rejections_beside_answers_are_failures_of_their_own(journal: Journal) -> None:
    def script(request: Request) -> str:
        if request.messages[0].content == "0":
            return "yes"
        raise CallFailed(FailureKind.REJECTED, "HTTP 400: too long")

    async with Broker(MockProvider(script), "m", journal, concurrency=2) as broker:
        outcomes = await ask_all(broker, 60)
    assert sum(isinstance(outcome, RequestFailed) for outcome in outcomes) == 59


async def test_replies_that_count_no_tokens_use_up_a_budget_all_the_same(journal: Journal) -> None:
    options = {"price_of": lambda model: Tariff(PRICE), "purse": Purse(0.01), "concurrency": 4}
    async with Broker(MockProvider(lambda request: Reply("yes")), "m", journal, **options) as broker:  # type: ignore[arg-type]
        outcomes = await ask_all(broker, 50)
    answered = sum(not isinstance(outcome, Exception) for outcome in outcomes)
    # each is taken at 1,028 bytes and allowance, and 100 tokens of answer, at the dearest price: 0.0014 dollars
    assert answered == 7 and journal.money == pytest.approx(7 * PRICE.most(4, 100))
