"""Many coroutines over many items with bounded memory: items are admitted as others finish."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


async def concurrently(
    items: Iterable[Item], work: Callable[[Item], Awaitable[Result]], limit: int
) -> AsyncIterator[Result]:
    """Yield the results of `work` on each item, in the order in which they finish, at most `limit` at a time.

    An exception ends the iteration and cancels what is under way: `work` turns the failures of single items into results.
    """
    pending: set[asyncio.Future[Result]] = set()
    source = iter(items)
    exhausted = False
    try:
        while pending or not exhausted:
            while not exhausted and len(pending) < limit:
                try:
                    item = next(source)
                except StopIteration:
                    exhausted = True
                else:
                    pending.add(asyncio.ensure_future(work(item)))
            if pending:
                finished, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                failed = [
                    future for future in finished if future.exception() is not None
                ]  # asked of all: none goes unseen
                for future in [*failed, *finished]:
                    yield future.result()
    finally:
        for future in pending:
            future.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
