"""The folder `index`: runs that say where answers are, and the file `state`, that says what they and the sums cover.

So a journal is opened without parsing what was parsed before. It is only a cache. It is used if it is whole, of this
version, and about the first of the segments that are there, unchanged in name, size and time; the segment that was being
written may have grown since. Else the segments are read, as if it did not exist. A wrong place would be noticed too:
`Journal.get` looks at the key that it finds there. The folder can be deleted at any time.

A run is written under a new name, then the state that names it takes the place of the one before, then what it does not
name is removed: a kill in between leaves files that nobody reads. A reader that finds a run gone reads the state again.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from autointerp.files import write_atomically
from autointerp.llm.index_runs import RUN_SUFFIX, Run, open_run
from autointerp.llm.segments import OpenSegments
from autointerp.llm.tally import Tallies

_FOLDER = "index"
_NAME = "state"
_MAGIC = b"autointerp journal index 2\n"
_TRIES = 10  # a writer may replace runs as a reader opens them
_TAIL_BYTES = 4096


class Position(NamedTuple):
    """Where to read on: the segment's position in the journal's list, byte offset, number of the line (from 1)."""

    segment: int
    offset: int
    line: int


START = Position(0, 0, 1)


_Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _Begun(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The segment that was being written: its name, the position's offset and line, a checksum of what is before it."""

    name: str
    offset: _Size
    line: _Size
    tail: _Size


class _Facts(msgspec.Struct):
    """What the file holds: name, size and time of whole segments; name, count and checksum of runs; `Tallies.state`."""

    segments: list[tuple[str, int, int]]
    begun: _Begun | None
    runs: list[tuple[str, _Size, _Size]]
    tallies: list[Any]


@dataclass(frozen=True, slots=True)
class State:
    """What is known of a journal's segments up to `position`."""

    position: Position
    runs: list[Run]
    tallies: Tallies


def index_folder(journal: Path) -> Path:
    return journal / _FOLDER


def write_state(
    journal: Path, segments: OpenSegments, position: Position, runs: Sequence[Run], tallies: Tallies
) -> None:
    """Note that `runs` and `tallies` are about all that is before `position`. Raises OSError.

    Nothing is written if a run has no file in the folder.
    """
    folder = index_folder(journal)
    names = [run.path.name for run in runs if run.path is not None]
    if len(names) < len(runs):
        return
    begun = None
    if position.offset:
        name = segments.paths[position.segment].name
        begun = _Begun(name, position.offset, position.line, _tail(segments, position))
    facts = _Facts(
        segments=[_identity(path) for path in segments.paths[: position.segment]],
        begun=begun,
        runs=[(name, run.count, run.check) for name, run in zip(names, runs, strict=True)],
        tallies=tallies.state(),
    )
    body = json.dumps(msgspec.to_builtins(facts)).encode()  # sums of money may be beyond 64 bits

    def write(partial: Path) -> None:
        partial.write_bytes(_MAGIC + f"{zlib.crc32(body)}\n".encode() + body)

    write_atomically(folder / _NAME, write)
    for run in runs:
        run.is_noted = True
    for path in list(folder.iterdir()):
        if path.suffix in (RUN_SUFFIX, ".partial") and path.name not in names:
            path.unlink(missing_ok=True)


class StateFile:
    """The state as it was written last, its runs open; to be read before the segments are listed, and held against them.

    `close` it when that is done.
    """

    def __init__(self, journal: Path) -> None:
        self._runs: list[Run] = []
        self._facts = self._read(index_folder(journal))

    def fitting(self, segments: OpenSegments) -> State | None:
        """The state, if it is about `segments`. Its runs are the caller's from then on."""
        if self._facts is None:
            return None
        try:
            position = _position(self._facts, segments)
            if position is None:
                return None
            tallies = Tallies.from_state(self._facts.tallies)
        except (ValueError, LookupError, TypeError, OSError):  # not our sums, or a segment that can't be read
            return None
        runs, self._runs = self._runs, []
        return State(position, runs, tallies)

    def close(self) -> None:
        while self._runs:
            self._runs.pop().close()

    def _read(self, folder: Path) -> _Facts | None:
        """What the file says, with all runs open, or None."""
        for _ in range(_TRIES):
            facts = _load(folder / _NAME)
            if facts is None:
                return None
            try:
                if all(self._open(folder, *run) for run in facts.runs):
                    return facts
            except FileNotFoundError:
                self.close()
                continue
            except OSError:
                pass
            self.close()
            return None
        return None

    def _open(self, folder: Path, name: str, count: int, check: int) -> bool:
        run = open_run(folder / Path(name).name, count, check)
        if run is not None:
            self._runs.append(run)
        return run is not None


def _load(path: Path) -> _Facts | None:
    try:
        magic, check, body = path.read_bytes().split(b"\n", 2)
        if magic + b"\n" == _MAGIC and check == str(zlib.crc32(body)).encode():
            return msgspec.convert(json.loads(body), _Facts)
    except (OSError, ValueError, RecursionError, msgspec.ValidationError):
        pass
    return None


def _position(facts: _Facts, segments: OpenSegments) -> Position | None:
    """Up to where the facts are about `segments`; None if they are about others."""
    whole, begun = facts.segments, facts.begun
    if whole != [_identity(path) for path in segments.paths[: len(whole)]]:
        return None
    if begun is None:
        return Position(len(whole), 0, 1)
    position = Position(len(whole), begun.offset, begun.line)
    is_there = segments.paths[position.segment].name == begun.name and segments.size(position.segment) >= begun.offset
    return position if is_there and _tail(segments, position) == begun.tail else None


def _identity(path: Path) -> tuple[str, int, int]:
    found = path.stat()
    return path.name, found.st_size, found.st_mtime_ns


def _tail(segments: OpenSegments, position: Position) -> int:
    """A checksum of what is before `position`: of the last line or so, which a line put in or taken out would shift."""
    begin = max(0, position.offset - _TAIL_BYTES)
    return zlib.crc32(segments.read(position.segment, begin, position.offset - begin))
