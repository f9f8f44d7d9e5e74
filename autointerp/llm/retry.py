"""When to try again: the one retry policy, and what servers say about waiting.

Waiting is as long as the server asks, plus a little so that a thousand waiting requests do not return in one instant;
where it does not say, exponential with full jitter.
"""

import math
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from autointerp.llm.provider import CallFailed

if TYPE_CHECKING:
    from tenacity import AsyncRetrying, RetryCallState

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_RESETS = tuple(
    (f"x-ratelimit-remaining-{what}", f"x-ratelimit-reset-{what}") for what in ("requests", "tokens")
) + tuple(
    (f"anthropic-ratelimit-{what}-remaining", f"anthropic-ratelimit-{what}-reset")
    for what in ("requests", "tokens", "input-tokens", "output-tokens")
)


def retry_after_seconds(headers: Mapping[str, str], now: datetime) -> float | None:
    """How long the server asks us to wait, or None if it does not say. Header names are in lower case.

    In this order: `retry-after-ms`; `retry-after` in seconds or as an HTTP date (RFC 9110, 10.2.3); the rate-limit
    resets. Of the resets the longest among the exhausted limits counts; if none is said to be exhausted, the shortest.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return max(0.0, milliseconds / 1000)
    stated = _moment(headers.get("retry-after"), now)
    if stated is not None:
        return stated
    resets = [(headers.get(remaining), _moment(headers.get(reset), now)) for remaining, reset in _RESETS]
    exhausted = [seconds for remaining, seconds in resets if remaining == "0" and seconds is not None]
    if exhausted:
        return max(exhausted)
    return min((seconds for _, seconds in resets if seconds is not None), default=None)


def policy(
    retries: int, backoff: float, max_wait: float, sleep: Callable[[float], Awaitable[None]] | None = None
) -> "AsyncRetrying":
    """A fresh policy for one request (tenacity keeps a request's state in it).

    At most `retries` tries after the first; waits grow from `backoff` seconds to 60. A server that asks for more than
    `max_wait` seconds is not waited for. Attempts that it turned away because it had too much to do are not counted, for
    `max_wait` seconds in all. `sleep` waits between tries.
    """
    from tenacity import AsyncRetrying, retry_if_exception, wait_random_exponential

    exponential = wait_random_exponential(multiplier=backoff, max=60)
    counted = 0

    def wait(state: "RetryCallState") -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, CallFailed) and error.retry_after is not None:
            return error.retry_after + random.uniform(0, min(1.0, 0.1 * error.retry_after))
        return exponential(state)

    def worth_retrying(error: BaseException) -> bool:
        return isinstance(error, CallFailed) and error.retryable and (error.retry_after or 0.0) <= max_wait

    def stop(state: "RetryCallState") -> bool:
        nonlocal counted
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, CallFailed) and error.overloaded:
            return (state.seconds_since_start or 0.0) >= max_wait
        counted += 1
        return counted > retries

    options: dict[str, Any] = {} if sleep is None else {"sleep": sleep}
    return AsyncRetrying(stop=stop, wait=wait, retry=retry_if_exception(worth_retrying), reraise=True, **options)


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else None
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) else None


def _moment(text: str | None, now: datetime) -> float | None:
    """Seconds from now, out of seconds ("1.5"), a duration ("6m0s"), an HTTP date or an RFC 3339 time; else None."""
    if text is None:
        return None
    text = text.strip()
    seconds = _number(text)
    if seconds is not None:
        return max(0.0, seconds)
    if _DURATION.fullmatch(text):
        return sum(float(count) * _UNIT_SECONDS[unit] for count, unit in _DURATION_PART.findall(text))
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = read(text)
        except ValueError:
            continue
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, (moment - now).total_seconds())
    return None
