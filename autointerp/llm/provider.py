"""What a provider is: it turns a request into a payload, sends it once, and says what came back. Nothing else.

Retries, concurrency, the journal and counting are the broker's. A new provider is one file in
`autointerp/llm/providers` (or an entry point of the group `autointerp.provider`) with a function `(ProviderOptions)
-> Provider` under `@providers.register("name")`.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from autointerp.errors import UserError
from autointerp.llm.types import FailureKind, Request, RequestFailed, TokenLogprobs, ToolCall, Usage
from autointerp.registry import Registry

Finish = Literal["stop", "length", "refusal", "empty", "other"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider can be asked for through this package. Everything is off unless the provider says otherwise.

    `exact_logprobs`: log-probabilities of any given texts, not only of the likeliest.
    `batch`: it is a `DeferredProvider`. `local`: it computes on this machine, so what waits for its turn has not failed:
    the broker sends as many as it may from the start and sets no time limit.
    """

    temperature: bool = False
    seed: bool = False
    logprobs: bool = False
    prompt_logprobs: bool = False
    exact_logprobs: bool = False
    json_schema: bool = False
    tools: bool = False
    prompt_caching: bool = False
    embeddings: bool = False
    batch: bool = False
    local: bool = False


_MANNERS = ("batch", "local")  # capabilities that nobody asks for
_OFFERED_BY = {  # for messages: not every provider has these, and it cannot be seen without opening them
    "logprobs": "transformers, or openai and http where the server gives them",
    "prompt_logprobs": "transformers, or http and openai with a server such as vLLM (--base-url)",
    "exact_logprobs": "transformers",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """One delivered reply. `finish` other than "stop" means: delivered and paid for, but no answer. `calls`: the tools that it
    asks for; then the text may be empty.

    `model` is the name that the server reports, which may be a dated version of the one asked for. `pause`: seconds for
    which the server says that no further request will be admitted (a rate limit just used up).
    """

    text: str
    finish: Finish = "stop"
    model: str = ""
    usage: Usage = field(default_factory=Usage)
    logprobs: Sequence[TokenLogprobs] = ()
    pause: float | None = None
    calls: Sequence[ToolCall] = ()


class CallFailed(Exception):
    """One attempt brought no reply. If `retryable` the broker tries again, after `retry_after` seconds if known.

    `overloaded`: the server had too much to do (429, 503, 529); the broker sends less. `is_echo`: another request was in the
    same message and tells the broker of the same failure. `lacks`: the capability that the reply was without, though it was
    asked for.
    """

    def __init__(
        self,
        kind: FailureKind,
        reason: str,
        *,
        retryable: bool = False,
        retry_after: float | None = None,
        overloaded: bool = False,
        is_echo: bool = False,
        lacks: str | None = None,
    ) -> None:
        super().__init__(f"{kind}: {reason}")
        self.kind = kind
        self.reason = reason
        self.retryable = retryable
        self.retry_after = retry_after
        self.overloaded = overloaded
        self.is_echo = is_echo
        self.lacks = lacks

    def ended(self, attempts: int) -> RequestFailed:
        """What the request has come to after so many attempts. A reply that could not be read, and is no answer in the journal,
        is the server's failure: MALFORMED is what answers are."""
        unread = self.retryable and self.kind is FailureKind.MALFORMED
        return RequestFailed(FailureKind.SERVER_ERROR if unread else self.kind, self.reason, attempts)

    def echo(self) -> "CallFailed":
        """The same failure for a further request that was in the same message."""
        return CallFailed(
            self.kind, self.reason, retryable=self.retryable, retry_after=self.retry_after, overloaded=self.overloaded,
            is_echo=True, lacks=self.lacks,
        )  # fmt: skip


class Provider(Protocol):
    """One way to reach models. One provider object serves one broker, on one event loop.

    A provider may have `remedies`: for a capability that it lacks only for want of something here (a package), what to do.
    """

    name: str
    capabilities: Capabilities

    def payload(self, model: str, request: Request) -> dict[str, Any]:
        """The request as the journal identifies it: everything that can change the answer. Needs no connection."""
        ...

    def connect(self) -> None:
        """Read the key and open the client; does nothing if that is done. Raises UserError if the key is missing.

        The broker calls it before the first request that the journal can't answer, so that a run which is wholly in
        the journal needs no key. Call it earlier to fail before a long harvest.
        """
        ...

    async def send(self, request: Request, payload: Mapping[str, Any]) -> Reply:
        """One attempt. Raises CallFailed if this request failed, UserError if every request of the run would."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Queued:
    """A request that waits in a batch: everything that its journal entry will need."""

    key: str
    model: str
    payload: Mapping[str, Any]
    payload_hash: str
    purpose: str
    template_hash: str
    sample: int
    max_tokens: int
    prompt_chars: int


@dataclass(frozen=True, slots=True)
class Delivered:
    """What became of a queued request. `queued.payload` may be empty here."""

    queued: Queued
    outcome: Reply | CallFailed


class DeferredProvider(Protocol):
    """A way to reach models that answers in minutes or days: provider batches, files. It keeps its state on disk.

    The broker queues what the journal cannot answer and lets the asking coroutine go (`types.Deferred`); when all features
    have asked what they can, `collect` submits and waits. A request is identified by its key: one that is queued, or under
    way since an earlier process, is not queued again.
    """

    name: str
    capabilities: Capabilities

    def payload(self, model: str, request: Request) -> dict[str, Any]: ...

    def connect(self) -> None: ...

    async def queue(self, request: Queued) -> None:
        """Take a request; does nothing if its key is queued or under way. Memory must not grow with payloads."""
        ...

    def collect(self) -> AsyncIterator[Delivered]:
        """Submit what is queued, wait until at least one answer is there, and yield all that are, each key once.

        Yields nothing if nothing is under way. Raises UserError where only the user can go on (files to be answered). An
        answer that was yielded is the journal's when the next one is asked for; state on disk may then forget it.
        """
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ProviderOptions:
    """How to reach a provider. `api_key_env` is the name of the environment variable with the key, not the key.

    `argument` is what follows the colon in `--provider NAME:ARGUMENT`; `model` the model that will be asked; `folder` where
    the provider may keep its state between processes.
    """

    base_urls: tuple[str, ...] = ()
    api_key_env: str | None = None
    argument: str | None = None
    model: str | None = None
    folder: Path | None = None
    concurrency: int = 16

    @property
    def base_url(self) -> str | None:
        """The one base URL of a provider that takes one. Raises UserError for several."""
        if len(self.base_urls) > 1:
            raise UserError(f"{len(self.base_urls)} base URLs; this provider takes one; --provider http takes several")
        return self.base_urls[0] if self.base_urls else None


AnyProvider = Provider | DeferredProvider
providers: Registry[Callable[[ProviderOptions], AnyProvider]] = Registry("provider", "autointerp.llm.providers")


def open_provider(
    name: str, *, base_url: str | Sequence[str] | None = None, api_key_env: str | None = None, model: str | None = None,
    folder: Path | None = None, concurrency: int = 16,
) -> AnyProvider:  # fmt: skip
    """The provider NAME or NAME:ARGUMENT; see `ProviderOptions`. Sends nothing.

    Raises UserError for an unknown name or a base URL that is not one.
    """
    base_urls = (base_url,) if isinstance(base_url, str) else tuple(base_url or ())
    for url in base_urls:
        check_base_url(url, "--base-url")
    name, colon, argument = name.partition(":")
    options = ProviderOptions(base_urls, api_key_env, argument if colon else None, model, folder, concurrency)
    return providers.get(name)(options)


def check_base_url(base_url: str, source: str) -> None:
    """Raise UserError unless it is a whole URL without a password; `source` says where it was given."""
    try:
        parts = urlsplit(base_url)
        is_url = parts.port != 0 and bool((parts.hostname or "").encode("idna")) and base_url.isprintable()
    except ValueError:  # brackets without an address, a port that is none, a name that is too long
        parts, is_url = urlsplit(""), False
    if "@" in parts.netloc:
        raise UserError(
            f"{source} for {parts.hostname} holds a user name or password; expected none, since addresses get printed; "
            "put the secret into the variable that --api-key-env names"
        )
    if parts.scheme not in ("http", "https") or not is_url:
        raise UserError(
            f"{source} is {base_url!r}; expected a whole URL such as http://127.0.0.1:8000/v1; begin it with http:// "
            "or https://"
        )


def require(provider: AnyProvider, *needs: str, by: str) -> None:
    """Raise UserError unless the provider has all the capabilities in `needs`; `by` says who asks for them."""
    for need in needs:
        if not getattr(provider.capabilities, need):
            has = [
                f.name
                for f in fields(Capabilities)
                if f.name not in _MANNERS and getattr(provider.capabilities, f.name)
            ]
            otherwise = f"{choose_another(need)}, or leave {need} out"
            remedy = getattr(provider, "remedies", {}).get(need, otherwise)
            raise UserError(
                f"{by} needs {need}, which the provider {provider.name!r} does not offer (it offers: "
                f"{', '.join(has) or 'none'}); {remedy}"
            )


def choose_another(need: str) -> str:
    """What to do where a provider lacks a capability: who has it, as far as that can be said."""
    return "choose another provider" + (f": {_OFFERED_BY[need]}" if need in _OFFERED_BY else "")


def check_request(provider: AnyProvider, request: Request) -> None:
    """Raise UserError if the request asks for something that the provider can't do."""
    require(provider, *asked_for(request), by=f"the {request.purpose or 'unnamed'} request")


def asked_for(request: Request) -> list[str]:
    """The capabilities that a request needs."""
    asked = {
        "embeddings": request.embed,
        "temperature": request.temperature is not None,
        "json_schema": request.json_schema is not None,
        "tools": bool(request.tools),
        "prompt_logprobs": request.continuation is not None,
        "logprobs": request.continuation is None and request.logprobs is not None,
        "exact_logprobs": bool(request.among),
    }
    return [need for need, is_asked in asked.items() if is_asked]
