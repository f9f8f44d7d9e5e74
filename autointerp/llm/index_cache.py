"""The file `index.cache`: the index and the sums of segments that nobody writes any more, so that they need no parsing.

It is only a cache. It is used if it is whole, of this version, and about the first of the segments that are there,
unchanged in name, size and time; else the segments are read, as if it did not exist. A wrong place would be noticed too:
`Journal.get` looks at the key that it finds there. It can be deleted at any time.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autointerp.files import write_atomically
from autointerp.llm.index import Index, Run
from autointerp.llm.tally import Tallies

_NAME = "index.cache"
_MAGIC = b"autointerp journal index 1\n"


@dataclass(frozen=True, slots=True)
class Cached:
    """What the cache knows of the first `segments` of the journal's segments."""

    segments: int
    index: Index
    tallies: Tallies


def write_cache(folder: Path, segments: Sequence[Path], index: Index, tallies: Tallies) -> None:
    """Write the cache of `segments`, which must be all that index and sums are about."""
    run = index.merged()
    body = b"".join(np.ascontiguousarray(column).tobytes() for column in run)
    header = {"segments": [_identity(path) for path in segments], "answers": len(run.high), "tallies": tallies.state()}
    head = json.dumps(header).encode() + b"\n"
    check = zlib.crc32(body, zlib.crc32(head))

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            file.write(_MAGIC + f"{check}\n".encode() + head)
            file.write(body)

    write_atomically(folder / _NAME, write)


def read_cache(folder: Path, segments: Sequence[Path]) -> Cached | None:
    """The cache, if it fits `segments`."""
    try:
        with (folder / _NAME).open("rb") as file:
            if file.readline() != _MAGIC:
                return None
            check, head, body = file.readline(), file.readline(), file.read()
    except OSError:
        return None
    if check != f"{zlib.crc32(body, zlib.crc32(head))}\n".encode():
        return None
    try:
        header: dict[str, Any] = json.loads(head)
        known = header["segments"]
        if known != [_identity(path) for path in segments[: len(known)]]:
            return None
        return Cached(len(known), Index(_run(body, header["answers"])), Tallies.from_state(header["tallies"]))
    except (ValueError, LookupError, TypeError, RecursionError):  # not ours, in spite of its checksum
        return None


def _identity(path: Path) -> list[Any]:
    found = path.stat()
    return [path.name, found.st_size, found.st_mtime_ns]


def _run(body: bytes, answers: int) -> Run:
    high, low, place = (np.frombuffer(body, np.uint64, answers, 8 * answers * column) for column in range(3))
    return Run(high, low, place, np.frombuffer(body, np.uint32, answers, 24 * answers))
