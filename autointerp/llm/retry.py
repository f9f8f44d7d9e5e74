"""When to try again: the one retry policy, and what servers say about waiting.

Waiting is as long as the server asks, plus a little so that a thousand waiting requests do not return in one instant;
where it does not say, exponential with full jitter.
"""

import math
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
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
    (f"x-ratelimit-remaining{what}", f"x-ratelimit-reset{what}") for what in ("-requests", "-tokens", "")
) + tuple(
    (f"anthropic-ratelimit-{what}-remaining", f"anthropic-ratelimit-{what}-reset")
    for what in ("requests", "tokens", "input-tokens", "output-tokens")
)
_DAY_S = 86_400.0
_CREDIBLE_S = 3600.0  # by our own clock, which may have jumped, no moment further off is believed
_LONGEST_PAUSE_S = 600.0  # after a success: then one request goes out and the server says what holds
_FIRST_EPOCH = 1e9  # a "number of seconds" from here on is a moment since 1970, in seconds or (above 1e11) milliseconds


@dataclass(frozen=True, slots=True)
class _Clock:
    """What time it is: by the server where the reply says so, since moments in its headers are by its clock."""

    now: datetime
    of_server: bool

    def until(self, moment: datetime) -> float | None:
        """Seconds, between zero and a day; None if that can only be a clock that is wrong."""
        seconds = (moment - self.now).total_seconds()
        if not self.of_server and abs(seconds) > _CREDIBLE_S:
            return None
        return min(max(0.0, seconds), _DAY_S)


def retry_after_seconds(headers: Mapping[str, str], now: datetime) -> float | None:
    """How long a failed request's server asks us to wait, or None if it does not say. Header names are in lower case.

    In this order: `retry-after-ms`; `retry-after` in seconds or as an HTTP date (RFC 9110, 10.2.3); the rate-limit
    resets. Of the resets the longest among the exhausted limits counts; if none is said to be exhausted, the shortest.
    Moments are compared with the reply's own `date`, with `now` only where there is none. At most a day.
    """
    clock = _clock(headers, now)
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return min(max(0.0, milliseconds / 1000), _DAY_S)
    stated = _wait(headers.get("retry-after"), clock)
    if stated is not None:
        return stated
    exhausted = _exhausted(headers, clock)
    if exhausted:
        return max(exhausted)
    resets = [_wait(headers.get(reset), clock) for _, reset in _RESETS]
    return min((seconds for seconds in resets if seconds is not None), default=None)


def used_up_seconds(headers: Mapping[str, str], now: datetime) -> float | None:
    """For how long a successful reply says that a limit is used up; None where it does not. At most ten minutes."""
    if not any(_number(headers.get(remaining)) == 0 for remaining, _ in _RESETS):
        return None  # nearly always; reading the date costs more than this
    exhausted = _exhausted(headers, _clock(headers, now))
    return min(max(exhausted), _LONGEST_PAUSE_S) if exhausted else None


def policy(
    retries: int, backoff: float, max_wait: float, sleep: Callable[[float], Awaitable[None]] | None = None
) -> "AsyncRetrying":
    """A fresh policy for one request (tenacity keeps a request's state in it).

    At most `retries` tries after the first; waits grow from `backoff` seconds to 60, also where a server asks for 0: taken at
    its word it would be asked without a pause. A server that asks for more than `max_wait` seconds is not waited for.
    Attempts that it turned away because it had too much to do are not counted, for `max_wait` seconds in all. `sleep` waits
    between tries.
    """
    from tenacity import AsyncRetrying, retry_if_exception, wait_random_exponential

    exponential = wait_random_exponential(multiplier=backoff, max=60)
    counted = 0

    def wait(state: "RetryCallState") -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, CallFailed) and error.retry_after:
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


def _clock(headers: Mapping[str, str], now: datetime) -> _Clock:
    try:
        return _Clock(_aware(parsedate_to_datetime(headers.get("date") or "")), of_server=True)
    except (ValueError, OverflowError):
        return _Clock(now, of_server=False)


def _exhausted(headers: Mapping[str, str], clock: _Clock) -> list[float]:
    """Seconds to the resets of the limits of which nothing remains."""
    resets = [_wait(headers.get(reset), clock) for remaining, reset in _RESETS if _number(headers.get(remaining)) == 0]
    return [seconds for seconds in resets if seconds is not None]


def _wait(text: str | None, clock: _Clock) -> float | None:
    """Seconds, out of seconds ("1.5"), a duration ("6m0s"), an HTTP date, an RFC 3339 time or an epoch; else None."""
    if text is None:
        return None
    text = text.strip()
    seconds = _number(text)
    if seconds is not None and seconds < _FIRST_EPOCH:
        return min(max(0.0, seconds), _DAY_S)
    if _DURATION.fullmatch(text):
        return min(sum(float(count) * _UNIT_SECONDS[unit] for count, unit in _DURATION_PART.findall(text)), _DAY_S)
    for read in (_epoch, datetime.fromisoformat, parsedate_to_datetime):
        try:
            return clock.until(_aware(read(text)))
        except (ValueError, OverflowError, OSError):
            continue
    return None


def _epoch(text: str) -> datetime:
    seconds = float(text)
    return datetime.fromtimestamp(seconds / 1000 if seconds > 100 * _FIRST_EPOCH else seconds, UTC)


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
