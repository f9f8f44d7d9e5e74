"""Where each answer is: sorted runs on disk, and a small dict of what is new. Memory does not grow with the answers.

A log-structured merge tree (O'Neil, Cheng, Gawlick, O'Neil 1996): what is new becomes a run; runs are merged so that each
is more than twice all that came after it, which leaves a few. An answer is written about 9 times in a journal of
millions, and a quarter of a byte of it stays in memory. The first answer to a key stands.

SQLite was tried for this. Keys are random, so nearly every new one is on a page of its own that must be written twice:
10 GB for 4 million answers (1 GB here), with pauses of half a second (a quarter); and a million answers, sorted, took
1.9 s to put in (0.6 s).
"""

import hashlib
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autointerp.llm.index_runs import RECORD, Records, Run, merged, new_run, ordered

_OFFSET_BITS = 40  # of a place: segments of up to 1 TB, 16 million of them
_LOADED_AT_ONCE = 262_144  # answers
_FEW = 8192  # answers that are rather put in one by one than merged with all
_RATIO = 2
_MISSES = 8192
_PLACE = struct.Struct("<QI")


class Place(NamedTuple):
    """A line: the segment's position in the journal's list, byte offset and length."""

    segment: int
    offset: int
    length: int


class Index:
    """`extend` in bulk while loading, then `finish`; from then on `add` and `find`, and `flush` now and then.

    `folder` is where runs are kept, None where nothing may be left behind. `runs` are those of before, oldest first.
    """

    def __init__(self, folder: Path | None, runs: Sequence[Run] = ()) -> None:
        self._folder = folder
        self.runs = list(runs)
        self._new: dict[bytes, Place] = {}
        self._missing: set[bytes] = set()  # looked for and not found: what is asked for is mostly added soon after
        self._loading: list[Records] = []
        self._n_loading = 0
        self._has_spilled = False

    def __len__(self) -> int:
        return sum(run.count for run in self.runs) + len(self._new)

    def extend(self, keys: Sequence[str], segment: int, offsets: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        """Take the answers of one block of a segment. They are found after `finish`, and nothing is to be looked for before."""
        if not keys:
            return
        records = np.empty(len(keys), RECORD)
        records["key"] = np.frombuffer(_joined_digests(keys), "S16")
        records["place"] = (segment << _OFFSET_BITS) | offsets
        records["length"] = lengths
        self._loading.append(records)
        self._n_loading += len(keys)
        if self._n_loading >= _LOADED_AT_ONCE:
            self._spill()

    def finish(self) -> None:
        """Take in what was loaded; of equal keys the one that came first stays."""
        if self._has_spilled or self._n_loading > _FEW:
            self._spill()
            self._merge(0)  # keys that are in two runs would be counted twice
            self._has_spilled = False
            return
        for records in self._loading:
            for digest, packed, length in zip(
                _digests(records), records["place"].tolist(), records["length"].tolist(), strict=True
            ):
                self._add(digest, _unpacked(packed, length))
        self._loading, self._n_loading = [], 0

    def add(self, key: str, place: Place) -> None:
        self._add(_digest(key), place)

    def find(self, key: str) -> Place | None:
        return self._find(_digest(key))

    def flush(self) -> None:
        """Make a run of what is new."""
        if self._new:
            records = np.empty(len(self._new), RECORD)
            records["key"] = np.frombuffer(b"".join(self._new), "S16")
            places = self._new.values()
            records["place"] = [place.segment << _OFFSET_BITS | place.offset for place in places]
            records["length"] = [place.length for place in places]
            self._append(records)
            self._new = {}

    def close(self) -> None:
        """Close the runs. Closing twice is allowed."""
        while self.runs:
            self.runs.pop().close()

    def _add(self, digest: bytes, place: Place) -> None:
        if digest in self._missing or self._find(digest) is None:
            self._new[digest] = place
            self._missing.discard(digest)

    def _find(self, digest: bytes) -> Place | None:
        found = self._new.get(digest)
        if found is not None:
            return found
        for run in self.runs:
            record = run.find(digest)
            if record is not None:
                return _unpacked(*_PLACE.unpack(record))
        if len(self._missing) >= _MISSES:
            self._missing.clear()
        self._missing.add(digest)
        return None

    def _spill(self) -> None:
        loaded, self._loading, self._n_loading = self._loading, [], 0
        if loaded:
            self._has_spilled = True
            self._append(np.concatenate(loaded))

    def _append(self, records: Records) -> None:
        records = ordered(records)
        self.runs.append(new_run(self._folder, lambda: [records]))
        after = sum(run.count for run in self.runs)
        for begin, run in enumerate(self.runs):
            after -= run.count
            if run.count <= _RATIO * after:
                self._merge(begin)
                return

    def _merge(self, begin: int) -> None:
        """Make one run of all from `begin` on."""
        old = self.runs[begin:]
        if len(old) > 1:
            self.runs[begin:] = [new_run(self._folder, lambda: merged(old))]
            for run in old:
                run.close()


def _unpacked(packed: int, length: int) -> Place:
    return Place(packed >> _OFFSET_BITS, packed & ((1 << _OFFSET_BITS) - 1), length)


def _digest(key: str) -> bytes:
    """16 bytes for a key: those that its hexadecimal digits stand for, or a hash if it is no such key."""
    try:
        digest = bytes.fromhex(key)
    except ValueError:
        digest = b""
    if len(digest) == 16 and digest.hex() == key:
        return digest
    return hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=16).digest()


def _joined_digests(keys: Sequence[str]) -> bytes:
    """The digests of all keys, one after the other; the usual keys are converted in one go."""
    if set(map(len, keys)) == {32}:
        text = "".join(keys)
        try:
            joined = bytes.fromhex(text)
        except ValueError:
            joined = b""
        if joined.hex() == text:
            return joined
    return b"".join(map(_digest, keys))


def _digests(records: Records) -> list[bytes]:
    """The keys of records, with the zeros at their ends, which numpy's own conversion drops."""
    joined = np.ascontiguousarray(records["key"]).tobytes()
    return [joined[start : start + 16] for start in range(0, len(joined), 16)]
