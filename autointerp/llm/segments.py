"""The journal's files: a segment that is written once, its lines read back, and the lock on the folder."""

import fcntl
import io
import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np

from autointerp.errors import DataError, UserError

HEADER_START = b'{"compacted":'
_NEWLINE = ord("\n")
_BLOCK_BYTES = 1 << 20
_MOST_OPEN = 64  # segments; the connections to a server need descriptors, too


class Block(NamedTuple):
    """Whole lines of a segment: the number of the first (from 1), its byte offset, the bytes.

    The last line of the last block may lack its newline.
    """

    number: int
    offset: int
    data: bytes


class Line(NamedTuple):
    """A line of a segment: its number (from 1), byte offset, the bytes with the newline, and the JSON object it holds."""

    number: int
    offset: int
    data: bytes
    record: dict[str, Any]


class _AppendFile(io.IOBase):
    """What jsonlines writes to: `write` collects one line's pieces, `flush` hands the line to the system in one call.

    Python's own buffered file keeps a line that it could not write and tries again when it is closed; after a full disk
    that would put half a line in front of, or into, others.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._line = b""

    def writable(self) -> bool:
        return True

    def write(self, piece: bytes) -> int:
        self._line += piece
        return len(piece)

    def flush(self) -> None:
        line, self._line = self._line, b""
        while line:
            line = line[os.write(self._fd, line) :]

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


# ASCII only: a model may answer with a lone surrogate escape, which UTF-8 can't hold.
encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode
"""One JSON text for one line, without the newline."""


class Segment:
    """A new segment, which must not exist yet. Any failed `write` leaves it unusable: start another."""

    def __init__(self, path: Path) -> None:
        import jsonlines

        self._file = _AppendFile(path)
        self._writer = jsonlines.Writer(cast(IO[bytes], self._file), dumps=encode, flush=True)
        self.size = 0

    def write(self, record: Mapping[str, Any]) -> int:
        """Append a record; returns the line's length. Then the operating system has it. Raises OSError."""
        length: int = self._writer.write(record)
        self.size += length
        return length

    def close(self) -> None:
        self._file.close()


class OpenSegments:
    """Descriptors of segments, by their position in `paths`; the few dozen used last are kept open.

    A segment that is open can be read even after a compaction by another process has removed it.
    """

    def __init__(self, paths: Sequence[Path] = ()) -> None:
        self.paths = list(paths)
        self._descriptors: OrderedDict[int, int] = OrderedDict()

    def descriptor(self, segment: int) -> int:
        """An open descriptor, which stays this object's. Raises FileNotFoundError."""
        if segment in self._descriptors:
            self._descriptors.move_to_end(segment)
            return self._descriptors[segment]
        fd = os.open(self.paths[segment], os.O_RDONLY | os.O_CLOEXEC)
        self._descriptors[segment] = fd
        if len(self._descriptors) > _MOST_OPEN:
            os.close(self._descriptors.popitem(last=False)[1])
        return fd

    def size(self, segment: int) -> int:
        return os.fstat(self.descriptor(segment)).st_size

    def read(self, segment: int, offset: int, length: int) -> bytes:
        """Fewer bytes if the file ends before."""
        return os.pread(self.descriptor(segment), length, offset)

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])


def read_blocks(fd: int, size: int, start: int = 0, number: int = 1) -> Iterator[Block]:
    """The first `size` bytes of a segment, cut between lines, without the header that a compaction puts in front.

    With `start` from that byte on, where the line with that number begins. `fd` may be closed while this goes on.
    """
    own = os.dup(fd)
    try:
        if not start and (header := _header_line(own)):
            number, start = 2, len(header)
        wanted = _BLOCK_BYTES
        while start < size and (data := os.pread(own, min(wanted, size - start), start)):
            whole = len(data) < wanted or start + len(data) == size
            cut = len(data) if whole else data.rfind(b"\n") + 1
            if not cut:  # a line longer than a block
                wanted *= 2
                continue
            data = data[:cut]
            yield Block(number, start, data)
            number += int(
                np.count_nonzero(np.frombuffer(data, np.uint8) == _NEWLINE)
            )  # bytes.count takes three times as long
            start += cut
            wanted = _BLOCK_BYTES
    finally:
        os.close(own)


def read_header(fd: int) -> dict[str, Any] | None:
    """What a compaction wrote on the first line of its segment, or None for any other segment."""
    return parse_line(_header_line(fd))


def _header_line(fd: int) -> bytes:
    """The first line with its newline if it is a header, else nothing."""
    if os.pread(fd, len(HEADER_START), 0) != HEADER_START:
        return b""
    line, at = bytearray(), 0
    while b"\n" not in line[-_BLOCK_BYTES:] and (piece := os.pread(fd, _BLOCK_BYTES, at)):
        line += piece
        at += len(piece)
    return bytes(line[: line.find(b"\n") + 1])


def read_lines(path: Path, block: Block) -> Iterator[Line]:
    """The lines of a block. A last line without a newline that is no JSON object was torn by a crash: it is left out.

    Raises DataError, with file and line number, for any other line that is not a JSON object.
    """
    offset = block.offset
    for number, data in enumerate(split_lines(block.data), start=block.number):
        record = parse_line(data)
        if record is not None:
            yield Line(number, offset, data, record)
        elif data.endswith(b"\n"):
            raise DataError(
                f"{path}, line {number}: found no JSON object; expected one answer a line; restore the file from a "
                "copy, or delete this line to ask its request again"
            )
        offset += len(data)


def split_lines(data: bytes) -> Iterator[bytes]:
    """The lines with their newlines. (`bytes.splitlines` would also cut at carriage returns.)"""
    return iter(io.BytesIO(data))


def parse_line(data: bytes) -> dict[str, Any] | None:
    """The JSON object that a line holds, or None if it holds none."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def take_lock(path: Path) -> int:
    """Lock a journal for this process; returns the open descriptor, which holds the lock until it is closed.

    The system drops the lock when the process ends, however it ends; the file stays and holds the last owner's pid.
    Raises UserError with the holder's pid if another process has it.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise UserError(
            f"the journal {path.parent} is in use by process {holder}; a journal has one writer at a time; wait for "
            "that process or end it, or give this run a folder of its own"
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd
