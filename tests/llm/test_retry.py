"""What servers say about waiting, and what the policy makes of it."""

import math
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from autointerp.llm import CallFailed, FailureKind
from autointerp.llm.retry import policy, retry_after_seconds, used_up_seconds

NOW = datetime(2025, 6, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 0.5 "}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Sun, 01 Jun 2025 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Sun, 01 Jun 2025 11:59:00 GMT"}, 0.0),  # past: at once
        ({"retry-after": "Sun, 01 Jun 2025 14:00:30 +0200"}, 30.0),
        # OpenAI: durations; the exhausted limit counts, not the other.
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-remaining-requests": "9", "x-ratelimit-reset-requests": "6m0s",
          "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1.5s"}, 1.5),
        ({"x-ratelimit-remaining-requests": "9", "x-ratelimit-reset-requests": "6m0s",
          "x-ratelimit-remaining-tokens": "30", "x-ratelimit-reset-tokens": "20ms"}, 0.02),
        ({"x-ratelimit-reset-tokens": "1h2m3s"}, 3723.0),
        # Anthropic: moments.
        ({"anthropic-ratelimit-requests-remaining": "0",
          "anthropic-ratelimit-requests-reset": "2025-06-01T12:00:12Z",
          "anthropic-ratelimit-input-tokens-remaining": "0",
          "anthropic-ratelimit-input-tokens-reset": "2025-06-01T12:00:45Z"}, 45.0),
        ({"retry-after": "2", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "60s"}, 2.0),
    ],
)  # fmt: skip
def test_what_the_server_says(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers, NOW) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("years", [-30, 30])
def test_moments_are_compared_with_the_servers_own_clock(years: int) -> None:
    jumped = NOW.replace(year=NOW.year + years)  # what our clock says
    sent = {"date": "Sun, 01 Jun 2025 12:00:00 GMT"}
    for name, text in [
        ("retry-after", "Sun, 01 Jun 2025 12:00:30 GMT"),
        ("anthropic-ratelimit-requests-reset", "2025-06-01T12:00:30Z"),
        ("x-ratelimit-reset", "1748779230"),  # seconds since 1970
        ("x-ratelimit-reset", "1748779230000"),  # milliseconds, as OpenRouter has it
    ]:
        assert retry_after_seconds({**sent, name: text}, jumped) == pytest.approx(30.0)
        assert retry_after_seconds({name: text}, jumped) is None  # no clock to be trusted: as if it had not been said
        assert retry_after_seconds({name: text}, NOW) == pytest.approx(30.0)
    assert retry_after_seconds({**sent, "retry-after": "Sun, 01 Jun 2031 12:00:00 GMT"}, NOW) == 86400.0
    assert retry_after_seconds({"retry-after": "999999"}, NOW) == 86400.0
    assert retry_after_seconds({"date": "yesterday", "retry-after": "Sun, 01 Jun 2025 12:00:30 GMT"}, NOW) == 30.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, None),  # it succeeded
        ({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "60s"}, None),
        ({"x-ratelimit-remaining-requests": "0"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "soon"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1.5s"}, 1.5),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2s",
          "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "30s"}, 30.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "23h59m"}, 600.0),
        ({"anthropic-ratelimit-output-tokens-remaining": "0",
          "anthropic-ratelimit-output-tokens-reset": "2025-06-01T12:00:12Z",
          "date": "Sun, 01 Jun 2025 12:00:02 GMT"}, 10.0),
    ],
)  # fmt: skip
def test_what_a_success_says_is_used_up(headers: dict[str, str], seconds: float | None) -> None:
    assert used_up_seconds(headers, NOW) == (None if seconds is None else pytest.approx(seconds))


@given(st.text(max_size=30))
@example("Mon, 01 Jan 99999999999999999999 00:00:00 GMT")
@example("Mon, 01 Jan 2024 00:00:99999999999999999999 GMT")
def test_any_header_text_gives_a_finite_time_or_none(text: str) -> None:
    for name in ("retry-after", "retry-after-ms", "x-ratelimit-reset-tokens", "date"):
        seconds = retry_after_seconds({"retry-after": "Sun, 01 Jun 2025 12:00:30 GMT", name: text}, NOW)
        assert seconds is None or (math.isfinite(seconds) and seconds >= 0)


def failed(**changes: Any) -> CallFailed:
    return CallFailed(FailureKind.RATE_LIMITED, "slow down", **{"retryable": True, **changes})


def state(error: CallFailed, attempt: int) -> Any:
    outcome = SimpleNamespace(exception=lambda: error, failed=True)
    return SimpleNamespace(outcome=outcome, attempt_number=attempt)


@pytest.mark.parametrize("seconds", [0.5, 30.0])
def test_the_wait_is_what_the_server_asks_and_a_little_more(seconds: float) -> None:
    wait = cast(Any, policy(6, 1.0, 600).wait)
    waits = [wait(state(failed(retry_after=seconds), 1)) for _ in range(200)]
    assert min(waits) >= seconds
    assert max(waits) <= seconds + min(1.0, seconds / 10)
    assert len(set(waits)) > 100  # spread out


@pytest.mark.parametrize("asked", [None, 0.0])  # "at once", said by a server that has too much to do, is no wait at all
def test_otherwise_it_grows_exponentially_to_a_minute_with_full_jitter(asked: float | None) -> None:
    wait = cast(Any, policy(6, 1.0, 600).wait)
    for attempt, most in [(1, 1.0), (2, 2.0), (4, 8.0), (12, 60.0)]:
        waits = [wait(state(failed(retry_after=asked), attempt)) for _ in range(400)]
        assert 0 <= min(waits) < 0.1 * most
        assert 0.9 * most < max(waits) <= most


async def tries(error: Exception, retries: int = 2) -> int:
    count = 0
    with pytest.raises(type(error)):
        async for attempt in policy(retries, 0.0001, 600):
            with attempt:
                count += 1
                raise error
    return count


async def test_what_is_tried_again() -> None:
    assert await tries(failed()) == 3
    assert await tries(failed(), retries=0) == 1
    assert await tries(failed(retryable=False)) == 1
    assert await tries(failed(retry_after=601)) == 1  # a daily quota is not waited for
    assert await tries(ValueError("a bug")) == 1
