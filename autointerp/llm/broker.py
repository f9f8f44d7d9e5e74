"""The broker: `ask`, with everything that an explainer or a scorer must not know behind it.

A request is answered from the journal if it was ever answered before; else it is sent, as soon as limiter, purse and breaker
allow, tried again by one policy, and its answer is in the journal before anyone sees it. With a provider that answers later
(`DeferredProvider`) the request is queued and the asking coroutine let go; see `collect`.
"""

import asyncio
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, cast

from autointerp.errors import UserError
from autointerp.llm.breaker import Breaker
from autointerp.llm.identity import Identity, identify
from autointerp.llm.journal import Entry, Journal
from autointerp.llm.limiter import Limiter, asking_for
from autointerp.llm.prices import Price
from autointerp.llm.provider import (
    AnyProvider,
    CallFailed,
    DeferredProvider,
    Finish,
    Provider,
    Queued,
    Reply,
    check_request,
)
from autointerp.llm.purse import Purse, Reservation
from autointerp.llm.retry import policy
from autointerp.llm.types import Answer, Deferred, FailureKind, Request, RequestFailed, Usage

_LONGEST_PAUSE_S = 60.0  # that a success may impose on all requests
_NO_ANSWER: Mapping[Finish, tuple[FailureKind, str]] = {
    "length": (FailureKind.TRUNCATED, "the answer was cut off at {max_tokens} tokens"),
    "refusal": (FailureKind.REFUSED, "the model or its provider's filter refused"),
    "empty": (FailureKind.MALFORMED, "the answer is empty"),
    "other": (FailureKind.MALFORMED, "the model stopped for a reason that leaves no answer (a tool call or a pause)"),
}


@dataclass(slots=True)
class Progress:
    """Counters for a progress display. `done` and `failed` count askers, `from_journal` is part of `done`.

    `in_flight` counts attempts under way, `queued` requests that wait for a batch. Tokens and `money` (US dollars; of replies
    whose price is known) are those of this process's replies, failed ones included, and not those from the journal.
    """

    done: int = 0
    from_journal: int = 0
    failed: int = 0
    in_flight: int = 0
    queued: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    money: float = 0.0


@dataclass(frozen=True, slots=True)
class _Call:
    """A request on its way."""

    identity: Identity
    request: Request
    payload: Mapping[str, Any]


class Broker:
    """Asks `model` of `provider`, with `journal` as memory. Use it as `async with`; leaving it stops what is in flight.

    `concurrency` is the most requests in flight; fewer are sent where the server is overloaded. `timeout` is of one attempt
    in seconds, `retries` the tries after the first, `backoff` the first pause in seconds where the server names none.
    `patience_s` is how long a request is tried that the server has no time for, `give_up_s` how long an outage may last.
    `price` (times `price_factor`) and `purse` say what answers cost and what may be spent. `offline`: nothing is sent, and
    what the journal cannot answer is Deferred. `say` takes lines for the user.

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
        price: Price | None = None,
        price_factor: float = 1.0,
        purse: Purse | None = None,
        offline: bool = False,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    ) -> None:
        if concurrency < 1:
            raise UserError(f"--concurrency is {concurrency}; expected a positive number of requests at a time")
        self.provider = provider
        self.model = model
        self.progress = Progress()
        self.limiter = Limiter(concurrency)
        self._breaker = Breaker(concurrency, give_up_s=give_up_s, say=say)
        self._journal = journal
        self._timeout = timeout
        self._retries = retries
        self._backoff = backoff
        self._patience_s = patience_s
        self._price = price
        self._price_factor = price_factor
        self._purse = purse or Purse(None)
        self._offline = offline
        self._calls: dict[str, asyncio.Task[Answer]] = {}
        self._failed: dict[str, RequestFailed] = {}  # of deferred requests, until their coroutines ask again
        self._tries: dict[str, int] = {}  # of deferred requests that are to be tried again
        self._held: dict[str, Reservation] = {}  # for deferred requests under way, where there is a budget
        self.is_over_budget = False
        self._stopped: UserError | None = None
        self._draining = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        calls = list(self._calls.values())
        if not (kind is None and self._draining.is_set()):  # who drains waits for what is paid for
            for call in calls:
                call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self.provider.close()

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
            self.progress.done += 1
            self.progress.from_journal += 1
            return known
        if self._offline or self._draining.is_set():
            raise Deferred
        call = _Call(identity, request, payload)
        try:
            if self.provider.capabilities.batch:
                await self._queue(call)
                raise Deferred
            answer = await asyncio.shield(self._shared(call))
        except RequestFailed:
            self.progress.failed += 1
            raise
        self.progress.done += 1
        return answer

    def recorded(self, request: Request) -> Answer | None:
        """What the journal has for `request`; nothing is sent."""
        payload = self.provider.payload(self.model, request)
        return self._journal.get(identify(self.provider.name, self.model, payload, request.sample).key)

    def _shared(self, call: _Call) -> asyncio.Task[Answer]:
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

    async def _deliver(self, call: _Call) -> Answer:
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
            failure = RequestFailed(error.kind, error.reason, attempts)
        raise failure

    async def _sleep(self, seconds: float) -> None:
        """Between tries; raises Deferred when the run is being ended."""
        try:
            async with asyncio.timeout(seconds):
                await self._draining.wait()
        except TimeoutError:
            return
        raise Deferred

    async def _attempt(self, call: _Call, number: int) -> Answer:
        """One attempt, journalled. Nothing is awaited between reply and journal: a cancellation can't fall in between."""
        await self.limiter.acquire(asking_for.get())
        self.progress.in_flight += 1
        try:
            self._raise_if_stopped()
            self.provider.connect()
            if self._price is None:
                return await self._send(call, number, None)
            async with self._purse.reserve(self._most(call)) as held:
                return await self._send(call, number, held)
        except UserError as error:
            self._stopped = error
            raise
        except RequestFailed as failure:
            self.is_over_budget |= failure.kind == FailureKind.OVER_BUDGET
            raise
        finally:
            self.progress.in_flight -= 1
            self.limiter.release()

    async def _send(self, call: _Call, number: int, held: Reservation | None) -> Answer:
        clock = asyncio.get_running_loop().time
        began, key = clock(), call.identity.key
        try:
            async with asyncio.timeout(self._timeout):
                reply = await cast(Provider, self.provider).send(call.request, call.payload)
        except TimeoutError:
            self.limiter.overloaded(began)
            reason = f"no answer within {self._timeout:g} s"
            self.limiter.pause(self._breaker.failed(key, reason))
            raise CallFailed(FailureKind.TIMEOUT, reason, retryable=True) from None
        except CallFailed as error:
            if error.overloaded:
                self.limiter.overloaded(began)
                self.limiter.pause(min(error.retry_after or 0.0, _LONGEST_PAUSE_S))
            if error.retryable:
                self.limiter.pause(self._breaker.failed(key, error.reason, overloaded=error.overloaded))
            raise
        self._breaker.succeeded()
        self.limiter.succeeded()
        if reply.pause:
            self.limiter.pause(min(reply.pause, _LONGEST_PAUSE_S))
        money = self._cost(reply.usage)
        if held is not None:
            held.settle(money or 0.0)
        return self._record(_queued(call, self.model), reply, money, number, clock() - began)

    def _record(self, asked: Queued, reply: Reply, money: float | None, attempts: int, latency_s: float) -> Answer:
        """Journal a reply. Raises RequestFailed if it is no answer."""
        self.progress.input_tokens += reply.usage.input
        self.progress.output_tokens += reply.usage.output
        self.progress.money += money or 0.0
        entry = Entry(
            key=asked.key,
            provider=self.provider.name,
            model=self.model,
            served_model=reply.model,
            payload_hash=asked.payload_hash,
            template_hash=asked.template_hash,
            purpose=asked.purpose,
            sample=asked.sample,
            usage=reply.usage,
            latency_s=round(latency_s, 4),
            attempts=attempts,
            finish=reply.finish,
            text=reply.text,
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            money=money,
            prompt_chars=asked.prompt_chars,
            logprobs=reply.logprobs or None,
        )
        self._journal.append(entry)
        if reply.finish in _NO_ANSWER:
            kind, reason = _NO_ANSWER[reply.finish]
            raise RequestFailed(kind, reason.format(max_tokens=asked.max_tokens), attempts)
        return Answer(asked.key, reply.text, reply.finish, self.model, reply.usage, logprobs=reply.logprobs)

    def _cost(self, usage: Usage) -> float | None:
        return None if self._price is None else self._price.cost(usage, self._price_factor)

    def _most(self, call: _Call) -> float:
        if self._price is None:
            return 0.0
        return self._price.most(call.identity.size, call.request.max_tokens, self._price_factor)

    async def _queue(self, call: _Call) -> None:
        """Leave a request with a deferred provider. Raises RequestFailed if it came back without an answer before."""
        key, provider = call.identity.key, cast(DeferredProvider, self.provider)
        if key in self._failed:
            raise self._failed[key]
        if self._purse.budget is not None and key not in self._held:
            held = self._purse.try_reserve(self._most(call))
            if held is None:
                self.is_over_budget = True
                raise self._purse.refusal(self._most(call))
            self._held[key] = held
        try:
            provider.connect()
            await provider.queue(_queued(call, self.model))
        except UserError as error:
            self._stopped = error
            raise
        self.progress.queued += 1

    async def collect(self) -> bool:
        """Submit what was queued, wait for the first answers, journal all that are there; False if nothing came.

        For deferred providers; the coroutines that got Deferred are to be run again after it. Raises UserError where only the
        user can go on.
        """
        if not self.provider.capabilities.batch or self._draining.is_set():
            return False
        came = False
        async for delivered in cast(DeferredProvider, self.provider).collect():
            came = True
            self._take(delivered.queued, delivered.outcome)
        self.progress.queued = 0
        return came

    def _take(self, asked: Queued, outcome: Reply | CallFailed) -> None:
        """What came back for a queued request. One that may be tried again is queued when its coroutine asks again."""
        held = self._held.pop(asked.key, None)
        tries = self._tries.pop(asked.key, 0) + 1
        if isinstance(outcome, Reply):
            if asked.key in self._journal:  # handed over a second time, after a kill
                return
            money = self._cost(outcome.usage)
            if held is not None:
                held.settle(money or 0.0)
            try:
                self._record(asked, outcome, money, tries, 0.0)
            except RequestFailed as failure:
                self._failed[asked.key] = failure
            return
        if held is not None:
            held.settle(0.0)
        if outcome.retryable and tries <= self._retries:
            self._tries[asked.key] = tries
        else:
            self._failed[asked.key] = RequestFailed(outcome.kind, outcome.reason, tries)

    def _raise_if_stopped(self) -> None:
        if self._stopped is not None:
            raise UserError(str(self._stopped))  # a fresh one: a shared one would gather every caller's traceback


def _queued(call: _Call, model: str) -> Queued:
    request = call.request
    return Queued(
        key=call.identity.key, model=model, payload=call.payload, payload_hash=call.identity.payload_hash,
        purpose=request.purpose, template_hash=request.template_hash, sample=request.sample, max_tokens=request.max_tokens,
        prompt_chars=sum(len(message.content) for message in request.messages) + len(request.continuation or ""),
    )  # fmt: skip
