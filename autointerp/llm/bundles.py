"""Texts that are asked for at the same time go as one message: embedding endpoints take lists, and models take batches.

The broker knows nothing of it: it sees one request and one reply for each text, so that each has its own line in the journal.
What fails together is told to the broker once (`CallFailed.is_echo`); a list that is called wrong is halved until the text is
found for which it is, unless the server says that it makes no vectors at all.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from autointerp.errors import UserError
from autointerp.llm.denials import denies
from autointerp.llm.provider import CallFailed, Reply

MOST_TEXTS = 64
MOST_BYTES = 200_000  # a token is a byte at least, and OpenAI takes 300,000 tokens in a list
_PAUSE_S = 0.005  # with nothing new for this long, the list is full enough
_PATIENCE_S = 0.05

Send = Callable[[Sequence[str]], Awaitable[Sequence[Reply | CallFailed]]]


@dataclass(eq=False, slots=True)
class _Waiting:
    text: str
    future: "asyncio.Future[Reply]"


class Bundles:
    """`send` sends several texts once: an outcome for each in their order; or it raises CallFailed for all, or UserError.

    `most` texts are sent together, and `at_once` lists. Belongs to one event loop.
    """

    def __init__(self, send: Send, *, most: int = MOST_TEXTS, at_once: int | None = None) -> None:
        self._send = send
        self._most = most
        self._lists = asyncio.Semaphore(at_once) if at_once else None
        self._gathered: list[_Waiting] = []
        self._bytes = 0
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._under_way: dict[asyncio.Task[None], list[_Waiting]] = {}

    async def ask(self, text: str) -> Reply:
        """The reply for one text. Raises CallFailed or UserError. May be cancelled at any time."""
        loop = asyncio.get_running_loop()
        size = len(text.encode("utf-8", "surrogatepass"))
        if self._gathered and (len(self._gathered) >= self._most or self._bytes + size > MOST_BYTES):
            self._go()
        one = _Waiting(text, loop.create_future())
        if not self._gathered:
            self._since = loop.time()
        self._gathered.append(one)
        self._bytes += size
        if self._timer is not None:
            self._timer.cancel()
        wait = min(_PAUSE_S, max(0.0, self._since + _PATIENCE_S - loop.time()))
        self._timer = loop.call_later(wait, self._go)
        try:
            return await one.future
        finally:
            self._abandon_idle()

    async def close(self) -> None:
        """Give up what is under way."""
        if self._timer is not None:
            self._timer.cancel()
        tasks = list(self._under_way)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in self._gathered:
            one.future.cancel()
        self._gathered = []

    def _go(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._gathered, self._bytes = [one for one in self._gathered if not one.future.done()], [], 0
        if waiting:
            task = asyncio.create_task(self._run(waiting))
            self._under_way[task] = waiting
            task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        for one in self._under_way.pop(task):
            one.future.cancel()  # of what was given up; the others have an outcome
        if not task.cancelled():
            task.exception()

    def _abandon_idle(self) -> None:
        """A message for whose answer nobody waits any more is given up."""
        for task, waiting in self._under_way.items():
            if all(one.future.cancelled() for one in waiting):
                task.cancel()

    async def _run(self, waiting: list[_Waiting]) -> None:
        try:
            if self._lists is None:
                await self._settle(waiting)
            else:
                async with self._lists:
                    await self._settle(waiting)
        except Exception as error:  # a fault of ours or of a library: those who wait must hear of it
            for one in waiting:
                if not one.future.done():
                    one.future.set_exception(UserError(str(error)) if isinstance(error, UserError) else error)

    async def _settle(self, waiting: Sequence[_Waiting]) -> None:
        left = [one for one in waiting if not one.future.done()]
        if not left:
            return
        try:
            outcomes = await self._send([one.text for one in left])
        except CallFailed as failure:
            if not failure.retryable and len(left) > 1 and not denies("embeddings", failure.reason):
                middle = len(left) // 2
                await self._settle(left[:middle])
                await self._settle(left[middle:])
                return
            outcomes = [failure, *(failure.echo() for _ in left[1:])]
        for one, outcome in zip(left, outcomes, strict=True):
            if one.future.done():
                continue
            if isinstance(outcome, CallFailed):
                one.future.set_exception(outcome)
            else:
                one.future.set_result(outcome)
