"""Lines of the journal, read in bulk: the fields that the index and the sums need, a block of lines at a time.

The fast path is one call of msgspec a block, which skips the texts. A block that it can't read is read line by line, and
a line that it can't read by the standard library: that knows lone surrogates, and finds out which line is damaged.
"""

from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from autointerp.errors import DataError
from autointerp.llm.entry import Amount, Count, Entry, UsageRecord, from_record
from autointerp.llm.segments import Block, Line, read_lines, split_lines

_NOTHING = msgspec.Raw(b"null")


class Row(msgspec.Struct, gc=False):
    """An `Entry` whose text and log-probabilities are left as they are."""

    key: str
    provider: str
    model: str
    served_model: str
    payload_hash: str
    template_hash: str
    purpose: str
    sample: Count
    usage: UsageRecord
    latency_s: Amount
    attempts: int
    finish: str
    text: msgspec.Raw
    time: str
    money: Amount | None = None
    prompt_chars: Count = 0
    logprobs: msgspec.Raw = _NOTHING


class Rows(NamedTuple):
    """The lines of a block, with byte offsets within the segment and lengths. `torn`: its last line was left out."""

    rows: list[Row]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    torn: bool


_DECODER = msgspec.json.Decoder(Row)


def read_rows(path: Path, block: Block) -> Rows:
    """Read a block of the segment `path`. Raises DataError with the line's number for one that can't be read."""
    ends = np.flatnonzero(np.frombuffer(block.data, np.uint8) == ord("\n")) + 1
    if block.data and not block.data.endswith(b"\n"):
        ends = np.append(ends, len(block.data))
    try:
        rows = _DECODER.decode_lines(block.data)
    except (msgspec.MsgspecError, RecursionError):
        rows = []
    torn = False
    if len(rows) != len(ends):
        rows = _line_by_line(path, block)
        torn = len(rows) < len(ends)
        ends = ends[: len(rows)]
    starts = np.concatenate([np.zeros(min(1, len(ends)), dtype=ends.dtype), ends[:-1]])
    return Rows(rows, starts + block.offset, ends - starts, torn)


def _line_by_line(path: Path, block: Block) -> list[Row]:
    rows = []
    offset = block.offset
    for number, data in enumerate(split_lines(block.data), start=block.number):
        try:
            rows.append(_DECODER.decode(data))
        except (msgspec.MsgspecError, RecursionError):
            rows += [_row(path, line) for line in read_lines(path, Block(number, offset, data))]
        offset += len(data)
    return rows


def entry_of(path: Path, line: Line) -> Entry:
    """The entry that a line holds. Raises DataError with the line's number."""
    try:
        return from_record(line.record)
    except msgspec.ValidationError as error:
        raise DataError(
            f"{path}, line {line.number}: not an answer as this version reads it ({error}); expected the keys that "
            "docs/providers.md lists; restore the file from a copy"
        ) from error


def _row(path: Path, line: Line) -> Row:
    entry = entry_of(path, line)
    usage = entry.usage
    known: dict[str, Any] = {name: getattr(entry, name) for name in Row.__struct_fields__}
    return Row(
        **known
        | {
            "usage": UsageRecord(usage.input, usage.output, usage.cached, usage.written),
            "text": _NOTHING,
            "logprobs": _NOTHING,
        }
    )
