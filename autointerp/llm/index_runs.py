"""Runs: files of places sorted by key, written once, of which one number in 256 is in memory.

A lookup is a search among these numbers and one read of 7 KB. Runs are merged a piece at a time, so that no file's size
matters to the memory. A run that has no file in its folder (a reader's, or the disk is full) is in a temporary file, which
has no name and ends with the process; where there is no room for that either, in memory.
"""

import io
import os
import secrets
import tempfile
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

RECORD = np.dtype([("key", "S16"), ("place", "<u8"), ("length", "<u4")])
"""The key's digest, segment and offset packed into a number, the line's length: 28 bytes."""

RUN_SUFFIX = ".run"

Records = NDArray[np.void]

_SIZE = RECORD.itemsize
_KEY = 16
_BLOCK = 256  # records
_PIECE = 64 * _BLOCK  # records that a merge has in memory of each run


class Run:
    """A run that is whole: `count` records; `check` is the CRC-32 of their bytes. `path` is None where it has no name.

    `is_noted`: a file of the journal says that the run is there.
    """

    def __init__(self, file: IO[bytes], path: Path | None, count: int, check: int, fences: list[bytes]) -> None:
        self.path = path
        self.count = count
        self.check = check
        self.is_noted = False
        self._file = file
        self._fences = fences

    def find(self, digest: bytes) -> bytes | None:
        """What the record of a key holds behind the key, or None."""
        block = bisect_right(self._fences, digest) - 1
        if block < 0:
            return None
        data = self._read(block * _BLOCK, _BLOCK)
        starts = range(0, len(data), _SIZE)
        at = bisect_left(starts, digest, key=lambda start: data[start : start + _KEY]) * _SIZE
        return data[at + _KEY : at + _SIZE] if data[at : at + _KEY] == digest else None

    def pieces(self) -> Iterator[Records]:
        """All records in order, some thousands at a time."""
        for begin in range(0, self.count, _PIECE):
            yield np.frombuffer(self._read(begin, _PIECE), RECORD)

    def close(self) -> None:
        """Close the file, and remove it unless it is noted. Closing twice is allowed."""
        self._file.close()
        if self.path is not None and not self.is_noted:
            self.path.unlink(missing_ok=True)

    def _read(self, begin: int, count: int) -> bytes:
        if isinstance(self._file, io.BytesIO):
            return bytes(self._file.getbuffer()[begin * _SIZE : (begin + count) * _SIZE])
        return os.pread(self._file.fileno(), count * _SIZE, begin * _SIZE)


def ordered(records: Records) -> Records:
    """The records by key; of equal keys the first stays."""
    keys = np.ascontiguousarray(records["key"])
    order = keys.argsort(kind="stable")
    records, keys = records.take(order), keys.take(order)
    first = np.ones(len(keys), dtype=bool)
    first[1:] = keys[1:] != keys[:-1]
    return records if first.all() else records[first]


def merged(runs: Sequence[Run]) -> Iterator[Records]:
    """The records of all runs by key; of equal keys the one in the first run that has it stays."""
    sources = [run.pieces() for run in runs]
    heads = [next(source, None) for source in sources]
    while left := [head for head in heads if head is not None]:
        cut = min(head["key"][-1] for head in left)  # all that is up to here has been read
        taken = []
        for number, head in enumerate(heads):
            if head is not None:
                until = int(np.searchsorted(head["key"], cut, side="right"))
                taken.append(head[:until])
                heads[number] = head[until:] if until < len(head) else next(sources[number], None)
        yield ordered(np.concatenate(taken))


def new_run(folder: Path | None, pieces: Callable[[], Iterable[Records]]) -> Run:
    """Write a run into `folder`; without one, or if it can't be written there, elsewhere (see above).

    `pieces` brings the records in order, without equal keys; it is called again where a first attempt fails.
    """
    if folder is not None:
        path = folder / f"{secrets.token_hex(8)}{RUN_SUFFIX}"
        try:
            folder.mkdir(exist_ok=True)
            return _written(path.open("x+b"), path, pieces())
        except OSError:
            with suppress(OSError):
                path.unlink(missing_ok=True)
    try:
        return _written(tempfile.TemporaryFile(), None, pieces())
    except OSError:
        return _written(io.BytesIO(), None, pieces())


def open_run(path: Path, count: int, check: int) -> Run | None:
    """A run that was written before; None if it is not as it was then. Raises FileNotFoundError and other OSErrors."""
    file = path.open("rb")
    run = Run(file, path, count, check, [])
    run.is_noted = True
    found = _Sums()
    if os.fstat(file.fileno()).st_size == count * _SIZE:
        for piece in run.pieces():
            found.add(piece)
    if (found.count, found.check) != (count, check):
        run.close()
        return None
    run._fences = found.fences
    return run


class _Sums:
    """What is known of a run after all its pieces have gone by."""

    def __init__(self) -> None:
        self.count = self.check = 0
        self.fences: list[bytes] = []

    def add(self, piece: Records) -> bytes:
        data = piece.tobytes()
        for start in range(-self.count % _BLOCK * _SIZE, len(data), _BLOCK * _SIZE):
            self.fences.append(data[start : start + _KEY])
        self.check = zlib.crc32(data, self.check)
        self.count += len(piece)
        return data


def _written(file: IO[bytes], path: Path | None, pieces: Iterable[Records]) -> Run:
    sums = _Sums()
    try:
        for piece in pieces:
            file.write(sums.add(piece))
        file.flush()
    except BaseException:
        with suppress(OSError):  # once more that the disk is full
            file.close()
        raise
    return Run(file, path, sums.count, sums.check, sums.fences)
