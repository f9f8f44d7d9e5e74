"""How many requests are in flight: growth, halving, turns, pauses."""

import asyncio
import contextlib
import time

import pytest

from autointerp.llm.limiter import Limiter
from autointerp.llm.types import Deferred


async def fill(limiter: Limiter) -> None:
    """Take every place that is free."""
    while limiter.in_flight < int(limiter.limit):
        await limiter.acquire(None)


async def test_the_limit_doubles_a_round_trip_until_the_server_is_overloaded_then_grows_by_one() -> None:
    limiter = Limiter(100, start=4)
    for expected in (8, 16, 32):
        await fill(limiter)
        for _ in range(limiter.in_flight):
            limiter.succeeded()
            limiter.in_flight = int(limiter.limit)  # the place is taken again at once
        limiter.in_flight = 0
        assert limiter.limit == expected
    now = asyncio.get_running_loop().time()
    limiter.overloaded(now)
    assert limiter.limit == 16
    limiter.in_flight = 16
    for _ in range(16):
        limiter.succeeded()
    assert 16.9 < limiter.limit <= 17


async def test_one_overload_counts_once_however_many_requests_saw_it() -> None:
    limiter = Limiter(64, start=64)
    sent = asyncio.get_running_loop().time()
    for _ in range(20):
        limiter.overloaded(sent)
    assert limiter.limit == 32
    await asyncio.sleep(0.001)
    limiter.overloaded(asyncio.get_running_loop().time())
    assert limiter.limit == 16
    for _ in range(10):
        await asyncio.sleep(0.001)
        limiter.overloaded(asyncio.get_running_loop().time())
    assert limiter.limit == 1  # never less: someone must find out when the server is well again


async def test_a_limit_that_is_not_reached_does_not_grow() -> None:
    limiter = Limiter(100, start=10)
    limiter.in_flight = 3
    limiter.succeeded()
    assert limiter.limit == 10


async def test_owners_take_turns() -> None:
    limiter, order = Limiter(1, start=1), []

    async def one(owner: str, number: int) -> None:
        await limiter.acquire(owner)
        order.append(f"{owner}{number}")
        await asyncio.sleep(0)
        limiter.release()

    tasks = [asyncio.create_task(one("a", number)) for number in range(6)]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(one("b", number)) for number in range(2)]
    tasks += [asyncio.create_task(one("c", 0))]
    await asyncio.gather(*tasks)
    assert order[0] == "a0"
    assert order.index("b0") <= 3 and order.index("c0") <= 4 and order.index("b1") <= 6  # not behind all of a's
    assert [name for name in order if name[0] == "a"] == [f"a{number}" for number in range(6)]
    assert limiter.in_flight == 0


async def test_nothing_is_admitted_in_a_pause_and_everything_after_it() -> None:
    limiter = Limiter(4, start=4)
    limiter.pause(0.1)
    began = time.monotonic()
    await asyncio.gather(*(limiter.acquire(None) for _ in range(4)))
    assert 0.09 <= time.monotonic() - began < 5


async def test_a_longer_pause_than_the_one_that_is_waited_for_is_kept() -> None:
    limiter = Limiter(4, start=4)
    limiter.pause(0.05)
    began = time.monotonic()
    waiting = asyncio.create_task(limiter.acquire(None))
    await asyncio.sleep(0.01)
    limiter.pause(0.2)
    await waiting
    assert time.monotonic() - began >= 0.2


async def test_a_place_given_to_someone_who_left_is_not_lost() -> None:
    limiter = Limiter(1, start=1)
    await limiter.acquire(None)
    leaver = asyncio.create_task(limiter.acquire("x"))
    stayer = asyncio.create_task(limiter.acquire("y"))
    await asyncio.sleep(0)
    limiter.release()  # admits the leaver …
    leaver.cancel()  # … who is cancelled before it runs
    with contextlib.suppress(asyncio.CancelledError):
        await leaver
    await asyncio.wait_for(stayer, 1)
    assert limiter.in_flight == 1


async def test_closing_lets_everybody_go() -> None:
    limiter = Limiter(1, start=1)
    await limiter.acquire(None)
    waiting = [asyncio.create_task(limiter.acquire(number)) for number in range(3)]
    await asyncio.sleep(0)
    limiter.close()
    for task in waiting:
        with pytest.raises(Deferred):
            await task
    with pytest.raises(Deferred):
        await limiter.acquire(None)
    limiter.release()
    assert limiter.in_flight == 0
