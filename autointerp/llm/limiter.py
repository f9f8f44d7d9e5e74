"""How many requests are in flight: as many as the server bears, each feature in turn.

Additive increase, multiplicative decrease (Chiu and Jain 1989), as TCP does it: the limit doubles every round trip until the
server is first overloaded; then it is halved, and grows by one a round trip from there.
"""

import asyncio
from collections import deque
from collections.abc import Hashable
from contextvars import ContextVar

from autointerp.llm.types import Deferred

START = 16
# Which feature a coroutine works for: the broker serves features in turn, so that none waits behind a thousand of another's.
asking_for: ContextVar[Hashable] = ContextVar("asking_for", default=None)


class Limiter:
    """Admits at most `limit` requests at a time; 1 ≤ limit ≤ `most`. Belongs to one event loop."""

    def __init__(self, most: int, *, start: int = START) -> None:
        self.most = most
        self.limit = float(min(start, most))
        self.in_flight = 0
        self._doubling = True
        self._fell_at = float("-inf")  # requests sent before the limit fell say nothing about the new one
        self._opens_at = float("-inf")
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}  # by owner, in the order of their turns
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def acquire(self, owner: Hashable) -> None:
        """Wait for a turn. Raises Deferred once the limiter is closed. To be followed by `release`."""
        if self._closed:
            raise Deferred
        if not self._waiting and self._is_free():
            self.in_flight += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.release()  # admitted and cancelled in the same moment
            raise

    def release(self) -> None:
        self.in_flight -= 1
        self._admit()

    def succeeded(self) -> None:
        """A reply came; call it before `release`."""
        if self.in_flight >= int(self.limit):  # a limit that is not reached was not tried
            self.limit = min(self.most, self.limit + (1.0 if self._doubling else 1.0 / self.limit))

    def overloaded(self, sent_at: float) -> None:
        """The server could not keep up with a request sent at `sent_at`, in the event loop's time."""
        if sent_at >= self._fell_at:
            self.limit = max(1.0, self.limit / 2)
            self._doubling = False
            self._fell_at = asyncio.get_running_loop().time()

    def pause(self, seconds: float) -> None:
        """Admit nothing for so long."""
        self._opens_at = max(self._opens_at, asyncio.get_running_loop().time() + seconds)

    def close(self) -> None:
        """Admit nothing any more: who waits gets Deferred."""
        self._closed = True
        waiting, self._waiting = self._waiting, {}
        for turns in waiting.values():
            for turn in turns:
                if not turn.done():
                    turn.set_exception(Deferred())
        if self._timer is not None:
            self._timer.cancel()

    def _is_free(self) -> bool:
        return self.in_flight < int(self.limit) and asyncio.get_running_loop().time() >= self._opens_at

    def _admit(self) -> None:
        while self._waiting and self._is_free():
            owner, turns = next(iter(self._waiting.items()))
            del self._waiting[owner]  # to the end of the line, if it waits for more
            turn = turns.popleft()
            if turns:
                self._waiting[owner] = turns
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)
        if (
            self._waiting
            and self.in_flight < int(self.limit)
            and (self._timer is None or self._timer.when() < self._opens_at)
        ):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_at(self._opens_at, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._admit()
