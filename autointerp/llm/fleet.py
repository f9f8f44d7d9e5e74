"""Which of several servers gets the next request. It knows nothing of requests, nor of how they are sent.

The one with the fewest requests under way, among equals the one whose turn is longest ago. A server that fails is rested,
longer each time; when its rest is over it is on trial: it gets one request at a time until one is answered.
"""

import time
from collections.abc import Callable, Sequence

_FIRST_REST_S = 1.0
_LONGEST_REST_S = 60.0


class Server:
    """One server as the fleet sees it. Times are the fleet's clock's."""

    __slots__ = ("address", "chosen", "failed_at", "failures", "in_flight", "rested_at")

    def __init__(self, address: str) -> None:
        self.address = address
        self.in_flight = 0
        self.chosen = 0  # number of the last choice that fell on it
        self.failures = 0  # since the last answer
        self.failed_at = float("-inf")
        self.rested_at = float("-inf")  # when it is, or was, rested

    def __repr__(self) -> str:
        return f"Server({self.address}, in_flight={self.in_flight}, failures={self.failures})"


class Fleet:
    """The servers at `addresses`, in no particular order; raises ValueError if there are none.

    A fleet of one is never rested: there is nobody else, and when to try again is the broker's to decide.
    """

    def __init__(self, addresses: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        if not addresses:
            raise ValueError("a fleet of no servers")
        self.servers = [Server(address) for address in dict.fromkeys(addresses)]
        self._clock = clock
        self._choices = 0

    def choose(self) -> Server:
        """The server for the next request; if all rest, the one that will be rested first."""
        self._choices += 1
        now = self._clock()
        ready = [
            server
            for server in self.servers
            if server.rested_at <= now and not (server.failures and server.in_flight)  # one at a time while on trial
        ]
        # Where all rest or are on trial: the one that is rested first, or has least to do.
        choice = min(
            ready or self.servers, key=lambda server: (max(server.rested_at, now), server.in_flight, server.chosen)
        )
        choice.chosen = self._choices
        choice.in_flight += 1
        return choice

    def wait(self) -> float | None:
        """Seconds until a server is rested; None if one is now."""
        seconds = min(server.rested_at for server in self.servers) - self._clock()
        return seconds if seconds > 0 else None

    def now(self) -> float:
        return self._clock()

    def answered(self, server: Server, sent_at: float) -> None:
        """It replied, with whatever, to a request sent at `sent_at`: the end of its trial, unless it failed since."""
        server.in_flight -= 1
        if server.failures and sent_at > server.failed_at:
            server.failures = 0
            server.rested_at = sent_at

    def failed(self, server: Server, sent_at: float) -> None:
        """It did not reply. The requests that were under way when it failed are one failure and not a hundred."""
        server.in_flight -= 1
        if len(self.servers) == 1 or sent_at < server.rested_at or sent_at <= server.failed_at:
            return
        server.failures += 1
        server.failed_at = self._clock()
        rest = min(_LONGEST_REST_S, _FIRST_REST_S * 2 ** min(server.failures - 1, 10))
        server.rested_at = server.failed_at + rest

    def rest(self, server: Server, seconds: float) -> None:
        """It asked for a pause: others take its requests meanwhile."""
        server.rested_at = max(server.rested_at, self._clock() + seconds)
