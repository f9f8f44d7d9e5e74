"""The broker: `ask`, with everything that an explainer or a scorer must not know behind it.

A request is answered from the journal if it was ever answered before; else it is sent, at most `concurrency` at a
time, tried again by one policy, and its answer is in the journal before anyone sees it.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from autointerp.errors import UserError
from autointerp.llm.identity import payload_hash, request_key
from autointerp.llm.journal import Entry, Journal
from autointerp.llm.provider import CallFailed, Finish, Provider, Reply, check_request
from autointerp.llm.retry import policy
from autointerp.llm.types import Answer, FailureKind, Request, RequestFailed

_MAX_WAIT_S = 600.0  # a server that wants a longer pause (a daily quota) fails the request; a later run asks again
_NO_ANSWER: Mapping[Finish, tuple[FailureKind, str]] = {
    "length": (FailureKind.TRUNCATED, "the answer was cut off at {max_tokens} tokens"),
    "refusal": (FailureKind.REFUSED, "the model or its provider's filter refused"),
    "empty": (FailureKind.MALFORMED, "the answer is empty"),
    "other": (FailureKind.MALFORMED, "the model stopped for a reason that leaves no answer (a tool call or a pause)"),
}


@dataclass(slots=True)
class Progress:
    """Counters for a progress display. `done` and `failed` count askers, `from_journal` is part of `done`.

    `in_flight` counts requests that hold a slot, waiting ones between tries included. Tokens are those of this run's
    replies, failed ones included, and not those from the journal.
    """

    done: int = 0
    from_journal: int = 0
    failed: int = 0
    in_flight: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Delivery:
    reply: Reply
    attempts: int
    latency_s: float


class Broker:
    """Asks `model` of `provider`, with `journal` as memory. Use it as `async with`; leaving it stops what is in flight.

    `timeout` is of one attempt in seconds, `retries` the tries after the first, `backoff` the first pause in seconds
    where the server names none. The provider is connected at the first request that the journal can't answer and
    closed at the end; the journal stays open, it belongs to the caller.
    """

    def __init__(
        self,
        provider: Provider,
        model: str,
        journal: Journal,
        *,
        concurrency: int = 16,
        timeout: float = 120.0,
        retries: int = 6,
        backoff: float = 1.0,
    ) -> None:
        if concurrency < 1:
            raise UserError(f"--concurrency is {concurrency}; expected a positive number of requests at a time")
        self.provider = provider
        self.model = model
        self.progress = Progress()
        self._journal = journal
        self._slots = asyncio.Semaphore(concurrency)
        self._timeout = timeout
        self._retries = retries
        self._backoff = backoff
        self._calls: dict[str, asyncio.Task[Answer]] = {}
        self._stopped: UserError | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        calls = list(self._calls.values())
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self.provider.close()

    async def ask(self, request: Request) -> Answer:
        """The answer to `request`; satisfies `autointerp.llm.types.Ask`.

        Equal requests that are asked at the same time share one call. A caller that is cancelled leaves its call
        running: the answer is paid for, and goes into the journal unless the broker is left first.

        A well-formed reply that the caller can't use (not the JSON it asked for, the wrong number of items) is its own
        business: the journal holds the answer for good, so asking the same again would bring the same. Ask with
        `sample + 1` instead: that is another request, and on a later run both are found in the journal and end the same
        way. The number of such repeats is the caller's to limit.

        Raises RequestFailed if this request has no usable answer: record it and go on. Raises UserError if no request
        of the run would have one (wrong key, no credit, unknown model, full disk): let it pass, it ends the run; all
        later calls raise it too and nothing more is sent.
        """
        self._raise_if_stopped()
        check_request(self.provider, request)
        payload = self.provider.payload(self.model, request)
        key = request_key(self.provider.name, self.model, payload, request.sample)
        known = self._journal.get(key)
        if known is not None:
            self.progress.done += 1
            self.progress.from_journal += 1
            return known
        try:
            answer = await asyncio.shield(self._shared_call(key, request, payload))
        except RequestFailed:
            self.progress.failed += 1
            raise
        self.progress.done += 1
        return answer

    def _shared_call(self, key: str, request: Request, payload: Mapping[str, Any]) -> asyncio.Task[Answer]:
        call = self._calls.get(key)
        if call is None:
            call = asyncio.create_task(self._call(key, request, payload))
            self._calls[key] = call
            call.add_done_callback(lambda done: self._forget(key, done))
        return call

    def _forget(self, key: str, call: asyncio.Task[Answer]) -> None:
        del self._calls[key]
        if not call.cancelled():
            call.exception()  # seen: if every caller was cancelled, asyncio would complain that nobody looked at it

    async def _call(self, key: str, request: Request, payload: Mapping[str, Any]) -> Answer:
        async with self._slots:
            self.progress.in_flight += 1
            try:
                self._raise_if_stopped()
                self.provider.connect()
                delivery = await self._deliver(request, payload)
                # Nothing is awaited from here until the journal has it: a cancellation can't fall in between.
                return self._record(key, request, payload, delivery)
            except UserError as error:
                self._stopped = error
                raise
            finally:
                self.progress.in_flight -= 1

    async def _deliver(self, request: Request, payload: Mapping[str, Any]) -> _Delivery:
        attempts = 0
        try:
            async for attempt in policy(self._retries, self._backoff, _MAX_WAIT_S):
                with attempt:
                    attempts = attempt.retry_state.attempt_number
                    self._raise_if_stopped()
                    started = time.monotonic()
                    reply = await self._attempt(request, payload)
                    return _Delivery(reply, attempts, time.monotonic() - started)
        except CallFailed as error:
            failure = RequestFailed(error.kind, error.reason, attempts)
        raise failure

    async def _attempt(self, request: Request, payload: Mapping[str, Any]) -> Reply:
        try:
            async with asyncio.timeout(self._timeout):
                return await self.provider.send(request, payload)
        except TimeoutError:
            raise CallFailed(FailureKind.TIMEOUT, f"no answer within {self._timeout:g} s", retryable=True) from None

    def _record(self, key: str, request: Request, payload: Mapping[str, Any], delivery: _Delivery) -> Answer:
        reply = delivery.reply
        self.progress.input_tokens += reply.usage.input
        self.progress.output_tokens += reply.usage.output
        entry = Entry(
            key=key,
            provider=self.provider.name,
            model=self.model,
            served_model=reply.model,
            payload_hash=payload_hash(payload),
            template_hash=request.template_hash,
            purpose=request.purpose,
            sample=request.sample,
            usage=reply.usage,
            latency_s=round(delivery.latency_s, 4),
            attempts=delivery.attempts,
            finish=reply.finish,
            text=reply.text,
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        self._journal.append(entry)
        if reply.finish in _NO_ANSWER:
            kind, reason = _NO_ANSWER[reply.finish]
            raise RequestFailed(kind, reason.format(max_tokens=request.max_tokens), delivery.attempts)
        return Answer(key, reply.text, reply.finish, self.model, reply.usage)

    def _raise_if_stopped(self) -> None:
        if self._stopped is not None:
            raise UserError(str(self._stopped))  # a fresh one: a shared one would gather every caller's traceback
