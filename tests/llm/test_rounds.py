"""Deferred providers: coroutines are dropped and run again, until every feature is done; each request is sent once."""

from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from autointerp.llm import (
    Broker,
    CallFailed,
    Capabilities,
    Deferred,
    FailureKind,
    Journal,
    Message,
    Reply,
    Request,
    RequestFailed,
    Usage,
)
from autointerp.llm.price import Price, Tariff
from autointerp.llm.provider import Delivered, Queued
from autointerp.llm.providers.mock import MockProvider
from autointerp.llm.purse import Purse
from autointerp.llm.rounds import drawn, in_rounds
from autointerp.llm.session import ModelSession


class Slow:
    """A deferred provider in memory: `collect` brings `at_once` answers. `fate` says what becomes of a request."""

    name = "slow"
    capabilities = Capabilities(batch=True)

    def __init__(self, at_once: int = 1000) -> None:
        self.waiting: dict[str, Queued] = {}
        self.sent: list[str] = []
        self.at_once = at_once
        self.fate: dict[str, list[Reply | CallFailed]] = {}

    def payload(self, model: str, request: Request) -> dict[str, str]:
        return {"model": model, "text": request.messages[0].content}

    def connect(self) -> None: ...

    async def queue(self, request: Queued) -> None:
        self.waiting.setdefault(request.key, request)

    async def collect(self) -> AsyncIterator[Delivered]:
        for key in list(self.waiting)[: self.at_once]:
            queued = self.waiting.pop(key)
            text = queued.payload["text"]
            self.sent.append(text)
            fates = self.fate.get(text)
            yield Delivered(queued, fates.pop(0) if fates else Reply(f"re: {text}"))

    async def close(self) -> None: ...


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal") as journal:
        yield journal


async def label(broker: Broker, features: Sequence[int]) -> dict[int, str]:
    """Each feature asks, and then asks about the answer."""
    found: dict[int, str] = {}

    async def work(feature: int) -> tuple[int, str]:
        try:
            first = await broker.ask(Request([Message("user", f"{feature}")]))
            second = await broker.ask(Request([Message("user", first.text)]))
            return feature, second.text
        except RequestFailed as failure:
            return feature, str(failure)

    await in_rounds(
        "label", "features", features, iter, work, lambda rows: found.update(rows), ModelSession({"": broker}, 8)
    )
    return found


@pytest.mark.parametrize("at_once", [1000, 7, 1])
async def test_every_feature_is_done_and_every_request_sent_once(journal: Journal, at_once: int) -> None:
    provider = Slow(at_once)
    async with Broker(provider, "m", journal) as broker:
        found = await label(broker, range(10))
    assert found == {feature: f"re: re: {feature}" for feature in range(10)}
    assert sorted(provider.sent) == sorted([*(f"{f}" for f in range(10)), *(f"re: {f}" for f in range(10))])


async def test_failures_are_typed_or_tried_again(journal: Journal) -> None:
    provider = Slow()
    down = CallFailed(FailureKind.SERVER_ERROR, "expired", retryable=True)
    provider.fate = {
        "0": [down, down], "1": [CallFailed(FailureKind.REJECTED, "too long")], "2": [down] * 20,
        "3": [Reply("", "length")],
    }  # fmt: skip
    async with Broker(provider, "m", journal, retries=4) as broker:
        found = await label(broker, range(5))
    assert found[0] == "re: re: 0" and found[4] == "re: re: 4"
    assert found[1] == "rejected: too long" and found[2] == "server_error: expired"
    assert found[3].startswith("truncated: ")
    assert provider.sent.count("0") == 3 and provider.sent.count("2") == 5 and provider.sent.count("3") == 1
    assert {entry.finish for entry in journal.entries()} == {"stop", "length"}


async def test_what_was_queued_before_a_restart_is_not_queued_twice(journal: Journal) -> None:
    provider = Slow(3)
    async with Broker(provider, "m", journal) as broker:
        for feature in range(5):
            with pytest.raises(Deferred):
                await broker.ask(Request([Message("user", f"{feature}")]))
        assert await broker.collect()
    async with Broker(provider, "m", journal) as broker:  # as after a kill: it knows only journal and provider
        found = await label(broker, range(5))
    assert len(found) == 5 and len(provider.sent) == len(set(provider.sent)) == 10


async def test_a_budget_bounds_what_is_queued(journal: Journal) -> None:
    provider, price = Slow(), Price(input=1.0, output=1.0, cached_input=1.0, cache_write=1.0)
    dear = Usage(input=1000, output=Request([]).max_tokens)  # nearly its worst case
    provider.fate = {f"{feature}": [Reply("yes", usage=dear)] for feature in range(5)}
    most = price.most(len('{"model":"m","text":"0"}'), dear.output)
    async with Broker(provider, "m", journal, price_of=lambda model: Tariff(price), purse=Purse(3.5 * most)) as broker:
        found = await label(broker, range(5))
        assert broker.is_over_budget
    assert len(provider.sent) == 3
    assert len(found) >= 3 and all(text.startswith("over_budget") for text in found.values())


def counts(broker: Broker) -> tuple[int, int, int]:
    return broker.progress.done, broker.progress.from_journal, broker.progress.failed


async def test_an_answer_counts_once_however_many_rounds_there_are(
    journal: Journal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autointerp.progress._SECONDS_BETWEEN_LINES", 0.0)
    first = Slow()
    async with Broker(first, "m", journal) as broker:
        await label(broker, range(4))
        assert counts(broker) == (8, 0, 0)
    later = Slow(3)  # 4 features that are done, 6 of which no answer is there, 1 that fails; 7 rounds
    later.fate = {"10": [CallFailed(FailureKind.REJECTED, "too long")]}
    async with Broker(later, "m", journal) as broker:
        await label(broker, range(11))
        assert counts(broker) == (8 + 12, 8, 1)
        assert "20 answers (8 from the journal), 1 failed" in ModelSession({"": broker}, 8).note()
    assert " left" not in (said := capsys.readouterr().err) and "/s)" not in said


async def test_offline_nothing_is_collected(journal: Journal) -> None:
    provider = Slow()
    async with Broker(provider, "m", journal) as broker:
        with pytest.raises(Deferred):
            await broker.ask(Request([Message("user", "0")]))
    async with Broker(provider, "m", journal, offline=True) as broker:
        assert await label(broker, range(3)) == {}
    assert provider.sent == [] and len(provider.waiting) == 1


async def test_answers_that_an_earlier_process_asked_for_are_paid_by_the_budget(journal: Journal) -> None:
    provider, price = Slow(), Price(input=1.0, output=1.0, cached_input=1.0, cache_write=1.0)
    provider.fate = {"0": [Reply("yes", usage=Usage(input=10, output=10))]}
    async with Broker(provider, "m", journal, price_of=lambda model: Tariff(price)) as broker:
        with pytest.raises(Deferred):
            await broker.ask(Request([Message("user", "0")]))
    purse = Purse(1.0)
    async with Broker(provider, "m", journal, price_of=lambda model: Tariff(price), purse=purse) as broker:
        assert await broker.collect()
    assert purse.spent == pytest.approx(2e-5) == journal.money


async def test_results_are_written_whatever_happens(journal: Journal) -> None:
    written: list[int] = []

    async def work(number: int) -> int:
        if number == 9:
            raise KeyError("a fault of ours")
        return number

    with pytest.raises(KeyError):
        await in_rounds("x", "items", range(20), iter, work, written.extend, None)
    assert written == list(range(9))


async def test_a_fresh_draw_keeps_the_answers_that_can_be_used(journal: Journal) -> None:
    texts = iter(["bad", "good", "better", "best"])
    provider = MockProvider(lambda request: next(texts))
    request = Request([Message("user", "x")], check=lambda text: text != "bad")
    other = Request([Message("user", "y")], check=lambda text: text != "bad")
    async with Broker(provider, "m", journal) as broker:
        assert (await drawn(broker, 0)(request)).text == "bad"
        assert (await drawn(broker, 0)(other)).text == "good"
        assert (await drawn(broker, 1)(request)).text == "better"
        assert (await drawn(broker, 1)(other)).text == "good"
        assert (await drawn(broker, 2)(request)).text == "better"
    assert len(provider.asked) == 3


async def test_an_answer_of_an_earlier_batch_costs_what_its_own_model_does(journal: Journal) -> None:
    prices = {name: Tariff(Price(cost, cost, cost, cost)) for name, cost in (("old", 1.0), ("new", 5.0))}
    provider = Slow()
    provider.fate = {"0": [Reply("yes", usage=Usage(input=10**6))]}
    async with Broker(provider, "old", journal, price_of=prices.get) as broker:
        with pytest.raises(Deferred):
            await broker.ask(Request([Message("user", "0")]))
    async with Broker(provider, "new", journal, price_of=prices.get) as broker:
        assert await broker.collect()
    assert journal.money == 1.0
