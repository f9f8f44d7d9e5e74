"""One line of the journal: what it says, how it is written and how it is read back."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from autointerp.llm.types import Answer, TokenLogprobs, ToolCall, Usage

ANSWER = "stop"
"""The `finish` of a line that answers later questions."""

DUPLICATE = "duplicate"
"""The `finish` of a second answer to one question, after a compaction: counted as before, its text given up."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal.

    `model` is the one asked for, `served_model` the one that the server says it used. `payload_hash` is SHA-256 of
    the canonical payload. `latency_s` is that of the attempt that succeeded, `attempts` counts the failed ones too.
    `time` is that of delivery, UTC, ISO 8601. `money` is in US dollars, None where no price is known. `prompt_chars`
    counts the characters of all messages, 0 where it was not recorded. The last four are missing in older journals. A reply
    with `calls` is an answer: its `finish` is "stop".
    """

    key: str
    provider: str
    model: str
    served_model: str
    payload_hash: str
    template_hash: str
    purpose: str
    sample: int
    usage: Usage
    latency_s: float
    attempts: int
    finish: str
    text: str
    time: str
    money: float | None = None
    prompt_chars: int = 0
    logprobs: Sequence[TokenLogprobs] | None = None
    calls: Sequence[ToolCall] = ()


def answer_of(entry: Entry, *, from_journal: bool = False) -> Answer:
    """The answer that an entry holds, whose `finish` is "stop"."""
    finish = "calls" if entry.calls else entry.finish
    return Answer(
        entry.key, entry.text, finish, entry.model, entry.usage, from_journal, entry.logprobs or (), entry.calls
    )  # fmt: skip


def to_record(entry: Entry) -> dict[str, Any]:
    """The entry as JSON holds it; `calls` only where there are some, so that other lines stay as short as they were.

    (`dataclasses.asdict` would copy deeply, which takes longer than writing the line.)
    """
    usage = entry.usage
    record = {
        "key": entry.key,
        "provider": entry.provider,
        "model": entry.model,
        "served_model": entry.served_model,
        "payload_hash": entry.payload_hash,
        "template_hash": entry.template_hash,
        "purpose": entry.purpose,
        "sample": entry.sample,
        "usage": {"input": usage.input, "output": usage.output, "cached": usage.cached, "written": usage.written},
        "latency_s": entry.latency_s,
        "attempts": entry.attempts,
        "finish": entry.finish,
        "text": entry.text,
        "time": entry.time,
        "money": entry.money,
        "prompt_chars": entry.prompt_chars,
        "logprobs": [_packed(token) for token in entry.logprobs] if entry.logprobs else None,
    }
    if entry.calls:
        record["calls"] = [[call.id, call.name, call.arguments] for call in entry.calls]
    return record


Count = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Amount = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]
"""Seconds or dollars. What is beyond was not written by any version, and could not be added up."""


class UsageRecord(msgspec.Struct, gc=False):
    """`usage` in a line."""

    input: Count
    output: Count
    cached: Count
    written: Count = 0


class _Record(msgspec.Struct):
    """A line as it must be to be an entry."""

    key: str
    provider: str
    model: str
    served_model: str
    payload_hash: str
    template_hash: str
    purpose: str
    sample: Count
    usage: UsageRecord
    latency_s: Amount
    attempts: int
    finish: str
    text: str
    time: str
    money: Amount | None = None
    prompt_chars: Count = 0
    logprobs: list[tuple[str, float | None, dict[str, float | None]]] | None = None
    calls: list[tuple[str, str, str]] | None = None


def from_record(record: Mapping[str, Any]) -> Entry:
    """The entry that a line's JSON holds; keys that this version does not know are ignored.

    Raises msgspec.ValidationError, which names what is missing or of the wrong type.
    """
    found = msgspec.convert(record, _Record)
    usage, logprobs = found.usage, None
    if found.logprobs is not None:
        logprobs = [
            TokenLogprobs(token, _number(value), {name: _number(other) for name, other in top.items()})
            for token, value, top in found.logprobs
        ]
    return Entry(
        key=found.key,
        provider=found.provider,
        model=found.model,
        served_model=found.served_model,
        payload_hash=found.payload_hash,
        template_hash=found.template_hash,
        purpose=found.purpose,
        sample=found.sample,
        usage=Usage(usage.input, usage.output, usage.cached, usage.written),
        latency_s=found.latency_s,
        attempts=found.attempts,
        finish=found.finish,
        text=found.text,
        time=found.time,
        money=found.money,
        prompt_chars=found.prompt_chars,
        logprobs=logprobs,
        calls=tuple(ToolCall(*call) for call in found.calls or ()),
    )


def _packed(token: TokenLogprobs) -> list[Any]:
    return [token.token, _finite(token.logprob), {name: _finite(value) for name, value in token.top.items()}]


def _finite(value: float) -> float | None:
    """JSON has no infinities; a token of probability 0 is written as null."""
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return -math.inf if value is None else value
