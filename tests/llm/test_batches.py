"""Provider batches against a server that misbehaves: every answer is used once, and nothing is submitted twice."""

import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from autointerp.errors import DataError, UserError
from autointerp.llm import (
    CallFailed,
    Deferred,
    FailureKind,
    Message,
    ProviderOptions,
    Reply,
    Request,
    open_provider,
    wire,
)
from autointerp.llm.batch_api import Pace
from autointerp.llm.batch_link import BatchLink
from autointerp.llm.batches import BatchProvider
from tests.llm.batch_driver import FAST, PROVIDERS, Driver, plain, two_steps
from tests.llm.batch_server import BatchServer, accepted_but_lost
from tests.llm.server import Behaviour, half_sent, malformed, rate_limited, reset, status

KEY = "planted-4f9c1e77d2b84a06"
both = pytest.mark.parametrize("name", ["openai", "anthropic"])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchServer]:
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN", "OPENAI_CUSTOM_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with BatchServer() as running:
        yield running


def open_batches(server: BatchServer, name: str, folder: Path, pace: Pace = FAST) -> BatchProvider:
    url = server.openai_url if name == "openai" else server.anthropic_url
    return PROVIDERS[name](ProviderOptions((url,), folder=folder), pace)


@asynccontextmanager
async def driving(
    server: BatchServer, name: str, folder: Path, most: int | None = None, pace: Pace = FAST
) -> AsyncIterator[Driver]:
    provider = open_batches(server, name, folder, pace)
    if most is not None:
        provider._most_requests = most
    driver = Driver(provider, folder / "journal.jsonl")
    try:
        yield driver
    finally:
        driver.close()
        await provider.close()


def expect_answers(driver: Driver, count: int) -> None:
    for number in range(count):
        assert driver.answers[f"question {number}"] == f"answer to question {number}"


def remaining(folder: Path, name: str) -> tuple[int, int]:
    with sqlite3.connect(folder / f"{name}-batch.sqlite") as db:
        counts = [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("batches", "requests")]
    return counts[0], counts[1]


@both
async def test_two_steps_in_split_batches_come_out_right(server: BatchServer, name: str, tmp_path: Path) -> None:
    async with driving(server, name, tmp_path, most=4) as driver:
        await driver.run([two_steps(number) for number in range(10)])
        expect_answers(driver, 10)
        assert driver.answers["and then? answer to question 3"] == "answer to and then? answer to question 3"
    assert set(server.accepted.values()) == {1} and len(server.accepted) == 20
    assert sorted(len(job.requests) for job in server.jobs.values()) == [2, 2, 4, 4, 4, 4]
    assert set(driver.deliveries.values()) == {1}
    assert remaining(tmp_path, name) == (0, 0)
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


@both
async def test_duplicates_failures_and_missing_results(server: BatchServer, name: str, tmp_path: Path) -> None:
    fates = {"question 1": "twice", "question 2": "400", "question 3": "500", "question 4": "expired",
             "question 5": "missing"}  # fmt: skip
    tries: dict[str, int] = {}

    def fate(question: str) -> str:
        seen = server.accepted[question]
        tries[question] = seen
        return fates.get(question, "ok") if seen == 1 or question == "question 1" else "ok"

    server.fate = fate
    async with driving(server, name, tmp_path) as driver:
        await driver.run([plain(number) for number in range(7)])
    assert list(driver.failures) == ["question 2"]
    assert driver.failures["question 2"].kind is FailureKind.REJECTED
    assert "fate 400" in driver.failures["question 2"].reason
    assert driver.retries == {"question 3": 1, "question 4": 1, "question 5": 1}
    assert driver.deliveries["question 1"] == 1
    assert sorted(driver.answers) == [f"question {number}" for number in (0, 1, 3, 4, 5, 6)]
    assert server.accepted == {f"question {n}": 2 if n in (3, 4, 5) else 1 for n in range(7)}


@pytest.mark.parametrize(("ending", "retried"), [("expired", True), ("cancelled", False)])
async def test_a_batch_that_ends_early(server: BatchServer, tmp_path: Path, ending: str, retried: bool) -> None:
    server.whole = lambda job: ending if len(server.jobs) == 0 else "completed"
    server.fate = lambda question: "missing" if question < "question 2" and server.accepted[question] == 1 else "ok"
    async with driving(server, "openai", tmp_path) as driver:
        await driver.run([plain(number) for number in range(4)])
    assert driver.answers.keys() >= {"question 2", "question 3"}
    if retried:
        assert driver.retries == {"question 0": 1, "question 1": 1} and len(driver.answers) == 4
    else:
        assert sorted(driver.failures) == ["question 0", "question 1"]
        assert "cancelled" in driver.failures["question 0"].reason


async def test_a_batch_refused_as_a_whole_stops_with_the_reason(server: BatchServer, tmp_path: Path) -> None:
    server.whole = lambda job: "failed"
    async with driving(server, "openai", tmp_path) as driver:
        with pytest.raises(UserError, match=r"refused the batch batch_0 of 3 requests.*line 1 is no JSON \(line 1\)"):
            await driver.run([plain(number) for number in range(3)])
    server.whole = lambda job: "completed"
    async with driving(server, "openai", tmp_path) as driver:
        await driver.run([plain(number) for number in range(3)])
    assert server.accepted.total() == 3


async def test_too_much_under_way_goes_one_at_a_time_and_smaller(server: BatchServer, tmp_path: Path) -> None:
    """The account takes 4 requests at a time."""

    def whole(job: object) -> str:
        open_ones = [other for other in server.jobs.values() if not server._ended(other) and other.error is None]
        return "failed" if len(job.requests) + sum(len(o.requests) for o in open_ones) > 4 else "completed"  # type: ignore[attr-defined]

    server.whole, server.takes = whole, 0.1
    server.reason = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached", "line": None}
    async with driving(server, "openai", tmp_path) as driver:
        await driver.run([plain(number) for number in range(10)])
        expect_answers(driver, 10)
    assert set(server.accepted.values()) == {1}
    assert max(len(job.requests) for job in server.jobs.values() if job.error is None) > 1
    server.whole = lambda job: "failed"
    async with driving(server, "openai", tmp_path) as driver:
        with pytest.raises(UserError, match="of 1 requests as a whole: Enqueued token limit reached"):
            await driver.run([plain(number) for number in range(20, 23)])


@both
async def test_an_answer_counts_before_an_error_for_the_same_request(
    server: BatchServer, name: str, tmp_path: Path
) -> None:
    server._fates = lambda job, name: ["500", "ok"]  # type: ignore[method-assign]
    async with driving(server, name, tmp_path) as driver:
        await driver.run([plain(0)])
    assert driver.answers == {"question 0": "answer to question 0"} and not driver.retries


STEPS: dict[str, list[Behaviour]] = {
    "upload": [rate_limited(), status(500), reset(), malformed(), half_sent(), accepted_but_lost()],
    "create": [rate_limited(retry_after="0"), rate_limited()],
    "status": [rate_limited(), status(500), status(503), reset(), malformed()],
    "list": [rate_limited(), status(500), reset(), malformed()],
    "download": [rate_limited(), status(502), reset(), half_sent(), malformed()],
}


@both
@pytest.mark.parametrize("step", STEPS)
async def test_failing_calls_are_tried_again(server: BatchServer, name: str, step: str, tmp_path: Path) -> None:
    if (name, step) == ("anthropic", "upload"):
        return  # a batch is one POST there
    server.script(step, *STEPS[step])
    async with driving(server, name, tmp_path, pace=Pace(0.02, 0.05, 0.002, settle=0.02, tries=8)) as driver:
        await driver.run([plain(number) for number in range(5)])
        expect_answers(driver, 5)
    assert server.script_is_played()
    assert server.accepted == {f"question {number}": 1 for number in range(5)}


@both
@pytest.mark.parametrize("takes", [0.0, 0.3])
@pytest.mark.parametrize("lost", [accepted_but_lost, half_sent, malformed])
async def test_a_submission_without_a_reply_is_found_again(
    server: BatchServer, name: str, takes: float, lost: Callable[[], Behaviour], tmp_path: Path
) -> None:
    server.takes = takes
    async with driving(server, name, tmp_path / "others", most=2) as others:  # older ones, in several pages
        await others.run([plain(number) for number in range(50, 60)])
    before = server.accepted.total()
    server.script("create", lost())
    async with driving(server, name, tmp_path) as driver:
        await driver.run([plain(number) for number in range(5)])
        expect_answers(driver, 5)
    assert server.accepted.total() - before == 5


@both
@pytest.mark.parametrize("failure", [status(500), reset()])
async def test_a_submission_that_was_not_accepted_is_sent_again(
    server: BatchServer, name: str, failure: Behaviour, tmp_path: Path
) -> None:
    server.script("create", failure, failure)
    async with driving(server, name, tmp_path) as driver:
        await driver.run([plain(number) for number in range(5)])
    assert server.accepted == {f"question {number}": 1 for number in range(5)}


async def test_a_batch_that_is_listed_late_is_waited_for(server: BatchServer, tmp_path: Path) -> None:
    server.unlisted_s = 0.3
    server.script("create", accepted_but_lost())
    async with driving(server, "openai", tmp_path, pace=Pace(0.02, 0.05, 0.002, settle=0.5)) as driver:
        await driver.run([plain(number) for number in range(5)])
    assert server.accepted.total() == 5


async def test_a_stranger_of_the_same_size_is_not_taken_for_ours(server: BatchServer, tmp_path: Path) -> None:
    """Anthropic's list shows only counts: another program's batch of 5 is waited for, and then left alone."""
    server.takes = 0.2
    server.script("create", status(500))
    async with driving(server, "anthropic", tmp_path / "a") as ours:
        real_create = ours.provider._api.create  # type: ignore[attr-defined]

        async def create(token: str, uploaded: str, file: Path) -> str:
            try:
                return str(await real_create(token, uploaded, file))
            except CallFailed:
                async with driving(server, "anthropic", tmp_path / "b") as stranger:
                    stranger_provider = stranger.provider
                    assert isinstance(stranger_provider, BatchProvider)
                    for number in range(5):
                        with pytest.raises(Deferred):
                            await stranger.ask(f"stranger {number}")
                    stranger_provider.connect()
                    await stranger_provider._submit_waiting()
                raise

        ours.provider._api.create = create  # type: ignore[attr-defined]
        await ours.run([plain(number) for number in range(5)])
        expect_answers(ours, 5)
    assert server.accepted == {f"{who} {number}": 1 for who in ("stranger", "question") for number in range(5)}


@both
async def test_a_server_that_stays_down_ends_the_run_and_the_next_goes_on(
    server: BatchServer, name: str, tmp_path: Path
) -> None:
    server.script("status", *[status(500)] * 5)
    async with driving(server, name, tmp_path) as driver:
        with pytest.raises(UserError, match=r"HTTP 500.*run again later"):
            await driver.run([plain(0)])
    async with driving(server, name, tmp_path) as driver:
        await driver.run([plain(0)])
        expect_answers(driver, 1)
    assert server.accepted.total() == 1


@both
@pytest.mark.parametrize("code", [400, 401, 403])
async def test_a_refused_submission_stops_the_run_and_keeps_nothing(
    server: BatchServer, name: str, code: int, tmp_path: Path
) -> None:
    server.script("create", status(code, {"message": f"no {KEY} sk-pla*******4a06", "type": "x"}))
    async with driving(server, name, tmp_path) as driver:
        with pytest.raises(UserError) as caught:
            await driver.run([plain(0)])
    assert KEY not in str(caught.value) and "sk-pla" not in str(caught.value)
    async with driving(server, name, tmp_path) as driver:  # another question now: the first is not paid for
        await driver.run([plain(1)])
    assert server.accepted == {"question 1": 1}


@both
async def test_no_key_in_any_file(
    server: BatchServer, name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    echo = {"message": f"bad key {KEY}", "type": "api_error"}
    server.script("create", status(500, echo), status(429, echo))
    server.script("status", status(500, echo))
    server.script("download", status(500, echo))
    server.fate = lambda question: "400" if question == "question 1" else "ok"
    async with driving(server, name, tmp_path) as driver:
        await driver.run([plain(0), plain(1)])
        assert not any(KEY in repr(failure) for failure in driver.failures.values())
    assert all(KEY in key for key in server.keys)
    for path in tmp_path.rglob("*"):
        assert KEY.encode() not in path.read_bytes(), path
    assert KEY not in "".join(capfd.readouterr())


@both
async def test_an_answer_that_quotes_the_key_is_kept_without_it(
    server: BatchServer, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with driving(server, name, tmp_path) as driver:
        parts: list[bytes] = []
        real = BatchLink.download

        async def download(link: BatchLink, opening: Any, to: Path) -> None:
            await real(link, opening, to)
            parts.append(to.read_bytes())

        monkeypatch.setattr(BatchLink, "download", download)
        await driver.run([lambda ask: ask(f"is it {KEY}?")])
        assert driver.answers == {f"is it {KEY}?": "answer to is it [key]?"}
    assert len(parts) == 1 and KEY.encode() not in parts[0] and b"[key]" in parts[0]
    assert KEY not in (tmp_path / "journal.jsonl").read_text()


@both
async def test_what_is_no_answer_is_not_handed_over_again_after_a_kill(
    server: BatchServer, name: str, tmp_path: Path
) -> None:
    """The journal knows answers, and leaves out those that come twice; a reply that was cut short it would count twice."""
    server.fate = lambda question: "length"
    seen: list[str] = []
    async with driving(server, name, tmp_path / "alive") as driver:
        for number in range(5):
            with pytest.raises(Deferred):
                await driver.ask(f"question {number}")
        async for delivered in driver.provider.collect():
            assert isinstance(delivered.outcome, Reply) and delivered.outcome.finish == "length"
            if len(seen) == 3:  # three are in the journal; the fourth is not
                break
            seen.append(delivered.queued.key)
        shutil.copytree(tmp_path / "alive", tmp_path / "killed")  # as a kill would leave it
    async with driving(server, name, tmp_path / "killed") as driver:
        rest = [delivered.queued.key async for delivered in driver.provider.collect()]
    assert len(seen) == 3 and len(rest) == 2 and len({*seen, *rest}) == 5


@both
async def test_results_of_any_length_go_to_disk(
    server: BatchServer, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "MAX_BODY_BYTES", 3000)  # of a reply; a batch's results are not one
    async with driving(server, name, tmp_path) as driver:
        await driver.run([plain(number) for number in range(40)])
        expect_answers(driver, 40)
    assert set(server.accepted.values()) == {1}


@pytest.mark.parametrize(("name", "path", "cursor"), [
    ("openai", "/batches", "after"), ("anthropic", "/v1/messages/batches", "after_id"),
])  # fmt: skip
async def test_a_list_without_end_is_left(
    server: BatchServer, name: str, path: str, cursor: str, tmp_path: Path
) -> None:
    async with driving(server, name, tmp_path, most=2) as driver:
        await driver.run([plain(number) for number in range(10)])
        assert isinstance(driver.provider, BatchProvider)
        listed = partial(driver.provider._api.link.listed, path, cursor, 0.0, lambda batch: 1.0)
        assert [batch["id"] async for batch in listed()] == list(reversed(server.jobs))  # in several pages
        page = server._page
        server._page = lambda request, after: page(request, None)  # type: ignore[method-assign]
        with pytest.raises(UserError, match=f"same page.*does not heed '{cursor}'"):
            assert [batch async for batch in listed()] == []


@both
async def test_what_is_said(server: BatchServer, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.takes = 0.15
    async with driving(server, name, tmp_path) as driver:
        await driver.run([plain(0), plain(1)])
    said = capsys.readouterr().err.splitlines()
    batch = next(iter(server.jobs))
    assert said == [
        f"{name}-batch: batch {batch} submitted: 2 requests",
        f"{name}-batch: 0 of 2 done ({batch})",
        f"{name}-batch: 2 of 2 done ({batch})",
    ]
    assert server.calls["status"] >= 3


@both
async def test_nothing_under_way_needs_no_key(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(f"{name.upper()}_API_KEY", raising=False)
    provider = PROVIDERS[name](ProviderOptions(folder=tmp_path))
    assert [delivered async for delivered in provider.collect()] == []
    await provider.close()


@both
async def test_a_second_process_is_refused(server: BatchServer, name: str, tmp_path: Path) -> None:
    async with driving(server, name, tmp_path) as first:
        with pytest.raises(Deferred):
            await first.ask("question 0")
        second = open_batches(server, name, tmp_path)
        with pytest.raises(UserError, match="in use by another process"):
            _ = second._store
        await second.close()


async def test_a_damaged_state_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "openai-batch.sqlite").write_bytes(b"this is no database, whatever its name says " * 100)
    provider = PROVIDERS["openai"](ProviderOptions(folder=tmp_path))
    with pytest.raises(DataError, match=r"openai-batch\.sqlite is damaged"):
        _ = provider._store


@both
def test_a_batch_is_the_same_question_as_live(name: str, tmp_path: Path) -> None:
    live, batch = open_provider(name), open_provider(f"{name}-batch", folder=tmp_path)
    request = Request([Message("system", "s"), Message("user", "u")], json_schema={"type": "object"}, schema_name="x")
    assert batch.name == live.name == name
    assert batch.payload("m", request) == live.payload("m", request)
    assert batch.capabilities.batch and batch.capabilities.json_schema and not live.capabilities.batch
    assert batch.capabilities.temperature == live.capabilities.temperature
    assert list(tmp_path.iterdir()) == []


@both
async def test_a_consumer_that_stops_in_between_gets_the_rest_later(
    server: BatchServer, name: str, tmp_path: Path
) -> None:
    """What was yielded last before it stopped may not be in the journal: it comes again, the earlier ones don't."""
    seen: list[str] = []
    for stop_after in (2, 3, 9):
        async with driving(server, name, tmp_path) as driver:
            for number in range(5):
                if f"question {number}" not in seen:
                    with pytest.raises(Deferred):
                        await driver.ask(f"question {number}")
            taken = []
            async for delivered in driver.provider.collect():
                taken.append(str(delivered.queued.payload["messages"][0]["content"]))
                if len(taken) == stop_after:
                    break
            seen += taken[:-1] if len(taken) == stop_after else taken
    assert sorted(seen) == [f"question {number}" for number in range(5)]
    assert set(server.accepted.values()) == {1}
