"""What becomes of a reply: counted, priced, journalled, and only then an answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from autointerp.llm.entry import Entry, answer_of
from autointerp.llm.identity import Identity
from autointerp.llm.journal import Journal
from autointerp.llm.price import Tariff
from autointerp.llm.provider import Finish, Queued, Reply
from autointerp.llm.types import Answer, FailureKind, Request, RequestFailed, Usage, prompt_text

_NO_ANSWER: Mapping[Finish, tuple[FailureKind, str]] = {
    "length": (FailureKind.TRUNCATED, "the answer was cut off at {max_tokens} tokens"),
    "refusal": (FailureKind.REFUSED, "the model or its provider's filter refused"),
    "empty": (FailureKind.MALFORMED, "the answer is empty"),
    "other": (
        FailureKind.MALFORMED,
        "the model stopped for a reason that leaves no answer (a pause, or no usable tool call)",
    ),
}


@dataclass(slots=True)
class Progress:
    """Counters for a progress display. `done` and `failed` count askers, `from_journal` is part of `done`.

    Where answers come later they count when they come, and their askers, who ask all again then, do not: `is_repeat` says
    that a round is under way in which only what was asked before is asked again, and what follows from the answers.

    `in_flight` counts attempts under way, `queued` requests that wait for a batch. Tokens and `money` (US dollars; of replies
    whose price is known) are those of this process's replies, failed ones included, and not those from the journal.
    `unfit`: answers that came and are not what was asked for (`Request.check`); they are part of `done`.
    `trouble`: why the last attempt brought no reply; empty once another brings one.
    """

    done: int = 0
    from_journal: int = 0
    failed: int = 0
    unfit: int = 0
    in_flight: int = 0
    queued: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    money: float = 0.0
    trouble: str = ""
    is_repeat: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """A request on its way."""

    identity: Identity
    request: Request
    payload: Mapping[str, Any]

    def queued(self, model: str) -> Queued:
        """The same for a batch, and for the journal."""
        request = self.request
        return Queued(
            key=self.identity.key, model=model, payload=self.payload, payload_hash=self.identity.payload_hash,
            purpose=request.purpose, template_hash=request.template_hash, sample=request.sample,
            max_tokens=request.max_tokens,
            prompt_chars=len(prompt_text(request)),
        )  # fmt: skip


class Recorder:
    """Takes replies of `provider` (its name). `price_of` says what answers of a model cost, None where that is not known.

    Most replies are of `model`; a batch that an earlier process submitted may be of another.
    """

    def __init__(self, journal: Journal, provider: str, model: str, price_of: Callable[[str], Tariff | None]) -> None:
        self.progress = Progress()
        self.journal = journal
        self._provider = provider
        self._price_of = price_of
        self._own = price_of(model)
        self._tariffs = {model: self._own}

    @property
    def is_priced(self) -> bool:
        return self._own is not None

    def cost(self, asked: Queued, reply: Reply) -> float | None:
        """US dollars, None where the price is not known.

        A reply that does not say how many tokens it took is taken at its upper bound: a budget must hold with it, too.
        """
        if asked.model not in self._tariffs:
            self._tariffs[asked.model] = self._price_of(asked.model)
        tariff = self._tariffs[asked.model]
        if tariff is None:
            return None
        if reply.usage == Usage():
            return tariff.most(4 * asked.prompt_chars, asked.max_tokens)
        return tariff.cost(reply.usage)

    def most(self, call: Call) -> float:
        """An upper bound of what a request can cost in US dollars; 0 where the price is not known."""
        return 0.0 if self._own is None else self._own.most(call.identity.size, call.request.max_tokens)

    def record(self, asked: Queued, reply: Reply, money: float | None, attempts: int, latency_s: float) -> Answer:
        """Journal a reply that cost `money`. Raises RequestFailed if it is no answer, UserError if it can't be written."""
        self.progress.input_tokens += reply.usage.input
        self.progress.output_tokens += reply.usage.output
        self.progress.money += money or 0.0
        entry = Entry(
            key=asked.key,
            provider=self._provider,
            model=asked.model,
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
            calls=tuple(reply.calls),
        )
        self.journal.append(entry)
        if reply.finish in _NO_ANSWER:
            kind, reason = _NO_ANSWER[reply.finish]
            raise RequestFailed(kind, reason.format(max_tokens=asked.max_tokens), attempts)
        return answer_of(entry)
