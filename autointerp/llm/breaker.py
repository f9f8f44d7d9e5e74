"""Whether the provider is there at all. One request that fails is its own trouble; many in a row are an outage."""

import asyncio
from collections.abc import Callable

from autointerp.errors import UserError

_IN_A_ROW = 10
_REQUESTS = 5
_LONGEST_PAUSE_S = 30.0


class Breaker:
    """Counts attempts that brought no reply, in a row, whichever request they were of.

    From the tenth on, of at least five requests (or `concurrency`, if that is less), the provider counts as down: pauses
    grow from one second to half a minute, so that few requests use up their tries. After `give_up_s` seconds without a
    reply (a tenth of that if there never was one, three times as many while it only says that it is overloaded) the run is to
    be ended: the answers so far are safe, and a dictionary of failures helps nobody. `say` gets one line when an outage
    begins and ends.
    """

    def __init__(
        self, concurrency: int, *, give_up_s: float = 300.0, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self._requests = min(_REQUESTS, concurrency)
        self._give_up_s = give_up_s
        self._say = say
        self._answered = self._is_down = False
        self._failures = 0
        self._keys: set[str] = set()
        self._since = 0.0

    def succeeded(self) -> None:
        self._answered = True
        if self._failures:
            if self._is_down:
                self._say("the provider answers again")
            self._failures, self._is_down = 0, False
            self._keys.clear()

    def failed(self, key: str, reason: str, *, overloaded: bool = False) -> float:
        """Note a failed attempt; returns the seconds for which nothing should be sent. Raises UserError to end the run."""
        now = asyncio.get_running_loop().time()
        if not self._failures:
            self._since = now
        self._failures += 1
        if len(self._keys) < self._requests:
            self._keys.add(key)
        if self._failures < _IN_A_ROW or len(self._keys) < self._requests:
            return 0.0
        elapsed = now - self._since
        if elapsed >= self._give_up_s * (3.0 if overloaded else 1.0 if self._answered else 0.1):
            raise UserError(
                f"the provider is down: {self._failures} attempts in {elapsed:.0f} s brought no reply (the last: {reason}); "
                "every answer so far is safe; run the same command again when it is back"
            )
        if not self._is_down:
            self._is_down = True
            self._say(f"the provider does not answer ({reason}); trying on with pauses")
        if overloaded:
            return 0.0  # it has said itself how long to wait, or the limiter finds out
        return min(_LONGEST_PAUSE_S, 2.0 ** (self._failures - _IN_A_ROW))
