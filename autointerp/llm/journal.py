"""The journal: every delivered answer, append-only, so that nothing is asked or paid for twice.

A folder of segments, `000001.jsonl`, `000002.jsonl`, …: one JSON object a line, one line an answer. A segment is
written by one process, once, and never appended to by another: so a line that a crash tore can only be the last of
its segment. It is ignored (its answer was never returned by `ask`); any other line that can't be read is damage and
stops the load. `compact` makes one segment of all.

A line with `finish` other than "stop" is a reply that was paid for but is no answer (refused, cut short, empty). It
counts in `spend` and is not found by `get`, so a later run asks again.

Texts and the index stay on disk: memory does not grow with the number of answers.
"""

import os
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import numpy as np

from autointerp.errors import DataError, UserError
from autointerp.llm.compaction import Compaction, write_compacted
from autointerp.llm.entry import ANSWER, Entry, answer_of, from_record, to_record
from autointerp.llm.index import Index, Place
from autointerp.llm.index_state import START, Position, StateFile, index_folder, write_state
from autointerp.llm.rows import entry_of, read_rows
from autointerp.llm.segment_folder import list_segments, need_folder, next_segment, sweep
from autointerp.llm.segments import OpenSegments, Segment, parse_line, read_blocks, read_lines, take_lock
from autointerp.llm.tally import Calibration, Spend, Tallies
from autointerp.llm.types import Answer

__all__ = ["Entry", "Journal", "Spend"]

_LOCK_NAME = "lock"
_LINES_BETWEEN_SAVES = 8192  # of the index; so many are parsed again at the next start, and so many keys are in memory
_LISTINGS = 10  # a compaction by another process may remove segments as a reader opens them


class Journal:
    """The journal in `folder`; opened for writing, it is created if missing and locked against other processes.

    `read_only` takes no lock: a reader may look on while a run writes, and sees what was there when it opened.
    Raises UserError if another process writes to it (or, read-only, if there is none) and DataError if it is damaged.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self.folder = folder
        self.read_only = read_only
        self._segment: Segment | None = None
        self._segments = OpenSegments()
        self._index = Index(None)
        self._unsaved = 0  # lines
        self._lock = -1
        if not read_only:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = take_lock(folder / _LOCK_NAME)
        else:
            need_folder(folder)
        try:
            self._load()
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
        return len(self._index)

    def __contains__(self, key: str) -> bool:
        return self._index.find(key) is not None

    @property
    def money(self) -> float:
        """US dollars spent on all replies whose price is known."""
        return self._tallies.money()

    def get(self, key: str) -> Answer | None:
        """The recorded answer, or None. If a key was recorded twice the first answer stands.

        Raises DataError if the segment was changed since it was loaded.
        """
        place = self._index.find(key)
        if place is None:
            return None
        try:
            record = parse_line(self._segments.read(*place)) or {}
            entry = from_record(record) if record.get("key") == key else None
        except (FileNotFoundError, msgspec.ValidationError):
            entry = None
        if entry is None:
            path = self._segments.paths[place.segment]
            raise DataError(f"{path} was changed while it was in use; expected the answer {key} at byte {place.offset}")
        return answer_of(entry, from_journal=True)

    def append(self, entry: Entry) -> None:
        """Record a reply; when this returns, the line is with the operating system and survives the end of the process.

        Raises UserError if it can't be written (a full disk): the line may then be torn, so the segment is given up and
        the next entry starts another.
        """
        self._need_writer()
        try:
            if self._segment is None:
                path = next_segment(self.folder)
                self._segment = Segment(path)
                self._next_line = 1
                self._segments.paths.append(path)
                self._sizes.append(0)
            offset = self._segment.size
            length = self._segment.write(to_record(entry))
        except OSError as error:
            self._end_segment()
            raise UserError(
                f"{self.folder}: an answer could not be written ({error.strerror}); make room and run again: every "
                "earlier answer is safe"
            ) from error
        self._sizes[-1] = offset + length
        self._next_line += 1
        self._unsaved += 1
        self._tallies.add(entry)
        if entry.finish == ANSWER:
            self._index.add(entry.key, Place(len(self._sizes) - 1, offset, length))
        self._save_index()

    def spend(self) -> list[Spend]:
        """Replies, tokens and money by purpose, provider and model, in this order."""
        return self._tallies.spend()

    def calibration(self, model: str) -> dict[str, Calibration]:
        """What replies of `model` took, by purpose; for estimates."""
        return self._tallies.calibration(model)

    def entries(self) -> Iterator[Entry]:
        """Every line in the order of writing, those that are no answers included, read from disk.

        Raises DataError if another process compacted the journal since it was opened.
        """
        for segment, size in enumerate(self._sizes):
            path = self._segments.paths[segment]
            try:
                fd = self._segments.descriptor(segment)
            except FileNotFoundError as error:
                raise DataError(
                    f"{path} is gone: the journal was compacted while it was read; read it again"
                ) from error
            for block in read_blocks(fd, size):
                for line in read_lines(path, block):
                    yield entry_of(path, line)

    def compact(self) -> Compaction:
        """Make one segment of all, in the order of time, in which every answer is there once.

        Replies, tokens and money stay what they are: `compaction` says what becomes of second answers. A crash at any
        moment leaves the journal as it was, or as it will be. Raises UserError if there is no room for the new segment.
        """
        self._need_writer()
        self._end_segment()
        listing = list_segments(self.folder)
        if not listing.segments or (len(listing.segments) == 1 and listing.headers):
            size = sum(path.stat().st_size for path in listing.segments)
            return Compaction(len(listing.segments), size, size, sum(h.lines for h in listing.headers.values()), 0)
        try:
            done = write_compacted(self._segments, self._index, next_segment(self.folder))
        except OSError as error:
            raise UserError(
                f"{self.folder}: it could not be compacted ({error.strerror}); make room for a second copy and try "
                "again: the journal is as it was"
            ) from error
        self._load()
        return done

    def close(self) -> None:
        """Close the segments and release the lock. Closing twice is allowed."""
        self._end_segment()
        if self._lock >= 0:
            self._save_index()
        self._segments.close()
        self._index.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _load(self) -> None:
        self._segments.close()
        self._sizes: list[int] = []
        self._unsaved = 0
        for attempt in range(_LISTINGS):
            try:
                with closing(StateFile(self.folder)) as saved:
                    listing = list_segments(self.folder)
                    if not self.read_only:
                        sweep(self.folder, listing)
                    self._segments = OpenSegments(listing.segments)
                    self._sizes = [self._segments.size(segment) for segment in range(len(listing.segments))]
                    self._read(saved)
                return
            except FileNotFoundError:
                self._segments.close()
                if attempt + 1 == _LISTINGS:
                    raise

    def _read(self, saved: StateFile) -> None:
        state = saved.fitting(self._segments)
        at, runs, self._tallies = (state.position, state.runs, state.tallies) if state else (START, [], Tallies())
        self._index.close()
        self._index = Index(None if self.read_only else index_folder(self.folder), runs)
        parsed = 0
        for segment in range(at.segment, len(self._sizes)):
            start = at if segment == at.segment else START
            fd = self._segments.descriptor(segment)
            for block in read_blocks(fd, self._sizes[segment], start.offset, start.line):
                rows, offsets, lengths, _ = read_rows(self._segments.paths[segment], block)
                self._tallies.add_many(rows)
                answers = np.array([row.finish == ANSWER for row in rows], dtype=bool)
                keys = [row.key for row in rows if row.finish == ANSWER]
                self._index.extend(keys, segment, offsets[answers], lengths[answers])
                parsed += len(rows)
        self._index.finish()
        self._unsaved = parsed  # only now: half a load must not be saved
        self._save_index()

    def _save_index(self) -> None:
        """Once in thousands of lines, let the index put on disk what it has in memory, and spare the next load the parsing.

        A disk that is too full for it is no error here.
        """
        if self.read_only or self._unsaved < _LINES_BETWEEN_SAVES:
            return
        self._unsaved = 0
        self._index.flush()
        position = Position(len(self._sizes), 0, 1)
        if self._segment is not None:
            position = Position(len(self._sizes) - 1, self._sizes[-1], self._next_line)
        with suppress(OSError):
            write_state(self.folder, self._segments, position, self._index.runs, self._tallies)

    def _need_writer(self) -> None:
        if self.read_only:
            raise ValueError("the journal was opened read-only")

    def _end_segment(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None
