"""What the worker runs together, in which order, and what becomes of jobs that nobody waits for any more."""

import asyncio
import threading
from collections.abc import Iterator, Sequence

import pytest

from autointerp.llm import CallFailed, Message, Reply, Request
from autointerp.llm.local.jobs import Job
from autointerp.llm.local.worker import Worker


class FakeEngine:
    """Answers with the batch it ran; waits at the gate before each."""

    def __init__(self, most: int = 4) -> None:
        self.most = most
        self.gate = threading.Event()
        self.running = threading.Event()
        self.batches: list[list[str]] = []

    def prepare(self, job: Job) -> bool:
        text = job.request.messages[0].content
        job.prompt = [0] * int(text.split()[0])
        job.forced = [0] if job.request.continuation else []
        if text.endswith("refused"):
            job.deliver(ValueError(text))
        return not job.done

    def fitting(self, jobs: Sequence[Job]) -> int:
        return min(len(jobs), self.most)

    def run(self, jobs: Sequence[Job]) -> None:
        self.batches.append([job.request.messages[0].content for job in jobs])
        self.running.set()
        assert self.gate.wait(20)
        for job in jobs:
            if not job.cancelled:
                job.deliver(Reply(job.request.messages[0].content))


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def worker(engine: FakeEngine) -> Iterator[Worker]:
    worker = Worker(engine)
    yield worker
    engine.gate.set()
    worker.close()


def job(text: str, continuation: str | None = None) -> Job:
    loop = asyncio.get_running_loop()
    return Job(Request([Message("user", text)], continuation=continuation), 0, loop, loop.create_future())


def submitted(worker: Worker, *texts: str) -> list[Job]:
    jobs = [job(text) for text in texts]
    for one in jobs:
        worker.submit(one)
    return jobs


async def started(engine: FakeEngine) -> None:
    assert await asyncio.to_thread(engine.running.wait, 20)
    engine.running.clear()


async def test_the_oldest_goes_with_those_nearest_in_length(worker: Worker, engine: FakeEngine) -> None:
    first = submitted(worker, "1 blocks")
    await started(engine)
    rest = submitted(worker, "500 a", "10 b", "510 c", "900 d", "480 e", "501 f", "12 g")
    scored = job("500 h", continuation="z")
    worker.submit(scored)
    engine.gate.set()
    replies = await asyncio.gather(*(one.future for one in [*first, *rest, scored]))
    assert [reply.text for reply in replies] == [one.request.messages[0].content for one in [*first, *rest, scored]]
    assert engine.batches == [
        ["1 blocks"],
        ["480 e", "500 a", "501 f", "510 c"],
        ["10 b", "12 g"],
        ["900 d"],
        ["500 h"],
    ]


async def test_requests_that_come_together_are_one_batch(worker: Worker, engine: FakeEngine) -> None:
    engine.gate.set()
    await asyncio.gather(*(one.future for one in submitted(worker, "1 a", "2 b", "3 c")))
    assert engine.batches == [["1 a", "2 b", "3 c"]]


async def test_a_waiting_job_that_is_cancelled_is_not_run(worker: Worker, engine: FakeEngine) -> None:
    blocks = submitted(worker, "1 blocks")
    await started(engine)
    waiting = submitted(worker, "1 a", "1 b", "1 c")
    worker.cancel(waiting[1])
    waiting[1].future.cancel()
    engine.gate.set()
    await asyncio.gather(*(one.future for one in [*blocks, waiting[0], waiting[2]]))
    assert engine.batches == [["1 blocks"], ["1 a", "1 c"]]


async def test_what_cannot_be_prepared_does_not_hold_up_the_others(worker: Worker, engine: FakeEngine) -> None:
    engine.gate.set()
    refused, broken, good = submitted(worker, "1 refused", "x not a number", "1 good")
    assert (await good.future).text == "1 good"
    for one in (refused, broken):
        with pytest.raises(ValueError):
            await one.future


async def test_closing_ends_the_thread_and_tells_those_who_wait(worker: Worker, engine: FakeEngine) -> None:
    running = submitted(worker, "1 running")
    await started(engine)
    waiting = submitted(worker, "1 waiting")
    closing = asyncio.create_task(asyncio.to_thread(worker.close))
    while not running[0].cancelled:
        await asyncio.sleep(0.01)
    engine.gate.set()
    await asyncio.wait_for(closing, 20)
    for one in (*running, *waiting):
        with pytest.raises(CallFailed, match="closed before the answer"):
            await one.future
    assert engine.batches == [["1 running"]]
    assert not any(
        thread.name == "autointerp-local-model" and thread is worker._thread for thread in threading.enumerate()
    )
