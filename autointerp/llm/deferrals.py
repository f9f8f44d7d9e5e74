"""Requests that are answered later: what is reserved, tried again and failed between a question and its answer."""

import asyncio

from autointerp.errors import UserError
from autointerp.llm.abilities import Abilities
from autointerp.llm.provider import CallFailed, DeferredProvider, Queued, Reply
from autointerp.llm.purse import Purse, Reservation
from autointerp.llm.recorder import Call, Recorder
from autointerp.llm.types import RequestFailed


class Deferrals:
    """The broker's part for a `DeferredProvider`. `retries`: how often a request is submitted again that came back unanswered.
    `abilities`: of the provider, for messages."""

    def __init__(
        self,
        provider: DeferredProvider,
        model: str,
        recorder: Recorder,
        purse: Purse,
        retries: int,
        abilities: Abilities,
    ) -> None:
        self._provider = provider
        self._model = model
        self._recorder = recorder
        self._purse = purse
        self._retries = retries
        self._abilities = abilities
        self._failed: dict[str, RequestFailed] = {}  # what their coroutines are told when they ask again
        self._tries: dict[str, int] = {}  # of requests that are to be tried again
        self._held: dict[str, Reservation] = {}  # for requests under way, where there is a budget

    async def queue(self, call: Call) -> None:
        """Leave a request with the provider. Raises RequestFailed if it came back without an answer, or is too dear."""
        key = call.identity.key
        if key in self._failed:
            failure = self._failed[key]  # a fresh one: a shared one would gather every asker's traceback
            raise RequestFailed(failure.kind, failure.reason, failure.attempts)
        if self._purse.budget is not None and key not in self._held:
            held = self._purse.try_reserve(self._recorder.most(call))
            if held is None:
                self._recorder.progress.failed += 1
                raise self._purse.refusal(self._recorder.most(call))
            self._held[key] = held
        self._provider.connect()
        await self._provider.queue(call.queued(self._model))
        self._recorder.progress.queued += 1

    async def collect(self, until: asyncio.Event) -> bool:
        """Submit what was queued, wait for the first answers, take all that are there; False if nothing came `until` then."""
        work, ending = asyncio.create_task(self._take_all()), asyncio.create_task(until.wait())
        try:
            await asyncio.wait({work, ending}, return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else False
        finally:
            for task in (work, ending):
                task.cancel()
            await asyncio.gather(work, ending, return_exceptions=True)
            self._recorder.progress.queued = 0

    async def _take_all(self) -> bool:
        """Raises UserError where nothing came but refusals, and one says what the provider lacks; first all is taken."""
        came = answered = False
        lacking: UserError | None = None
        async for delivered in self._provider.collect():
            came = True
            outcome = delivered.outcome
            self._take(delivered.queued, outcome)
            answered |= isinstance(outcome, Reply)
            if isinstance(outcome, CallFailed) and not outcome.retryable:
                lacking = lacking or self._abilities.lacking(outcome.reason)
        if lacking is not None and not answered:
            raise lacking
        return came

    def _take(self, asked: Queued, outcome: Reply | CallFailed) -> None:
        """One that may be tried again is queued when its coroutine asks again."""
        held = self._held.pop(asked.key, None)
        tries = self._tries.pop(asked.key, 0) + 1
        is_known = asked.key in self._recorder.journal  # an answer that is handed over a second time, after a kill
        money = self._recorder.cost(asked, outcome) if isinstance(outcome, Reply) and not is_known else None
        if held is not None:
            held.settle(money or 0.0)
        else:  # submitted by an earlier process, and not asked for by this one
            self._purse.spend(money or 0.0)
        if is_known:
            return
        if isinstance(outcome, Reply):
            try:
                self._recorder.record(asked, outcome, money, tries, 0.0)
                self._recorder.progress.done += 1
            except RequestFailed as failure:
                self._fail(asked, failure)
        elif outcome.retryable and tries <= self._retries:
            self._tries[asked.key] = tries
        else:
            self._fail(asked, outcome.ended(tries))

    def _fail(self, asked: Queued, failure: RequestFailed) -> None:
        self._failed[asked.key] = failure
        self._recorder.progress.failed += 1
