"""Compaction of a journal: all segments become one, in the order of time, with each answer once.

Nothing that was spent is forgotten: a line that is no answer is kept as it is, and a second answer to the same question
(of two journals that were put together by hand) keeps its line, with `finish` "duplicate" and without its text. How the
change of files survives a crash is told in `segment_folder`.
"""

import os
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from autointerp.errors import DataError
from autointerp.files import write_atomically
from autointerp.llm.entry import ANSWER, DUPLICATE
from autointerp.llm.index import Index, Place
from autointerp.llm.rows import Row, read_rows
from autointerp.llm.segment_folder import Header, Replaced, new_digest
from autointerp.llm.segments import OpenSegments, encode, parse_line, read_blocks

_BUFFER_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Compaction:
    """What a compaction did: segments and bytes before, lines and bytes after, answers that lost their text."""

    segments: int
    bytes_before: int
    bytes_after: int
    lines: int
    duplicates: int


class _Scan(NamedTuple):
    """Parallel arrays over all lines: seconds since 1970, the place, whether it is a second answer. And the segments."""

    times: "array[float]"
    segments: "array[int]"
    offsets: "array[int]"
    lengths: "array[int]"
    duplicate: bytearray
    replaced: list[Replaced]


def write_compacted(segments: OpenSegments, index: Index, target: Path) -> Compaction:
    """Write the segment `target`, which replaces all of `segments`, and remove them. Nothing may be written meanwhile.

    Raises DataError for damage and OSError (a full disk): the old segments then stand as they were.
    """
    scan = _scan(segments, index)

    def write(partial: Path) -> None:
        with partial.open("xb", buffering=_BUFFER_BYTES) as file:
            file.write(encode(asdict(Header(scan.replaced, len(scan.times)))).encode() + b"\n")
            for line in _in_order(segments, scan):
                file.write(line)
            file.flush()
            os.fsync(file.fileno())

    write_atomically(target, write)
    _sync_folder(target.parent)
    size = target.stat().st_size
    for path in segments.paths:
        path.unlink()
    _sync_folder(target.parent)
    before = sum(old.size for old in scan.replaced)
    return Compaction(len(segments.paths), before, size, len(scan.times), sum(scan.duplicate))


def _scan(segments: OpenSegments, index: Index) -> _Scan:
    scan = _Scan(array("d"), array("q"), array("q"), array("q"), bytearray(), [])
    for segment, path in enumerate(segments.paths):
        size, digest = segments.size(segment), new_digest()
        fd = segments.descriptor(segment)
        for at in range(0, size, _BUFFER_BYTES):
            digest.update(os.pread(fd, _BUFFER_BYTES, at))
        scan.replaced.append(Replaced(path.name, size, digest.hexdigest()))
        for block in read_blocks(fd, size):
            found = read_rows(path, block)
            offsets, lengths = found.offsets.tolist(), found.lengths.tolist()
            for number, (row, offset, length) in enumerate(
                zip(found.rows, offsets, lengths, strict=True), block.number
            ):
                scan.times.append(_seconds(path, number, row))
                place = Place(segment, offset, length)
                scan.duplicate.append(row.finish == ANSWER and index.find(row.key) != place)
            scan.segments.extend([segment] * len(offsets))
            scan.offsets.extend(offsets)
            scan.lengths.extend(lengths)
    return scan


def _in_order(segments: OpenSegments, scan: _Scan) -> Iterator[bytes]:
    """The lines by time; those of the same time as they were."""
    for at in np.argsort(np.array(scan.times), kind="stable").tolist():
        line = segments.read(scan.segments[at], scan.offsets[at], scan.lengths[at])
        if scan.duplicate[at]:
            record = (parse_line(line) or {}) | {"finish": DUPLICATE, "text": "", "logprobs": None}
            yield encode(record).encode() + b"\n"
        else:
            yield line if line.endswith(b"\n") else line + b"\n"


def _seconds(path: Path, number: int, row: Row) -> float:
    try:
        return datetime.fromisoformat(row.time).timestamp()
    except (ValueError, OverflowError) as error:
        raise DataError(
            f"{path}, line {number}: the time is {row.time!r}; expected ISO 8601; restore the file from a copy"
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make renames and removals last."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
