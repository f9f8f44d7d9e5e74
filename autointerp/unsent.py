"""The way to a model on which nothing is sent: for estimates, and the prompt costs of benchmarks."""

from dataclasses import replace
from pathlib import Path

from autointerp.config import ModelAccess
from autointerp.llm.identity import request_key
from autointerp.llm.journal import Journal
from autointerp.llm.prices import find_price
from autointerp.llm.provider import check_request
from autointerp.llm.providers.mock import MockProvider
from autointerp.llm.rounds import drawn
from autointerp.llm.session import provider_for, require_model
from autointerp.llm.types import Answer, Ask, Request
from autointerp.projection import Asked, Billing


class Line:
    """The way to a model, on which nothing is sent: the journal answers, where it is one that `knows_answers`, else the mock."""

    def __init__(
        self, access: ModelAccess, out: Path, journal: Journal | None, by: str, *, knows_answers: bool = True
    ) -> None:
        self._model, self._mock = require_model(access, by), MockProvider()
        self._journal = journal if knows_answers else None
        self._provider, self._known = provider_for(access, out), set[str]()
        self.billing = Billing(
            access.provider, self._model, find_price(access.provider, self._model, access.base_url, access.prices),
            journal.calibration(self._model) if journal is not None else {}, self._provider.capabilities.prompt_caching,
        )  # fmt: skip

    def ask_into(self, asked: list[Asked], draw: int, begun: set[str] | None) -> Ask:
        """An `ask` that puts what it is asked into `asked`, of an item that was tried anew `draw` times. `begun`: what earlier
        requests began with; None: all were begun."""
        return drawn(_Trace(self, asked, begun), draw)

    async def answer(self, request: Request) -> Answer:
        """The journal's, or one that is made up; what the trial has asked already counts as the journal's."""
        key = self.key(request)
        known = key in self._known
        self._known.add(key)
        return self.recorded(request) or replace(await self.made_up(request, key), from_journal=known)

    def key(self, request: Request) -> str:
        """The journal's key of the request. Raises UserError for what the provider cannot do."""
        check_request(self._provider, request)
        payload = self._provider.payload(self._model, request)
        return request_key(self._provider.name, self._model, payload, request.sample)

    def recorded(self, request: Request) -> Answer | None:
        """The journal's answer, if it has one."""
        return self._journal.get(self.key(request)) if self._journal is not None else None

    async def made_up(self, request: Request, key: str) -> Answer:
        """The mock's answer, under the request's own key."""
        reply = await self._mock.send(request, self._mock.payload(self._model, request))
        finish = "calls" if reply.calls else reply.finish
        return Answer(key, reply.text, finish, self._model, reply.usage, logprobs=reply.logprobs, calls=reply.calls)


class _Trace:
    """A line in place of a broker, which notes what it is asked."""

    def __init__(self, line: Line, asked: list[Asked], begun: set[str] | None) -> None:
        self._line, self._asked, self._begun = line, asked, begun

    async def ask(self, request: Request) -> Answer:
        answer = await self._line.answer(request)
        self._asked.append(Asked.of(request, answer, again=self._begun is None or request.beginning in self._begun))
        if self._begun is not None and request.shared:
            self._begun.add(request.beginning)
        return answer

    def recorded(self, request: Request) -> Answer | None:
        return self._line.recorded(request)
