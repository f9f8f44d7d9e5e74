"""The broker: `ask`, with everything that an explainer or a scorer must not know behind it.

A request is answered from the journal if it was ever answered before; else it is sent, as soon as limiter, purse and breaker
allow, tried again by one policy, and its answer is in the journal before anyone sees it. With a provider that answers later
(`DeferredProvider`) the request is queued and the asking coroutine let go; see `collect`.
"""

import asyncio
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self, cast

from autointerp.errors import UserError
from autointerp.llm.abilities import Abilities, Use
from autointerp.llm.breaker import Breaker
from autointerp.llm.deferrals import Deferrals
from autointerp.llm.identity import identify
from autointerp.llm.journal import Journal
from autointerp.llm.limiter import START, Limiter, asking_for
from autointerp.llm.price import Tariff
from autointerp.llm.provider import (
    AnyProvider,
    CallFailed,
    DeferredProvider,
    Provider,
    check_request,
)
from autointerp.llm.purse import Purse, Reservation
from autointerp.llm.recorder import Call, Progress, Recorder
from autointerp.llm.retry import policy
from autointerp.llm.types import Answer, Deferred, FailureKind, Request, RequestFailed, fits

_LONGEST_PAUSE_S = 60.0  # that a success may impose on all requests
_LAST_ANSWERS_S = 30.0  # for which a run that is being ended waits for what is in flight, and paid for


class Broker:
    """Asks `model` of `provider`, with `journal` as memory. Use it as `async with`; leaving it stops what is in flight, but
    where the run ends because no request would fare better: then what is in flight has half a minute to be answered.

    `concurrency` is the most requests in flight; fewer are sent where the server is overloaded. `timeout` is of one attempt
    in seconds, `retries` the tries after the first, `backoff` the first pause in seconds where the server names none.
    `patience_s` is how long a request is tried that the server has no time for, `give_up_s` how long an outage may last.
    `price_of` (a model) and `purse` say what answers cost and what may be spent. `offline`: nothing is sent, and
    what the journal cannot answer is Deferred. `by` names who asks, `uses` who needs which capability, for messages. `say`
    takes lines for the user.

    The provider is connected at the first request that the journal can't answer and closed at the end; the journal stays
    open, it belongs to the caller.
    """

    def __init__(
        self,
        provider: AnyProvider,
        model: str,
        journal: Journal,
        *,
        concurrency: int = 16,
        timeout: float = 120.0,
        retries: int = 6,
        backoff: float = 1.0,
        patience_s: float = 600.0,
        give_up_s: float = 300.0,
        price_of: Callable[[str], Tariff | None] = lambda model: None,
        purse: Purse | None = None,
        offline: bool = False,
        by: str = "",
        uses: Mapping[str, Use] | None = None,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    ) -> None:
        if concurrency < 1:
            raise UserError(f"--concurrency is {concurrency}; expected a positive number of requests at a time")
        self.provider = provider
        self.model = model
        self.limiter = Limiter(concurrency, start=concurrency if provider.capabilities.local else START)
        self._breaker = Breaker(concurrency, give_up_s=give_up_s, say=say)
        self._abilities = Abilities(provider.name, model, by, uses or {})
        self._journal = journal
        self._timeout = None if provider.capabilities.local else timeout
        self._retries = retries
        self._backoff = backoff
        self._patience_s = patience_s
        self._purse = purse or Purse(None)
        self._recorder = Recorder(journal, provider.name, model, price_of)
        self._deferrals: Deferrals | None = None
        if provider.capabilities.batch:
            self._deferrals = Deferrals(
                cast(DeferredProvider, provider), model, self._recorder, self._purse, retries, self._abilities
            )
        self.is_offline = offline
        self._calls: dict[str, asyncio.Task[Answer]] = {}
        self.is_over_budget = False
        self._stopped: UserError | None = None
        self._draining = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        calls = list(self._calls.values())
        try:
            if calls and self._stopped is not None and isinstance(error, UserError):
                self.drain()
                await asyncio.wait(calls, timeout=_LAST_ANSWERS_S)
            if not (kind is None and self._draining.is_set()):  # who drains waits for what is paid for
                for call in calls:
                    call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        finally:
            await self.provider.close()

    @property
    def progress(self) -> Progress:
        return self._recorder.progress

    @property
    def is_draining(self) -> bool:
        return self._draining.is_set()

    def drain(self) -> None:
        """Send nothing any more. What is in flight is still answered and journalled; all else gets Deferred."""
        self._draining.set()
        self.limiter.close()

    async def ask(self, request: Request) -> Answer:
        """The answer to `request`; satisfies `autointerp.llm.types.Ask`.

        Equal requests that are asked at the same time share one call. A caller that is cancelled leaves its call
        running: the answer is paid for, and goes into the journal unless the broker is left first.

        A well-formed reply that the caller can't use (not the JSON it asked for, the wrong number of items) is its own
        business: the journal holds the answer for good, so asking the same again would bring the same. Ask with
        `sample + 1` instead: that is another request, and on a later run both are found in the journal and end the same
        way. The number of such repeats is the caller's to limit.

        Raises RequestFailed if this request has no usable answer: record it and go on. Raises Deferred if the answer comes
        later or never in this run: let it pass. Raises UserError if no request of the run would have one (wrong key, no
        credit, unknown model, full disk): let it pass, it ends the run; all later calls raise it too and nothing more is
        sent.
        """
        self._raise_if_stopped()
        check_request(self.provider, request)
        payload = self.provider.payload(self.model, request)
        identity = identify(self.provider.name, self.model, payload, request.sample)
        known = self._journal.get(identity.key)
        if known is not None:
            if not self.progress.is_repeat:
                self.progress.done += 1
                self.progress.from_journal += 1
            return known
        if self.is_offline or self._draining.is_set():
            raise Deferred
        call = Call(identity, request, payload)
        try:
            if self._deferrals is not None:
                await self._deferrals.queue(call)
                raise Deferred
            answer = await asyncio.shield(self._shared(call))
        except RequestFailed as failure:
            self.progress.failed += self._deferrals is None
            self.is_over_budget |= failure.kind == FailureKind.OVER_BUDGET
            raise
        except UserError as error:
            self._stopped = error
            raise
        self.progress.done += 1
        self.progress.unfit += not fits(request, answer)
        return answer

    def recorded(self, request: Request) -> Answer | None:
        """What the journal has for `request`; nothing is sent."""
        payload = self.provider.payload(self.model, request)
        return self._journal.get(identify(self.provider.name, self.model, payload, request.sample).key)

    def _shared(self, call: Call) -> asyncio.Task[Answer]:
        key = call.identity.key
        task = self._calls.get(key)
        if task is None:
            task = asyncio.create_task(self._deliver(call))
            self._calls[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        return task

    def _forget(self, key: str, task: asyncio.Task[Answer]) -> None:
        del self._calls[key]
        if not task.cancelled():
            task.exception()  # seen: if every caller was cancelled, asyncio would complain that nobody looked at it

    async def _deliver(self, call: Call) -> Answer:
        try:
            return await self._attempt(call, 1)
        except CallFailed as error:
            first, attempts = error, 1
        try:
            async for attempt in policy(self._retries, self._backoff, self._patience_s, self._sleep):
                with attempt:
                    attempts = attempt.retry_state.attempt_number
                    if attempts == 1:
                        raise first  # the policy is entered by the attempts that need it only: it costs more than a request
                    return await self._attempt(call, attempts)
        except CallFailed as error:
            failure = error.ended(attempts)
        raise failure

    async def _sleep(self, seconds: float) -> None:
        """Between tries; raises Deferred when the run is being ended."""
        try:
            async with asyncio.timeout(seconds):
                await self._draining.wait()
        except TimeoutError:
            return
        raise Deferred

    async def _attempt(self, call: Call, number: int) -> Answer:
        """One attempt, journalled. Nothing is awaited between reply and journal: a cancellation can't fall in between."""
        await self.limiter.acquire(asking_for.get())
        self.progress.in_flight += 1
        try:
            self._raise_if_ending()
            self.provider.connect()
            if not self._recorder.is_priced:
                return await self._send(call, number, None)
            async with self._purse.reserve(self._recorder.most(call)) as held:
                self._raise_if_ending()  # once more: the purse may have let it wait
                return await self._send(call, number, held)
        except UserError as error:
            self._stopped = error  # before another request is admitted
            raise
        finally:
            self.progress.in_flight -= 1
            self.limiter.release()

    async def _send(self, call: Call, number: int, held: Reservation | None) -> Answer:
        clock = asyncio.get_running_loop().time
        began, key = clock(), call.identity.key
        try:
            async with asyncio.timeout(self._timeout):
                reply = await cast(Provider, self.provider).send(call.request, call.payload)
        except TimeoutError:
            self.limiter.overloaded(began)
            reason = self.progress.trouble = f"no answer within {self._timeout:g} s"
            self.limiter.pause(self._breaker.failed(key, reason))
            raise CallFailed(FailureKind.TIMEOUT, reason, retryable=True) from None
        except CallFailed as error:
            self.progress.trouble = error.reason
            if error.overloaded:
                self.limiter.overloaded(began)
                self.limiter.pause(min(error.retry_after or 0.0, _LONGEST_PAUSE_S))
            if error.is_echo:
                self._raise_if_stopped()  # by the first of the same message
                raise
            if error.retryable:
                self.limiter.pause(self._breaker.failed(key, error.reason, overloaded=error.overloaded))
            else:
                self._abilities.refused(call.request, error)
            raise
        except UserError as error:
            raise self._abilities.explained(call.request, error) from None
        self.progress.trouble = ""
        self._breaker.succeeded()
        self.limiter.succeeded()
        if reply.pause:
            self.limiter.pause(min(reply.pause, _LONGEST_PAUSE_S))
        asked = call.queued(self.model)
        money = self._recorder.cost(asked, reply)
        if held is not None:
            held.settle(money or 0.0)
        answer = self._recorder.record(asked, reply, money, number, clock() - began)
        self._abilities.answered(call.request, reply)
        return answer

    async def collect(self) -> bool:
        """Submit what was queued, wait for the first answers, journal all that are there; False if nothing came.

        For deferred providers; the coroutines that got Deferred are to be run again after it. Raises UserError where only the
        user can go on.
        """
        if self._deferrals is None or self.is_offline or self._draining.is_set():
            return False
        return await self._deferrals.collect(self._draining)

    def _raise_if_ending(self) -> None:
        self._raise_if_stopped()
        if self._draining.is_set():
            raise Deferred

    def _raise_if_stopped(self) -> None:
        if self._stopped is not None:
            raise UserError(str(self._stopped))  # a fresh one: a shared one would gather every caller's traceback
