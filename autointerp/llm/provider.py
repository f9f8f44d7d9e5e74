"""What a provider is: it turns a request into a payload, sends it once, and says what came back. Nothing else.

Retries, concurrency, the journal and counting are the broker's. A new provider is one file in
`autointerp/llm/providers` (or an entry point of the group `autointerp.provider`) with a function `(ProviderOptions)
-> Provider` under `@providers.register("name")`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from autointerp.errors import UserError
from autointerp.llm.types import FailureKind, Request, Usage
from autointerp.registry import Registry

Finish = Literal["stop", "length", "refusal", "empty", "other"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider can be asked for through this package. Everything is off unless the provider says otherwise."""

    temperature: bool = False
    seed: bool = False
    logprobs: bool = False
    prompt_logprobs: bool = False
    json_schema: bool = False
    batch: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """One delivered reply. `finish` other than "stop" means: delivered and paid for, but no answer.

    `model` is the name that the server reports, which may be a dated version of the one asked for.
    """

    text: str
    finish: Finish = "stop"
    model: str = ""
    usage: Usage = field(default_factory=Usage)


class CallFailed(Exception):
    """One attempt brought no reply. If `retryable` the broker tries again, after `retry_after` seconds if known."""

    def __init__(
        self, kind: FailureKind, reason: str, *, retryable: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(f"{kind}: {reason}")
        self.kind = kind
        self.reason = reason
        self.retryable = retryable
        self.retry_after = retry_after


class Provider(Protocol):
    """One way to reach models. One provider object serves one broker, on one event loop."""

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
class ProviderOptions:
    """How to reach a provider. `api_key_env` is the name of the environment variable with the key, not the key."""

    base_url: str | None = None
    api_key_env: str | None = None


providers: Registry[Callable[[ProviderOptions], Provider]] = Registry("provider", "autointerp.llm.providers")


def open_provider(name: str, *, base_url: str | None = None, api_key_env: str | None = None) -> Provider:
    """The provider of that name. Raises UserError for an unknown name or a base URL that is not one. Sends nothing."""
    if base_url is not None:
        check_base_url(base_url, "--base-url")
    return providers.get(name)(ProviderOptions(base_url, api_key_env))


def check_base_url(base_url: str, source: str) -> None:
    """Raise UserError unless it is a whole URL without a password; `source` says where it was given."""
    parts = urlsplit(base_url)
    if "@" in parts.netloc:
        raise UserError(
            f"{source} for {parts.hostname} holds a user name or password; expected none, since addresses get printed; "
            "put the secret into the variable that --api-key-env names"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            f"{source} is {base_url!r}; expected a whole URL such as http://127.0.0.1:8000/v1; begin it with http:// "
            "or https://"
        )


def require(provider: Provider, *needs: str, by: str) -> None:
    """Raise UserError unless the provider has all the capabilities in `needs`; `by` says who asks for them."""
    for need in needs:
        if not getattr(provider.capabilities, need):
            has = [f.name for f in fields(Capabilities) if getattr(provider.capabilities, f.name)]
            raise UserError(
                f"{by} needs {need}, which the provider {provider.name!r} does not offer (it offers: "
                f"{', '.join(has) or 'none'}); choose another provider or leave {need} out"
            )


def check_request(provider: Provider, request: Request) -> None:
    """Raise UserError if the request asks for something that the provider can't do."""
    by = f"the {request.purpose or 'unnamed'} request"
    if request.temperature is not None:
        require(provider, "temperature", by=by)
    if request.json_schema is not None:
        require(provider, "json_schema", by=by)
