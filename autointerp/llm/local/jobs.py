"""One request on its way through the local model: asked on the event loop, answered from the worker's thread."""

import asyncio
from dataclasses import dataclass, field

from autointerp.llm.provider import CallFailed, Reply
from autointerp.llm.types import Request


@dataclass(eq=False, slots=True)
class Job:
    """`seed` of the draws is a function of the request alone. The worker fills in `prompt` and `forced`.

    `prompt`: tokens up to where the answer begins. `forced`: tokens of a given continuation. `cancelled` is set on the event
    loop and read by the worker, which then drops the job where it stands.
    """

    request: Request
    seed: int
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Reply]"
    prompt: list[int] = field(default_factory=list)
    forced: list[int] = field(default_factory=list)
    cancelled: bool = False
    done: bool = False

    @property
    def group(self) -> str:
        """Requests with the same opening message are likely to share a beginning."""
        return self.request.messages[0].content if len(self.request.messages) > 1 else ""

    @property
    def length(self) -> int:
        """Tokens to be read."""
        return len(self.prompt) + len(self.forced)

    def deliver(self, outcome: Reply | BaseException) -> None:
        """Hand the outcome to the one who waits; the first counts. Called from the worker's thread."""
        if not self.done:
            self.done = True
            self.loop.call_soon_threadsafe(self._settle, outcome)

    def _settle(self, outcome: Reply | BaseException) -> None:
        if self.future.done():
            return
        if isinstance(outcome, Reply):
            self.future.set_result(outcome)
        else:
            self.future.set_exception(outcome)


class Unanswerable(Exception):
    """This job cannot be answered, whatever is tried; `failure` says why."""

    def __init__(self, failure: CallFailed) -> None:
        super().__init__(str(failure))
        self.failure = failure
