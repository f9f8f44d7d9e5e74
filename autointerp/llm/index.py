"""Where each answer is: sorted numpy arrays of 128-bit keys, 28 bytes an answer, and a small dict of what is new.

The dict is merged into the arrays when it holds a sixteenth of them, so that a run of any length takes about 50 bytes an
answer. The first answer to a key stands.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_OFFSET_BITS = 40  # of a place: segments of up to 1 TB, 16 million of them
_SMALLEST_MERGE = 16_384


class Place(NamedTuple):
    """A line: the segment's position in the journal's list, byte offset and length."""

    segment: int
    offset: int
    length: int


class Run(NamedTuple):
    """Parallel arrays over answers: the halves of the key, the packed segment and offset, the length."""

    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    place: NDArray[np.uint64]
    length: NDArray[np.uint32]


_EMPTY = Run(np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.uint32))


class Index:
    """`extend` in bulk while loading, then `finish`; from then on `add` and `find`."""

    def __init__(self, run: Run | None = None) -> None:
        self._run = _EMPTY if run is None else run
        self._loading: list[Run] = []
        self._new: dict[bytes, Place] = {}

    def __len__(self) -> int:
        return len(self._run.high) + len(self._new)

    def extend(self, keys: Sequence[str], segment: int, offsets: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        """Take the answers of one block of a segment. They are found after `finish`."""
        high, low = _halves(_joined_digests(keys))
        place = (np.uint64(segment) << np.uint64(_OFFSET_BITS)) | offsets.astype(np.uint64)
        self._loading.append(Run(high, low, place, lengths.astype(np.uint32)))

    def finish(self) -> None:
        """Sort what was taken; of equal keys the one that came first stays."""
        if not self._loading:
            return
        parts, self._loading = [self._run, *self._loading], []
        high, low, place, length = (np.concatenate([part[column] for part in parts]) for column in range(4))
        del parts
        order = np.lexsort((low, high))  # stable
        high, low = high[order], low[order]
        first = np.ones(len(order), dtype=bool)
        first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        order = order[first]
        self._run = Run(high[first], low[first], place[order], length[order])

    def add(self, key: str, place: Place) -> None:
        if self.find(key) is None:
            self._new[_digest(key)] = place
            if len(self._new) >= max(_SMALLEST_MERGE, len(self._run.high) // 16):
                self._merge()

    def find(self, key: str) -> Place | None:
        digest = _digest(key)
        found = self._new.get(digest)
        if found is not None:
            return found
        run = self._run
        high, low = np.uint64(int.from_bytes(digest[:8], "big")), np.uint64(int.from_bytes(digest[8:], "big"))
        at = int(run.high.searchsorted(high))
        while at < len(run.high) and run.high[at] == high:
            if run.low[at] == low:
                packed = int(run.place[at])
                return Place(packed >> _OFFSET_BITS, packed & ((1 << _OFFSET_BITS) - 1), int(run.length[at]))
            at += 1
        return None

    def merged(self) -> Run:
        """All answers, sorted by key."""
        self._merge()
        return self._run

    def _merge(self) -> None:
        """Insert the new answers where they belong: one pass over the arrays, no sorting of them."""
        digests, places = list(self._new), list(self._new.values())
        high, low = _halves(b"".join(digests))
        order = np.lexsort((low, high))
        packed = np.array([place.segment << _OFFSET_BITS | place.offset for place in places], np.uint64)
        lengths = np.array([place.length for place in places], np.uint32)
        run = self._run
        at = run.high.searchsorted(high[order])  # among equal high halves any order will do: `find` looks at all
        self._run = Run(
            np.insert(run.high, at, high[order]),
            np.insert(run.low, at, low[order]),
            np.insert(run.place, at, packed[order]),
            np.insert(run.length, at, lengths[order]),
        )
        self._new = {}


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


def _halves(digests: bytes) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    pairs = np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2)
    return np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])
