"""Which server is chosen, and what becomes of one that fails: first with a clock of our own, then over real sockets."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.errors import UserError
from autointerp.llm import Broker, CallFailed, FailureKind, Journal, Message, Provider, Request, open_provider
from autointerp.llm.fleet import Fleet, Server
from tests.llm import server as serve
from tests.llm.server import LlmServer

A, B, C = "http://a/v1", "http://b/v1", "http://c/v1"
ABSENT = "http://127.0.0.1:9/v1"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def fail(fleet: Fleet, server: Server) -> None:
    fleet.failed(server, fleet.now())


def test_the_least_loaded_is_chosen_and_equals_take_turns() -> None:
    fleet = Fleet([A, B, C, A])
    assert [fleet.choose().address for _ in range(6)] == [A, B, C, A, B, C]
    first = fleet.servers[1]
    fleet.answered(first, fleet.now())
    assert fleet.choose() is first  # one under way, the others two
    assert [fleet.choose().address for _ in range(3)] == [A, C, B]
    with pytest.raises(ValueError, match="no servers"):
        Fleet([])


def test_a_server_that_fails_is_rested_longer_each_time_and_comes_back_on_trial() -> None:
    clock = Clock()
    fleet = Fleet([A, B], clock)
    a, b = fleet.servers
    assert fleet.choose() is a
    for rest in (1, 2, 4, 8, 16, 32, 60, 60):
        fail(fleet, a)
        clock.now += rest - 0.01
        assert {fleet.choose() for _ in range(3)} == {b}
        clock.now += 0.02
        assert fleet.choose() is a
        assert {fleet.choose() for _ in range(3)} == {b}  # on trial: one at a time
    sent_at = clock.now
    clock.now += 1
    fleet.answered(a, sent_at)
    assert {fleet.choose() for _ in range(20)} == {a}  # until it has as much to do as the other
    fail(fleet, a)
    assert a.rested_at == clock.now + 1  # an answer wipes the slate clean


def test_a_hundred_requests_lost_at_once_are_one_failure() -> None:
    clock = Clock()
    fleet = Fleet([A, B], clock)
    lost = [server for server in (fleet.choose() for _ in range(200)) if server.address == A]
    assert len(lost) == 100
    sent_at, clock.now = clock.now, 103.0
    for server in lost:
        fleet.failed(server, sent_at)
    assert (lost[0].failures, lost[0].rested_at, lost[0].in_flight) == (1, 104.0, 0)
    fleet.choose()
    fleet.answered(lost[0], sent_at)  # a late answer to a request of before says nothing of now
    assert lost[0].failures == 1


def test_if_all_rest_the_first_to_be_rested_is_asked() -> None:
    clock = Clock()
    fleet = Fleet([A, B], clock)
    a, b = fleet.choose(), fleet.choose()
    fail(fleet, a)
    assert fleet.wait() is None
    clock.now += 0.5
    fail(fleet, b)
    assert fleet.wait() == pytest.approx(0.5)
    assert [fleet.choose() for _ in range(2)] == [a, a]


def test_one_server_alone_is_never_rested() -> None:
    fleet = Fleet([A])
    for _ in range(3):
        fail(fleet, fleet.choose())
    assert (fleet.servers[0].failures, fleet.wait()) == (0, None)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["answered", "failed"]), st.floats(0, 3)), max_size=60))
def test_nothing_under_way_is_forgotten_whatever_happens(steps: list[tuple[int, str, float]]) -> None:
    clock = Clock()
    fleet = Fleet([A, B, C], clock)
    under_way: list[tuple[Server, float]] = []
    for index, what, passed in steps:
        under_way.append((fleet.choose(), clock.now))
        clock.now += passed
        if index < len(under_way):
            getattr(fleet, what)(*under_way.pop(index))
        assert sum(server.in_flight for server in fleet.servers) == len(under_way)
        assert all(server.rested_at <= clock.now + 60 for server in fleet.servers)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal") as journal:
        yield journal


def question(text: str) -> Request:
    return Request([Message("user", text)])


async def ask_all(provider: Provider, journal: Journal, count: int, **options: Any) -> list[str]:
    async with Broker(provider, "m", journal, **{"backoff": 0.001, "concurrency": 8, **options}) as broker:
        return [
            answer.text
            for answer in await asyncio.gather(*(broker.ask(question(str(number))) for number in range(count)))
        ]


async def test_several_servers_share_the_work(llm_server: LlmServer, journal: Journal) -> None:
    with LlmServer() as second:
        second.delay = llm_server.delay = 0.01
        provider = open_provider("http", base_url=[llm_server.openai_url, second.openai_url + "/"])
        answers = await ask_all(provider, journal, 40)
        assert answers == [f"answer to {number}" for number in range(40)]
        assert llm_server.total + second.total == 40
        assert min(llm_server.total, second.total) >= 10


async def test_a_server_that_is_not_there_costs_a_try_and_no_answer(llm_server: LlmServer, journal: Journal) -> None:
    provider = open_provider("http", base_url=[ABSENT, llm_server.openai_url])
    assert len(await ask_all(provider, journal, 40, retries=1)) == 40
    assert llm_server.total == 40
    assert sum(entry.attempts - 1 for entry in journal.entries()) <= 8  # those under way at the first failure


@pytest.mark.parametrize(
    "behaviour",
    [serve.status(500), serve.status(503), serve.reset(), serve.half_sent(), serve.garbage(), serve.malformed()],
)
async def test_a_server_that_fails_is_left_alone_and_comes_back(
    behaviour: serve.Behaviour, llm_server: LlmServer, journal: Journal
) -> None:
    with LlmServer() as sick:
        sick.usual = behaviour
        provider = open_provider("http", base_url=[sick.openai_url, llm_server.openai_url])
        provider.connect()
        try:
            with pytest.raises(CallFailed) as caught:
                await provider.send(question("0"), provider.payload("m", question("0")))
            assert caught.value.retryable
            assert caught.value.retry_after is None  # another server is free
            for number in range(3):
                await provider.send(question("1"), provider.payload("m", question(str(number))))
            assert (sick.total, llm_server.total) == (1, 3)
            sick.usual = serve.answer()
            await asyncio.sleep(1.05)
            await provider.send(question("2"), provider.payload("m", question("2")))
            assert (sick.total, llm_server.total) == (2, 3)
        finally:
            await provider.close()


async def test_slow_down_from_one_sends_the_next_to_another(llm_server: LlmServer) -> None:
    with LlmServer() as busy:
        busy.usual = serve.rate_limited(retry_after="30")
        provider = open_provider("http", base_url=[busy.openai_url, llm_server.openai_url])
        provider.connect()
        payload = provider.payload("m", question("0"))
        try:
            with pytest.raises(CallFailed) as caught:
                await provider.send(question("0"), payload)
            assert (caught.value.kind, caught.value.retry_after) == (FailureKind.RATE_LIMITED, None)
            for _ in range(3):
                await provider.send(question("0"), payload)
            assert (busy.total, llm_server.total) == (1, 3)
            llm_server.usual = serve.rate_limited(retry_after="20")
            with pytest.raises(CallFailed) as caught:
                await provider.send(question("0"), payload)
            assert caught.value.retry_after == pytest.approx(20, abs=5)  # now all rest: the broker must wait
        finally:
            await provider.close()


async def test_a_server_that_hangs_is_rested_when_the_broker_gives_up(llm_server: LlmServer, journal: Journal) -> None:
    with LlmServer() as stuck:
        stuck.usual = serve.hang()
        provider = open_provider("http", base_url=[stuck.openai_url, llm_server.openai_url])
        assert len(await ask_all(provider, journal, 12, timeout=1, retries=1)) == 12
        assert stuck.total <= 8


def test_addresses_and_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    open_provider("http", base_url=A).connect()  # no key is fine
    with pytest.raises(UserError, match="MY_KEY is not set"):
        open_provider("http", base_url=A, api_key_env="MY_KEY").connect()  # one that was named is wanted
    with pytest.raises(UserError, match=r"'http' has no address.*--base-url"):
        open_provider("http").connect()
    with pytest.raises(UserError, match=r"http://a/v1 goes on with a query") as caught:
        open_provider("http", base_url=[A, A + "?key=word4711"]).connect()
    assert "word4711" not in str(caught.value)
    with pytest.raises(UserError, match="2 base URLs"):
        open_provider("openai", base_url=[A, B])


async def test_the_key_is_sent_where_there_is_one(llm_server: LlmServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("", "key-of-mine"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        provider = open_provider("http", base_url=llm_server.openai_url)
        provider.connect()
        await provider.send(question("0"), provider.payload("m", question("0")))
        await provider.close()
    assert llm_server.keys == ["", "Bearer key-of-mine"]
