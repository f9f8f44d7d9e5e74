"""Entries for tests of the journal."""

from dataclasses import replace
from typing import Any

from autointerp.llm import Entry, Usage


def entry(key: str, **changes: Any) -> Entry:
    plain = Entry(
        key=key,
        provider="openai",
        model="m",
        served_model="m-dated",
        payload_hash="00",
        template_hash="t1",
        purpose="explain",
        sample=0,
        usage=Usage(input=100, output=20, cached=10),
        latency_s=1.5,
        attempts=2,
        finish="stop",
        text=f"text of {key}",
        time="2025-06-01T12:00:00.000+00:00",
    )
    return replace(plain, **changes)
