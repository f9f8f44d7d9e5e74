"""Features through coroutines: bounded memory, results written as they come, again and again until none waits."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Generic, NamedTuple, Protocol, TypeVar

from autointerp.concurrent import concurrently
from autointerp.llm.limiter import asking_for
from autointerp.llm.session import ModelSession
from autointerp.llm.types import Answer, Ask, Deferred, Request
from autointerp.progress import Advance, progress

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")
Outcome = TypeVar("Outcome")
_SAMPLES_A_DRAW = 1000  # no explainer or scorer repeats a question so often
_BEAT_S = 10.0
CHUNK = 64  # items read, and written, at a time


class _Attempt(NamedTuple, Generic[Item, Outcome]):
    item: Item
    outcome: Outcome | None  # None: deferred


async def in_rounds(
    what: str,
    unit: str,
    todo: Sequence[Item],
    read: Callable[[Sequence[Item]], Iterator[Prepared]],
    work: Callable[[Prepared], Awaitable[Outcome]],
    write: Callable[[list[Outcome]], None],
    session: ModelSession | None,
) -> None:
    """`work` on every item; `read` brings what it needs for a chunk of items, in their order, `write` takes outcomes.

    Where `work` ends in Deferred the item's turn comes again once answers have come. What is finished is written whatever
    happens. Without a session items are worked on one by one.
    """
    answers_later = session is not None and session.answers_later
    with progress(what, len(todo), unit, steady=not answers_later) as advance:
        begun = False
        while todo:
            if session is not None:
                session.begin_round(repeat=begun)
            beat = asyncio.create_task(_beat(advance, session))
            try:
                todo = await _round(todo, read, work, write, session, advance, begun)
            finally:
                beat.cancel()
            if not todo or session is None or not await session.collect():
                break
            begun = True
    if todo and session is not None and session.is_offline:
        print(
            f"{what}: {len(todo):,} {unit} are left as they were: the journal does not have all of their answers",
            file=sys.stderr,
        )


async def _beat(advance: Advance, session: ModelSession | None) -> None:
    """Show what is waited for where nothing is finished for long."""
    while session is not None:
        await asyncio.sleep(_BEAT_S)
        advance(0, session.note())


class Asking(Protocol):
    """The part of a broker that `drawn` needs."""

    async def ask(self, request: Request) -> Answer: ...
    def recorded(self, request: Request) -> Answer | None: ...


def drawn(broker: Asking, draw: int) -> Ask:
    """`ask` for the n-th time that a failed item is tried anew: earlier answers that can be used, else fresh ones."""
    if not draw:
        return broker.ask

    async def ask_again(request: Request) -> Answer:
        check = request.check or (lambda text: False)
        samples = [request.sample + number * _SAMPLES_A_DRAW for number in range(draw + 1)]
        for sample in samples[:-1]:
            known = broker.recorded(replace(request, sample=sample))
            if known is not None and ((known.calls and request.may_call) or check(known.text)):
                return known
        return await broker.ask(replace(request, sample=samples[-1]))

    return ask_again


def _prepared(
    todo: Sequence[Item],
    read: Callable[[Sequence[Item]], Iterator[Prepared]],
    session: ModelSession | None,
    begun: bool,
) -> Iterator[tuple[Item, Prepared]]:
    """Items with what they need, until the run is being ended; over budget those that are `begun` go on: answers may be there."""
    for begin in range(0, len(todo), CHUNK):
        chunk = todo[begin : begin + CHUNK]
        for pair in zip(chunk, read(chunk), strict=True):
            if session is not None and (session.is_draining or (session.is_over_budget and not begun)):
                return
            yield pair


async def _round(
    todo: Sequence[Item],
    read: Callable[[Sequence[Item]], Iterator[Prepared]],
    work: Callable[[Prepared], Awaitable[Outcome]],
    write: Callable[[list[Outcome]], None],
    session: ModelSession | None,
    advance: Advance,
    begun: bool,
) -> list[Item]:
    """One turn for every item; those that were deferred. A run that is over budget begins no item that is not `begun`."""
    deferred: list[Item] = []
    finished: list[Outcome] = []

    async def attempt(pair: tuple[Item, Prepared]) -> _Attempt[Item, Outcome]:
        asking_for.set(id(pair[0]))
        try:
            return _Attempt(pair[0], await work(pair[1]))
        except Deferred:
            return _Attempt(pair[0], None)

    attempts: AsyncIterator[_Attempt[Item, Outcome]]
    attempts = concurrently(_prepared(todo, read, session, begun), attempt, session.at_once if session else 1)
    try:
        async for one in attempts:
            if one.outcome is None:
                deferred.append(one.item)
                continue
            finished.append(one.outcome)
            advance(1, session.note() if session else "")
            if len(finished) == CHUNK:
                full, finished = finished, []
                write(full)
    finally:
        if finished:
            write(finished)
    return deferred
