"""What all providers over HTTP share: the key, how much of a body is read, and replies and failures in our words.

A provider has its own way to send; what comes back is judged here, so that a half-sent body, a 429 or a refused key
means the same whoever sent the request. No message that leaves this module holds the key.
"""

import json
import os
import re
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from autointerp.errors import UserError
from autointerp.llm.provider import CallFailed
from autointerp.llm.retry import retry_after_seconds, used_up_seconds
from autointerp.llm.types import FailureKind

MAX_BODY_BYTES = 64 * 2**20  # an answer is some KB; what is larger is no answer, and would fill the memory
_KEY_LIKE = re.compile(r"\bsk-[\w*.-]{4,}")
_MOST_TOKENS = 10**9  # of one request; what is said beyond that is no count
_SHORTEST_SECRET = 8  # shorter "keys" ("none", "x") are placeholders for servers that ask for none
_NO_CREDIT = (
    "insufficient_quota",
    "billing_error",
    "billing_hard_limit_reached",
    "enforced_spend_limit_reached",  # Anthropic: a month's limit, as a 429 that no waiting helps
)
_REDIRECTS = (301, 302, 303, 307, 308)
_NOT_IMPLEMENTED = 501  # what the server says of itself, and no accident


@dataclass(frozen=True, slots=True)
class WireReply:
    """The JSON object of a reply with status 200, and for how many seconds its headers say that a limit is used up."""

    body: dict[str, Any]
    pause: float | None = None


class BodyTooLarge(Exception):
    """More bytes came than `MAX_BODY_BYTES`."""


def encoded(body: Mapping[str, Any]) -> bytes:
    """The JSON text of a request."""
    try:
        return msgspec.json.encode(body)  # a tenth of the time that `json` takes
    except UnicodeEncodeError:  # a lone surrogate, which UTF-8 can't hold and `json` writes as an escape
        return json.dumps(body).encode()


async def limited(chunks: AsyncIterable[bytes]) -> bytes:
    """The chunks of a body joined. Raises BodyTooLarge as soon as they are more than `MAX_BODY_BYTES`."""
    found: list[bytes] = []
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise BodyTooLarge
        found.append(chunk)
    return found[0] if len(found) == 1 else b"".join(found)


def read_key(variable: str, provider: str) -> str:
    """The key in the environment. Raises UserError if there is none or it can't be one."""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(
            f"the environment variable {variable} is not set; the provider {provider!r} takes its key "
            "from it; set it, or name another variable with --api-key-env (for a server that asks for no key any "
            "value will do)"
        )
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"the environment variable {variable} holds characters that no key has; copy the key again")
    return key


class ReplyReader:
    """Reads replies, and failures to reply. It knows the key in order to take it out of texts; `repr` does not show it.

    Failures are returned and not raised: a server may quote the key, and whoever raises must not hold its words in a
    local variable, which some tools print with the traceback.
    """

    def __init__(self, key: str, key_env: str) -> None:
        self._key = key
        self._key_env = key_env

    def authorization(self) -> dict[str, str]:
        """The header with the key; nothing without a key."""
        return {"authorization": f"Bearer {self._key}"} if self._key else {}

    def read(
        self, address: str, status: int, headers: Mapping[str, str], content: bytes
    ) -> WireReply | CallFailed | UserError:
        """The reply in `content`, or why there is none: UserError where no request of the run would fare better.

        `headers` are found by names in lower case; `address` is for messages.
        """
        content = self.without_key(content)  # an answer that quotes it would be journalled
        if status != 200:
            return self._status_failure(address, status, headers, content)
        answer = _parsed(content)
        if answer is None:
            return CallFailed(FailureKind.MALFORMED, "the server's reply is not JSON", retryable=True)
        if isinstance(answer, dict) and not answer.get("error"):
            return WireReply(answer, used_up_seconds(headers, datetime.now(UTC)))
        # Some gateways report an error of the model behind them with status 200.
        reason = f"the server's reply is not an answer: {self._message(answer, '')}"
        return CallFailed(FailureKind.SERVER_ERROR, reason, retryable=True)

    def lost(self, address: str, error: BaseException) -> CallFailed:
        """What to make of a connection that failed."""
        cause: BaseException = error
        while cause.__cause__ is not None:  # clients wrap the transport's error, which wraps the operating system's
            cause = cause.__cause__
        if isinstance(cause, BodyTooLarge):
            reason = f"{address} sent more than {MAX_BODY_BYTES / 2**20:g} MiB, which is no answer"
            return CallFailed(FailureKind.MALFORMED, reason, retryable=True)
        reason = self._clean(f"the connection to {address} failed ({type(cause).__name__}: {cause})")
        return CallFailed(FailureKind.SERVER_ERROR, reason, retryable=True)

    def without_key(self, content: bytes) -> bytes:
        """A server's bytes with the key taken out."""
        secret = self._key.encode()
        return content.replace(secret, b"[key]") if len(secret) >= _SHORTEST_SECRET else content

    async def pieces_without_key(self, pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """The same for bytes that come piece by piece, also where one ends in the middle of the key."""
        kept, most = b"", max(0, len(self._key) - 1)
        async for piece in pieces:
            kept = self.without_key(kept + piece)
            cut = max(0, len(kept) - most)
            yield kept[:cut]
            kept = kept[cut:]
        yield kept

    def clean(self, text: object) -> str:
        """A server's text, or its error body, on one line, not long, and without the key."""
        return self._message(text, "")

    def _status_failure(
        self, address: str, status: int, headers: Mapping[str, str], content: bytes
    ) -> CallFailed | UserError:
        body = _parsed(content)
        text = self._message(body, content.decode("utf-8", "replace"))
        reason = f"HTTP {status}: {text}" if text else f"HTTP {status}"
        code = _code(body)
        abort = self._abort_reason(address, status, code, reason)
        if abort is not None:
            return UserError(abort)
        kind = _RETRYABLE.get(
            status, FailureKind.SERVER_ERROR if status >= 500 and status != _NOT_IMPLEMENTED else None
        )
        if kind is not None:
            return CallFailed(
                kind,
                reason,
                retryable=True,
                retry_after=retry_after_seconds(headers, datetime.now(UTC)),
                overloaded=status in (429, 503, 529),  # 529 is Anthropic's
            )
        refused = code in ("content_filter", "content_policy_violation")
        return CallFailed(FailureKind.REFUSED if refused else FailureKind.REJECTED, reason)

    def _abort_reason(self, address: str, status: int, code: str, reason: str) -> str | None:
        """What to tell the user where no request of the run would fare better; None where another might."""
        if status == 401:  # the server's own text quotes parts of the key
            return f"{address} refused the key (HTTP 401); check the environment variable {self._key_env}"
        if status == 403:
            return f"{address} does not allow this key to ask ({reason}); check {self._key_env} and its permissions"
        if status == 402 or code in _NO_CREDIT:
            return f"the account at {address} has no credit ({reason}); add some and run again: nothing is lost"
        if status == 404:
            return f"{address} knows no such model or path ({reason}); check --label-model and --base-url"
        if status in _REDIRECTS:
            return f"{address} sends requests elsewhere (HTTP {status}); give the final address as --base-url"
        return None

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
        text = text[:10_000]  # an error page may be megabytes; 300 characters are kept
        if len(self._key) >= _SHORTEST_SECRET:
            text = text.replace(self._key, "[key]")
        text = _KEY_LIKE.sub("[key]", " ".join(text.split()))[:300]
        return "".join(char if char.isprintable() else "\ufffd" for char in text)  # it goes to terminals, too


_RETRYABLE = {
    408: FailureKind.TIMEOUT,
    409: FailureKind.SERVER_ERROR,
    429: FailureKind.RATE_LIMITED,
}


def _parsed(content: bytes) -> Any:
    """The JSON value of a body; None if it is not JSON (or null). RecursionError: a thousand brackets and no more."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _code(body: object) -> str:
    """The machine-readable code of an error body: Anthropic's `error.details.error_code`, OpenAI's `error.code`, else
    `error.type`."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return ""
    details = error.get("details")
    specific = details.get("error_code") if isinstance(details, dict) else None
    return str(specific or error.get("code") or error.get("type") or "")


def count(usage: object, *path: str) -> int:
    """A token count from a usage object of a reply; 0 where the server does not report it, or reports what is none."""
    found = usage
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found if type(found) is int and 0 <= found <= _MOST_TOKENS else 0
