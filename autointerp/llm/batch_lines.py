"""JSON lines as batches go up and come back: no line is read beyond the length that an answer can have."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autointerp.llm import wire
from autointerp.llm.provider import CallFailed
from autointerp.llm.types import FailureKind


def json_line(record: Mapping[str, Any]) -> bytes:
    """A record as one line of JSONL, ASCII only."""
    return json.dumps(record, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None, bool]]:
    """Line number, JSON object (None where the line holds none) and whether the line is whole, of a JSONL file.

    Empty lines are left out. A line longer than `wire.MAX_BODY_BYTES` holds none.
    """
    with path.open("rb") as file:
        number = 0
        while line := file.readline(wire.MAX_BODY_BYTES):
            number += 1
            is_cut = not line.endswith(b"\n")
            while is_cut and (more := file.readline(wire.MAX_BODY_BYTES)):
                line, is_cut = b"too long" + more[-1:], not more.endswith(b"\n")
            if line.strip():
                yield number, _parsed(line), not is_cut


def check_lines(path: Path) -> None:
    """Raise CallFailed (retryable) if a downloaded JSONL file was cut short or damaged."""
    if any(record is None for _, record, _ in read_lines(path)):
        raise CallFailed(FailureKind.MALFORMED, "the results are not JSON lines", retryable=True)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
