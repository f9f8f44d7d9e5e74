"""What the loop over batches needs of one provider's API."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from autointerp.llm.batch_link import BatchLink
from autointerp.llm.batch_store import Batch
from autointerp.llm.provider import CallFailed, Queued, Reply
from autointerp.llm.types import FailureKind

Outcome = Reply | CallFailed


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds: from one look at the batches to the next (growing), between tries of a failed call, and `settle`: how long
    a batch that was accepted may take to show up in the provider's list. `tries` of a call after the first."""

    first_look: float = 10.0
    longest_look: float = 120.0
    backoff: float = 2.0
    longest_wait: float = 3600.0
    settle: float = 30.0
    tries: int = 8


@dataclass(frozen=True, slots=True)
class Status:
    """A batch as the provider reports it: `done` of `total` requests are.

    `ending` says how an ended batch ended; `reason` why it failed as a whole; `full`: it failed because too much is under
    way on the account, and less would go.
    """

    state: Literal["running", "ended", "failed"]
    done: int = 0
    total: int = 0
    ending: Literal["completed", "expired", "cancelled"] = "completed"
    files: tuple[str, ...] = ()
    reason: str = ""
    full: bool = False

    def missing(self) -> CallFailed:
        """What becomes of a request for which an ended batch brought nothing."""
        if self.ending == "expired":
            return CallFailed(FailureKind.TIMEOUT, "its batch expired before it was answered", retryable=True)
        if self.ending == "cancelled":  # by the user, who would not want it back at once
            return CallFailed(FailureKind.SERVER_ERROR, "its batch was cancelled before it was answered")
        return CallFailed(FailureKind.SERVER_ERROR, "its batch ended without a result for it", retryable=True)


class Undecided(Exception):
    """A batch may be ours or not, and its provider can't say yet; the text says what is waited for."""


class Unanswered(Exception):
    """A submission brought no reply: it may have been accepted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BatchApi(Protocol):
    """One provider's batches. Methods that ask are one attempt each: they raise CallFailed or UserError."""

    link: BatchLink
    most_requests: int
    most_bytes: int

    def line(self, token: str, queued: Queued) -> bytes:
        """One request as a line of the file that `upload` takes."""
        ...

    async def upload(self, token: str, file: Path) -> str:
        """Bring the requests there, if that is a step of its own. Costs nothing and may be repeated."""
        ...

    async def create(self, token: str, uploaded: str, file: Path) -> str:
        """Submit; returns the provider's id. Not to be repeated without `find`."""
        ...

    async def newest(self) -> float:
        """When, by the provider's clock, its newest batch was created; 0 if it has none."""
        ...

    async def find(self, batch: Batch, others: frozenset[str], scratch: Path) -> str | None:
        """The id of a batch whose submission brought no reply, or None if there is none. Raises Undecided.

        `others` are ids that are known to be of other batches; `scratch` a file that may be written.
        """
        ...

    async def status(self, remote: str) -> Status: ...

    async def fetch(self, remote: str, status: Status, to: Path) -> None:
        """Append the results to `to`, JSON lines in any order."""
        ...

    def read(self, token: str, line: Mapping[str, Any]) -> tuple[str, Outcome]:
        """Key and outcome of one line of results. Raises KeyError, TypeError or ValueError if it is none of ours."""
        ...
