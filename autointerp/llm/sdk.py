"""What the official clients share: one POST, its failures in our words, and a key that never leaves the client.

The clients of openai 3 and anthropic 2 share their error classes' names and their `post`. We send with `post` and
read the body ourselves: the payload that was hashed is the payload that is sent, a body that is not JSON is noticed,
and it costs less than building the client's models. The clients' own retries are off: the broker has the one policy.
"""

import importlib
import json
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from autointerp.errors import UserError
from autointerp.llm.provider import CallFailed, ProviderOptions, check_base_url
from autointerp.llm.retry import retry_after_seconds
from autointerp.llm.types import FailureKind

_MAX_CONNECTIONS = 10_000  # the broker's semaphore is the limit; the client's pool must never be a second, hidden one
_KEY_LIKE = re.compile(r"\bsk-[\w*.-]{4,}")
_SHORTEST_SECRET = 8  # shorter "keys" ("none", "x") are placeholders for servers that ask for none
_NO_CREDIT = ("insufficient_quota", "billing_error", "billing_hard_limit_reached")


class SdkLink:
    """A connection through one of the official clients. It holds the key; neither `repr` nor an error shows it.

    `package` is "openai" or "anthropic", `client_class` the name of its asynchronous client.
    """

    def __init__(self, package: str, client_class: str, default_key_env: str, options: ProviderOptions) -> None:
        self._package = package
        self._client_class = client_class
        self._key_env = options.api_key_env or default_key_env
        self._base_url = options.base_url
        self._key = ""
        self._sdk: Any = None
        self._client: Any = None
        self._lost: tuple[type[Exception], ...] = ()

    def connect(self) -> None:
        """Import the client (0.7 to 1.5 s) and open it. Raises UserError if the environment holds no key."""
        if self._client is not None:
            return
        self._key = os.environ.get(self._key_env, "").strip()
        if not self._key:
            raise UserError(
                f"the environment variable {self._key_env} is not set; the provider {self._package!r} takes its key "
                "from it; set it, or name another variable with --api-key-env (for a server that asks for no key any "
                "value will do)"
            )
        if not (self._key.isascii() and self._key.isprintable()):
            raise UserError(
                f"the environment variable {self._key_env} holds characters that no key has; copy the key again"
            )
        base_url_env = f"{self._package.upper()}_BASE_URL"  # both clients read it where no base URL is given
        if self._base_url is None and base_url_env in os.environ:
            check_base_url(os.environ[base_url_env], base_url_env)
        self._sdk = importlib.import_module(self._package)
        httpx = importlib.import_module("httpx2")
        limits = httpx.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=_MAX_CONNECTIONS)
        self._lost = (self._sdk.APIConnectionError, OSError)
        transport = self._sdk.DefaultAsyncHttpxClient
        if find_spec("aiohttp") is not None:  # 1.6 to 2.2 times the requests per second of the default transport
            transport = self._sdk.DefaultAioHttpClient
            self._lost += (importlib.import_module("aiohttp").ClientError,)
        # No timeouts of the client's own: the broker's covers the whole attempt, where these count from byte to byte.
        self._client = getattr(self._sdk, self._client_class)(
            api_key=self._key,
            base_url=self._base_url,
            max_retries=0,
            timeout=None,
            http_client=transport(limits=limits, timeout=None),
        )

    async def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    @property
    def address(self) -> str:
        """Where requests go, for messages: without a query."""
        parts = urlsplit(str(self._client.base_url))
        return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """One attempt: the JSON object of a reply with status 200. Raises CallFailed or UserError only.

        Our errors are raised outside the `except` blocks, so that they don't carry the client's ones, which hold the
        request with its headers, as their context.
        """
        failure: CallFailed | UserError
        try:
            response = await self._client.post(path, body=body, cast_to=importlib.import_module("httpx2").Response)
        except self._sdk.APIStatusError as error:
            failure = self._status_failure(error.response)
        except self._lost as error:
            failure = CallFailed(FailureKind.SERVER_ERROR, self._lost_reason(error), retryable=True)
        else:
            return self._read_reply(response)
        raise failure

    def _read_reply(self, response: Any) -> dict[str, Any]:
        try:
            answer = json.loads(response.content)
        except ValueError:
            raise CallFailed(FailureKind.MALFORMED, "the server's reply is not JSON", retryable=True) from None
        if isinstance(answer, dict) and not answer.get("error"):
            return answer
        # Some gateways report an error of the model behind them with status 200.
        reason = f"the server's reply is not an answer: {self._message(answer, '')}"
        raise CallFailed(FailureKind.SERVER_ERROR, reason, retryable=True)

    def _lost_reason(self, error: BaseException) -> str:
        cause: BaseException = error
        while cause.__cause__ is not None:  # the clients wrap the transport's error, which wraps the operating system's
            cause = cause.__cause__
        return self._clean(f"the connection to {self.address} failed ({type(cause).__name__}: {cause})")

    def _status_failure(self, response: Any) -> CallFailed | UserError:
        status = int(response.status_code)
        try:
            body = json.loads(response.content)
        except ValueError:
            body = None
        text = self._message(body, response.text)
        reason = f"HTTP {status}: {text}" if text else f"HTTP {status}"
        code = _code(body)
        abort = self._abort_reason(status, code, reason)
        if abort is not None:
            return UserError(abort)
        if status == 429:
            return self._retry_later(FailureKind.RATE_LIMITED, reason, response)
        if status == 408:
            return self._retry_later(FailureKind.TIMEOUT, reason, response)
        if status == 409 or status >= 500:
            return self._retry_later(FailureKind.SERVER_ERROR, reason, response)
        refused = code in ("content_filter", "content_policy_violation")
        return CallFailed(FailureKind.REFUSED if refused else FailureKind.REJECTED, reason)

    def _abort_reason(self, status: int, code: str, reason: str) -> str | None:
        """What to tell the user where no request of the run would fare better; None where another might."""
        if status == 401:  # the server's own text quotes parts of the key
            return f"{self.address} refused the key (HTTP 401); check the environment variable {self._key_env}"
        if status == 403:
            return (
                f"{self.address} does not allow this key to ask ({reason}); check {self._key_env} and its permissions"
            )
        if status == 402 or code in _NO_CREDIT:
            return f"the account at {self.address} has no credit ({reason}); add some and run again: nothing is lost"
        if status == 404:
            return f"{self.address} knows no such model or path ({reason}); check --label-model and --base-url"
        return None

    def _retry_later(self, kind: FailureKind, reason: str, response: Any) -> CallFailed:
        headers = {name.lower(): value for name, value in response.headers.items()}
        pause = retry_after_seconds(headers, datetime.now(UTC))
        overloaded = response.status_code in (429, 503, 529)
        return CallFailed(kind, reason, retryable=True, retry_after=pause, overloaded=overloaded)

    def _message(self, body: object, text: str) -> str:
        """The error text within an error body, on one line and not long."""
        found: object = body
        for name in ("error", "message", "detail"):
            if isinstance(found, dict) and name in found:
                found = found[name]
        if not isinstance(found, str):
            found = json.dumps(found) if found else text
        return self._clean(found)

    def _clean(self, text: str) -> str:
        if len(self._key) >= _SHORTEST_SECRET:
            text = text.replace(self._key, "[key]")
        return _KEY_LIKE.sub("[key]", " ".join(text.split()))[:300]


def _code(body: object) -> str:
    """The machine-readable code of an error body: OpenAI's `error.code`, else `error.type`."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return ""
    return str(error.get("code") or error.get("type") or "")


def count(usage: object, *path: str) -> int:
    """A token count from a usage object of a reply; 0 where the server does not report it."""
    found = usage
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, int) else 0
