"""The purse: the budget is never passed, nobody waits for ever, everybody in turn."""

import asyncio
import math
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.llm.purse import Purse
from autointerp.llm.types import FailureKind, RequestFailed


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_is_left_of_a_reservation_is_free_again() -> None:
    purse = Purse(1.0, spent=0.4)
    async with purse.reserve(0.5) as reservation:
        assert purse.reserved == 0.5
        reservation.settle(0.1)
        assert (purse.spent, purse.reserved) == (0.5, 0)
    async with purse.reserve(0.5):
        pass  # fails: nothing is spent
    assert (purse.spent, purse.reserved) == (0.5, 0)


async def test_what_does_not_fit_fails_with_the_figures_and_at_once() -> None:
    purse = Purse(25.0, spent=24.98)
    with pytest.raises(RequestFailed) as caught:
        async with purse.reserve(0.031):
            pytest.fail("it was sent")
    assert (caught.value.kind, caught.value.attempts) == (FailureKind.OVER_BUDGET, 0)
    assert caught.value.reason == (
        "the budget of $25.00 could be passed: $24.98 spent, $0.00 in flight, and this request can cost up to $0.031; "
        "raise --budget"
    )
    async with purse.reserve(0.02) as reservation:  # to the last cent
        reservation.settle(0.02)
    assert purse.spent == 25.0


async def test_it_waits_for_those_in_flight_and_then_fits_or_fails() -> None:
    purse = Purse(1.0)
    sent: list[str] = []

    async def ask(name: str, most: float, cost: float, gate: asyncio.Event) -> None:
        async with purse.reserve(most) as reservation:
            sent.append(name)
            await gate.wait()
            reservation.settle(cost)

    first, second = asyncio.Event(), asyncio.Event()
    second.set()
    tasks = [asyncio.create_task(ask("a", 0.6, 0.3, first)), asyncio.create_task(ask("b", 0.5, 0.5, second)),
             asyncio.create_task(ask("c", 0.5, 0.1, second))]  # fmt: skip
    await turns()
    assert sent == ["a"]
    first.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sent == ["a", "b"] and results[:2] == [None, None]
    assert isinstance(results[2], RequestFailed) and results[2].kind == FailureKind.OVER_BUDGET
    assert (purse.spent, purse.reserved) == (0.8, 0)


async def test_a_dear_request_is_not_overtaken() -> None:
    purse = Purse(1.0)
    order: list[str] = []

    async def ask(name: str, most: float) -> None:
        async with purse.reserve(most):
            order.append(name)
            await turns(2)

    await asyncio.gather(ask("a", 0.5), ask("dear", 1.0), *(ask(f"c{number}", 0.1) for number in range(5)))
    assert order == ["a", "dear", "c0", "c1", "c2", "c3", "c4"]


async def test_a_cancelled_waiter_lets_the_next_one_in() -> None:
    purse = Purse(1.0)
    async with purse.reserve(0.5):
        dear = asyncio.create_task(purse.reserve(0.9).__aenter__())
        cheap = asyncio.create_task(purse.reserve(0.3).__aenter__())
        await turns()
        assert not cheap.done()
        dear.cancel()
        held = await asyncio.wait_for(cheap, 1)
        assert purse.reserved == 0.8
        held.settle(0.1)
    assert (purse.spent, purse.reserved) == (0.1, 0)


@pytest.mark.parametrize("cancel_first", [True, False])
async def test_granted_and_cancelled_in_the_same_turn(cancel_first: bool) -> None:
    purse = Purse(1.0)
    holder = await purse.reserve(1.0).__aenter__()
    waiter = asyncio.create_task(purse.reserve(0.7).__aenter__())
    await turns()
    if cancel_first:
        waiter.cancel()
    holder.settle(0.0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert (purse.spent, purse.reserved) == (0, 0)


async def test_refused_and_cancelled_in_the_same_turn() -> None:
    purse = Purse(1.0)
    holder = await purse.reserve(0.9).__aenter__()
    waiter = asyncio.create_task(purse.reserve(0.7).__aenter__())
    await turns()
    holder.settle(0.9)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert (purse.spent, purse.reserved) == (0.9, 0)


async def test_what_is_spent_without_a_reservation_counts() -> None:
    purse = Purse(1.0, spent=0.25)
    purse.spend(0.5)
    assert (purse.spent, purse.reserved) == (0.75, 0.0)
    assert purse.try_reserve(0.5) is None


async def test_a_bound_that_was_wrong_is_not_hidden() -> None:
    purse = Purse(1.0)
    async with purse.reserve(0.1) as reservation:
        reservation.settle(1.5)
        with pytest.raises(ValueError, match="not held"):
            reservation.settle(0.1)
    assert purse.spent == 1.5
    with pytest.raises(RequestFailed):
        await purse.reserve(0.0001).__aenter__()


async def test_reservations_without_waiting() -> None:
    purse = Purse(1.0)
    held = purse.try_reserve(0.8)
    assert held is not None and purse.try_reserve(0.3) is None
    held.settle(0.2)
    assert purse.spent == 0.2
    again = purse.try_reserve(0.8)
    assert again is not None and purse.try_reserve(0.1) is None and purse.reserved == 0.8


@pytest.mark.parametrize("amount", [-1.0, math.nan, math.inf])
def test_amounts_that_are_none(amount: float) -> None:
    for wrong in (lambda: Purse(amount), lambda: Purse(1, amount), lambda: Purse(1).reserve(amount)):
        with pytest.raises(ValueError, match="US dollars"):
            wrong()


async def test_without_a_budget_it_only_adds_up_and_costs_next_to_nothing() -> None:
    purse = Purse(None, 1.0)
    began = time.perf_counter()
    for _ in range(2000):
        async with purse.reserve(10.0) as reservation:
            reservation.settle(0.001)
    spent_s = time.perf_counter() - began
    assert purse.spent == 3.0 and purse.reserved == 0
    assert spent_s / 2000 < 100e-6  # 2 µs on an idle machine


cents = st.integers(0, 60).map(lambda number: number / 100)
asks = st.lists(
    st.tuples(cents, st.floats(0, 1), st.integers(0, 4), st.sampled_from(["ok", "fail", "cancel"])), max_size=25
)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 200).map(lambda number: number / 100), asks)
def test_the_budget_is_never_passed_and_nothing_is_left_waiting(
    budget: float, asked: list[tuple[float, float, int, str]]
) -> None:
    """Each asks for `most`, works some turns, then costs a share of it, fails or is cancelled (also while it waits)."""

    async def play() -> None:
        purse = Purse(budget)
        sent = 0.0
        failures = 0

        async def ask(most: float, share: float, length: int, end: str) -> None:
            nonlocal sent
            await turns(length)
            async with purse.reserve(most) as reservation:
                assert purse.spent + purse.reserved <= budget + 1e-9
                await turns(length)
                if end == "fail":
                    raise RuntimeError("no reply")
                cost = round(most * share, 6)
                sent += cost
                reservation.settle(cost)

        tasks = [asyncio.create_task(ask(*one)) for one in asked]
        for task, (_, _, length, end) in zip(tasks, asked, strict=True):
            if end == "cancel":
                await turns(length)
                task.cancel()
        async with asyncio.timeout(10):
            for task in tasks:
                with suppress(RequestFailed, RuntimeError, asyncio.CancelledError):
                    await task
        failures = sum(1 for task in tasks if not task.cancelled() and isinstance(task.exception(), RequestFailed))
        assert purse.reserved == 0 and not purse._waiting
        assert purse.spent == pytest.approx(sent, abs=1e-9) and purse.spent <= budget + 1e-9
        if sum(most for most, *_ in asked) <= budget:
            assert failures == 0
        for task, (most, *_) in zip(tasks, asked, strict=True):
            if most > budget and not task.cancelled():
                assert isinstance(task.exception(), RequestFailed)

    asyncio.run(play())
