"""What an explainer or a scorer may know of a language model: it asks a request and awaits an answer.

Concurrency, retries, money, files and the journal are behind `Ask`. Because nothing but `ask` waits, the same coroutine
runs live, as provider batches, through files, on a local model or from the journal alone.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from autointerp.hashing import hex_hash


@dataclass(frozen=True, slots=True)
class Tool:
    """Something that a model may ask us to do. `parameters`: the JSON schema of its arguments, of type object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """What a model asks for. `arguments`: JSON text as the model wrote it, or whatever it wrote instead; see `llm.tools`."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """`calls`: of an assistant's message, what it asked for. The results follow, each a message of the role "tool" with the
    `call_id` of its call."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    calls: Sequence[ToolCall] = ()
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a model.

    `purpose` ("explain", "simulate", ...) and `template_hash` are provenance: they are journalled but are not part of the
    request's identity. `json_schema` asks for structured output. `sample` tells apart repeated draws of the same payload.
    `temperature` None leaves it to the provider (some take none). `logprobs` asks for that many alternatives with their
    log-probabilities at each token of the answer.

    `check` says whether an answer's text can be used; it is no part of the identity either. It is asked where a failed item
    is tried anew, so that its other answers are not paid for again, and where answers of no use are counted.

    With `continuation` nothing is generated: it is taken as the answer, after the messages, and what comes back is the
    log-probability of each of its tokens with `logprobs` alternatives (the capability prompt_logprobs). `slots`: characters of
    it at which a token begins whose alternatives are wanted; the other tokens come without any. None: all are wanted.

    `among`: texts whose log-probabilities are wanted exactly, among the alternatives of each token and in addition to the
    `logprobs` likeliest (the capability exact_logprobs). Of a text of several tokens it is that of all of them, or missing.

    `may_be_cut`: what was written when `max_tokens` were reached is an answer; so is an empty one that has log-probabilities.

    `shared`: so many first characters of the last message begin further requests, too, after the same messages. Providers that
    cache prompts are told; it is no part of the identity.

    With `embed` the vector of the only message's content is asked for (the capability embeddings), its first `dimensions` where
    they are given; see `llm.embeddings`.

    `tools` are what the model may call (the capability tools). With `may_call` False it is to answer now: providers want the
    tools to be described all the same where the messages hold calls of them.
    """

    messages: Sequence[Message]
    max_tokens: int = 1024
    temperature: float | None = None
    json_schema: Mapping[str, Any] | None = None
    schema_name: str = "answer"
    logprobs: int | None = None
    continuation: str | None = None
    embed: bool = False
    dimensions: int | None = None
    slots: Sequence[int] | None = None
    among: Sequence[str] = ()
    may_be_cut: bool = False
    tools: Sequence[Tool] = ()
    may_call: bool = True
    sample: int = 0
    purpose: str = ""
    template_hash: str = ""
    check: Callable[[str], bool] | None = None
    shared: int = 0

    @property
    def beginning(self) -> str:
        """Names what a prompt cache can keep for further requests: what is shared, else the template."""
        if not self.shared:
            return self.template_hash
        *before, last = (message.content for message in self.messages)
        return hex_hash("beginning", *before, last[: self.shared])


def prompt_text(request: Request) -> str:
    """All that the model is given to read, in one piece: for counting and comparing, not for sending."""
    parts = [f"{tool.name}{tool.description}{json.dumps(tool.parameters)}" for tool in request.tools]
    for message in request.messages:
        parts += [message.content, *(f"{call.name}{call.arguments}" for call in message.calls)]
    return "".join([*parts, request.continuation or ""])


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counted them. `cached` is the part of `input` that came from its prompt cache, `written` the
    part that was put into it, where the provider says (Anthropic charges more for that)."""

    input: int = 0
    output: int = 0
    cached: int = 0
    written: int = 0


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """One token of an answer: its text, its natural log-probability, and those of the likeliest tokens in its place."""

    token: str
    logprob: float
    top: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Answer:
    """A delivered answer. `finish` is the provider's reason in our words: "stop", "length" or "refusal"; or "calls": the model
    waits for the results of its `calls`, and the text, if any, is said by the way.
    """

    key: str
    text: str
    finish: str
    model: str
    usage: Usage = field(default_factory=Usage)
    from_journal: bool = False
    logprobs: Sequence[TokenLogprobs] = ()
    calls: Sequence[ToolCall] = ()


def fits(request: Request, answer: Answer) -> bool:
    """Whether the answer can be used, as far as the request can say."""
    return request.check is None or bool(answer.calls and request.may_call) or request.check(answer.text)


class FailureKind(StrEnum):
    """Why there is no usable answer. Never a value, never a score: a reason, and retryable."""

    REFUSED = "refused"
    TRUNCATED = "truncated"
    MALFORMED = "malformed"
    TIMEOUT = "timeout"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    REJECTED = "rejected"  # the server says that the request itself is wrong (HTTP 400, 413, 422)
    OVER_BUDGET = "over_budget"
    NO_EVIDENCE = "no_evidence"  # nothing was asked: there is nothing to show
    TOO_LARGE = "too_large"  # the answer was had, but memory is too small to compute what it needs


class RequestFailed(Exception):
    """A request for which no usable answer could be had; `kind` and `reason` go into the catalog."""

    def __init__(self, kind: FailureKind, reason: str, attempts: int = 1) -> None:
        super().__init__(f"{kind}: {reason}")
        self.kind = kind
        self.reason = reason
        self.attempts = attempts


class Deferred(Exception):
    """The answer is not here, and nothing is wrong: it is under way in a batch, or no more is sent at present.

    It passes through explainers and scorers; the feature counts as not done yet. Its coroutine is run again when answers
    have come, finds the earlier ones in the journal, and gets further.
    """


Ask = Callable[[Request], Awaitable[Answer]]
