"""The journal: every delivered answer, append-only, so that nothing is asked or paid for twice.

A folder of segments, `000001.jsonl`, `000002.jsonl`, …: one JSON object a line, one line an answer. A segment is
written by one process, once, and never appended to by another: so a line that a crash tore can only be the last of
its segment. It is ignored (its answer was never returned by `ask`); any other line that can't be read is damage and
stops the load.

A line with `finish` other than "stop" is a reply that was paid for but is no answer (refused, cut short, empty). It
counts in `spend` and is not found by `get`, so a later run asks again.

In memory there is one small record a key; texts stay on disk.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from autointerp.errors import DataError, UserError
from autointerp.llm.segments import Segment, read_segment, take_lock
from autointerp.llm.types import Answer, Usage

_SEGMENT_NAME = re.compile(r"\d{6,}\.jsonl")
_LOCK_NAME = "lock"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal.

    `model` is the one asked for, `served_model` the one that the server says it used. `payload_hash` is SHA-256 of
    the canonical payload. `latency_s` is that of the attempt that succeeded, `attempts` counts the failed ones too.
    `time` is that of delivery, UTC, ISO 8601.
    """

    key: str
    provider: str
    model: str
    served_model: str
    payload_hash: str
    template_hash: str
    purpose: str
    sample: int
    usage: Usage
    latency_s: float
    attempts: int
    finish: str
    text: str
    time: str


_ENTRY_KEYS = frozenset(field.name for field in fields(Entry))


@dataclass(frozen=True, slots=True)
class Spend:
    """What one model was asked for one purpose. `failed` of the `replies` were no answers; tokens are of all."""

    purpose: str
    model: str
    replies: int
    failed: int
    usage: Usage


class _Place(NamedTuple):
    segment: int
    offset: int
    length: int


class _Tally:
    """The running sums behind one `Spend`."""

    __slots__ = ("cached", "failed", "input", "output", "replies")

    def __init__(self) -> None:
        self.replies = self.failed = self.input = self.output = self.cached = 0

    def add(self, record: Mapping[str, Any]) -> None:
        usage = record["usage"]
        self.replies += 1
        self.failed += record["finish"] != "stop"
        self.input += usage["input"]
        self.output += usage["output"]
        self.cached += usage["cached"]


class Journal:
    """The journal in `folder`; opened for writing, it is created if missing and locked against other processes.

    `read_only` takes no lock: a reader may look on while a run writes, and sees what was there when it opened.
    Raises UserError if another process writes to it (or, read-only, if there is none) and DataError if it is damaged.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self.folder = folder
        self.read_only = read_only
        self._places: dict[str, _Place] = {}
        self._tallies: dict[tuple[str, str], _Tally] = {}
        self._segment: Segment | None = None
        self._lock = -1
        if not read_only:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = take_lock(folder / _LOCK_NAME)
        elif not folder.is_dir():
            raise UserError(f"{folder} is not there; expected the folder of a journal; run the labelling stage first")
        try:
            found = (path for path in folder.iterdir() if _SEGMENT_NAME.fullmatch(path.name))
            self._segments = sorted(found, key=lambda path: int(path.stem))
            for index in range(len(self._segments)):
                self._load(index)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def get(self, key: str) -> Answer | None:
        """The recorded answer, or None. If a key was recorded twice the first answer stands.

        Raises DataError if the segment was changed since it was loaded.
        """
        place = self._places.get(key)
        if place is None:
            return None
        path = self._segments[place.segment]
        with path.open("rb") as file:
            file.seek(place.offset)
            text = file.read(place.length)
        try:
            record = json.loads(text)
        except ValueError:
            record = {}
        if record.get("key") != key:
            raise DataError(f"{path} was changed while it was in use; expected the answer {key} at byte {place.offset}")
        return Answer(
            key, record["text"], record["finish"], record["model"], Usage(**record["usage"]), from_journal=True
        )

    def append(self, entry: Entry) -> None:
        """Record a reply; when this returns, the line is with the operating system and survives the end of the process.

        Raises UserError if it can't be written (a full disk): the line may then be torn, so the segment is given up and
        the next entry starts another.
        """
        if self.read_only:
            raise ValueError("the journal was opened read-only")
        try:
            if self._segment is None:
                self._segment = self._new_segment()
            line = self._segment.write(asdict(entry))
        except OSError as error:
            self._end_segment()
            raise UserError(
                f"{self.folder}: an answer could not be written ({error.strerror}); make room and run again: every "
                "earlier answer is safe"
            ) from error
        self._count(line.record, _Place(len(self._segments) - 1, line.offset, line.length))

    def spend(self) -> list[Spend]:
        """Replies and tokens by purpose and model, sorted."""
        return [
            Spend(purpose, model, tally.replies, tally.failed, Usage(tally.input, tally.output, tally.cached))
            for (purpose, model), tally in sorted(self._tallies.items())
        ]

    def entries(self) -> Iterator[Entry]:
        """Every line in the order of writing, those that are no answers included, read from disk."""
        for path in self._segments:
            for line in read_segment(path):
                known = {name: line.record[name] for name in _ENTRY_KEYS}
                yield Entry(**{**known, "usage": Usage(**known["usage"])})

    def close(self) -> None:
        """Close the segment and release the lock. Closing twice is allowed."""
        self._end_segment()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _load(self, index: int) -> None:
        path = self._segments[index]
        for number, line in enumerate(read_segment(path), start=1):
            try:
                if not line.record.keys() >= _ENTRY_KEYS:
                    raise KeyError(*sorted(_ENTRY_KEYS - line.record.keys()))
                self._count(line.record, _Place(index, line.offset, line.length))
            except (KeyError, TypeError) as error:
                raise DataError(
                    f"{path}, line {number}: not an answer as this version writes it ({error!r}); expected the keys "
                    f"{', '.join(sorted(_ENTRY_KEYS))}; restore the file from a copy"
                ) from error

    def _count(self, record: Mapping[str, Any], place: _Place) -> None:
        if record["finish"] == "stop":
            self._places.setdefault(record["key"], place)
        group = (record["purpose"], record["model"])
        if group not in self._tallies:
            self._tallies[group] = _Tally()
        self._tallies[group].add(record)

    def _new_segment(self) -> Segment:
        number = int(self._segments[-1].stem) + 1 if self._segments else 1
        path = self.folder / f"{number:06d}.jsonl"
        segment = Segment(path)
        self._segments.append(path)
        return segment

    def _end_segment(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None
