"""The journal's files: a segment that is written once, its lines read back, and the lock on the folder."""

import fcntl
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from autointerp.errors import DataError, UserError


class Line(NamedTuple):
    """One record of a segment and where it is: byte offset and length, newline included."""

    offset: int
    length: int
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


class Segment:
    """A new segment, which must not exist yet. Any failed `write` leaves it unusable: start another."""

    def __init__(self, path: Path) -> None:
        import jsonlines

        self._file = _AppendFile(path)
        # ASCII only: a model may answer with a lone surrogate escape, which UTF-8 can't hold.
        self._writer = jsonlines.Writer(
            cast(IO[bytes], self._file),
            dumps=json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode,
            flush=True,
        )
        self._end = 0

    def write(self, record: Mapping[str, Any]) -> Line:
        """Append a record; when this returns the operating system has it. Raises OSError."""
        offset, length = self._end, self._writer.write(record)
        self._end += length
        return Line(offset, length, dict(record))

    def close(self) -> None:
        self._file.close()


def read_segment(path: Path) -> Iterator[Line]:
    """The lines of a segment. A last line without a newline that is no JSON object was torn by a crash: it is left out.

    Raises DataError, with file and line number, for any other line that is not a JSON object.
    """
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if isinstance(record, dict):
                yield Line(offset, len(line), record)
            elif line.endswith(b"\n"):
                raise DataError(
                    f"{path}, line {number}: found no JSON object; expected one answer a line; restore the file from a "
                    "copy, or delete this line to ask its request again"
                )
            offset += len(line)


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
