"""For every cell, the k rows with the smallest (key, window): one mechanism for top-n and for bottom-k samples.

With key = the complement of the peak's float bits it keeps the strongest windows, ties broken by window id; with key = a
hash it keeps a uniform sample without replacement. Both are associative: rows may come in any order, batch or shard.
Pure numpy. A row carries a ragged payload, its non-zero positions and values. Memory is bounded by cells × k rows, plus a
buffer that is merged when it is full.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_BUFFER_ROWS = 200_000
_BLOCKS = 16


@dataclass(frozen=True, slots=True)
class Rows:
    """n rows with ragged payloads: row i owns the next lengths[i] entries of `positions` and `values`.

    `cell` of any integer type [n]; `key`, `window` uint64 [n]; `peak` float32 [n]; `peak_position`, `lengths` uint16 [n].
    """

    cell: NDArray[np.integer]
    key: NDArray[np.uint64]
    window: NDArray[np.uint64]
    peak: NDArray[np.float32]
    peak_position: NDArray[np.uint16]
    lengths: NDArray[np.uint16]
    positions: NDArray[np.uint16]
    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.cell)

    @property
    def nbytes(self) -> int:
        return sum(getattr(self, f.name).nbytes for f in fields(self))

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Row i owns entries offsets[i]:offsets[i+1]; [n + 1]."""
        return np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    def take(self, index: NDArray[np.intp]) -> "Rows":
        """The rows at `index`, in that order, with their payloads."""
        lengths = self.lengths[index]
        ends = np.cumsum(lengths, dtype=np.int64)
        entries = np.repeat(self.offsets[:-1][index] - ends + lengths, lengths) + np.arange(
            ends[-1] if len(ends) else 0
        )
        plain = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name not in _PAYLOAD}
        return Rows(**plain, positions=self.positions[entries], values=self.values[entries])

    def peaks(self) -> "Rows":
        """The same rows with the peak for all payload."""
        return replace(self, lengths=np.ones_like(self.lengths), positions=self.peak_position, values=self.peak)


_PAYLOAD = ("positions", "values")


def no_rows() -> Rows:
    empty = {
        "cell": np.int64, "key": np.uint64, "window": np.uint64, "peak": np.float32, "peak_position": np.uint16,
        "lengths": np.uint16, "positions": np.uint16, "values": np.float32,
    }  # fmt: skip
    return Rows(**{name: np.zeros(0, kind) for name, kind in empty.items()})


def concatenate(parts: Sequence[Rows]) -> Rows:
    return Rows(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Rows)})


class Keep:
    """The k smallest rows of every cell among all that were added.

    Cells number 0 … n_cells − 1. They come in classes (the splits), each with a k of its own, at least 1: cell c belongs to class
    (c // span) mod len(k). Rows are held in blocks of neighbouring cells, so that a merge copies one block at a time.
    """

    def __init__(self, k: Sequence[int], *, span: int, n_cells: int) -> None:
        self._k = np.asarray(k, np.int64)
        self._span = span
        self._cell = np.uint32 if n_cells <= 1 << 32 else np.int64
        self._bounds = np.linspace(0, n_cells, _BLOCKS + 1).astype(np.int64)
        self._kept = [replace(no_rows(), cell=np.zeros(0, self._cell)) for _ in range(_BLOCKS)]
        self._buffer: list[Rows] = []
        self._buffered = self._n_kept = 0
        self._full_cells = np.zeros(0, np.int64)
        self._limits = np.zeros(0, np.uint64)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(rows.nbytes for rows in (*self._kept, *self._buffer)) + self._full_cells.nbytes + self._limits.nbytes

    def may_enter(self, cell: NDArray[np.int64], key: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """False for rows that are surely not among the k smallest of their cell; add only the others."""
        if len(self._full_cells) == 0:
            return np.ones(len(cell), np.bool_)
        at = np.minimum(np.searchsorted(self._full_cells, cell), len(self._full_cells) - 1)
        # Equal keys stay: the window id decides, and that is the merge's business.
        wanted: NDArray[np.bool_] = (self._full_cells[at] != cell) | (key <= self._limits[at])
        return wanted

    def add(self, rows: Rows) -> None:
        if len(rows) == 0:
            return
        self._buffer.append(replace(rows, cell=rows.cell.astype(self._cell)))
        self._buffered += len(rows)
        if self._buffered >= max(_BUFFER_ROWS, self._n_kept // 4):
            self._merge()

    def blocks(self) -> list[Rows]:
        """All kept rows, sorted by (cell, key, window), in pieces."""
        self._merge()
        return self._kept

    def _merge(self) -> None:
        if not self._buffer:
            return
        fresh, self._buffer, self._buffered = self._buffer, [], 0
        full, limits = [], []
        for index, (begin, end) in enumerate(pairwise(self._bounds)):
            mine = [rows.take(np.flatnonzero((rows.cell >= begin) & (rows.cell < end))) for rows in fresh]
            self._kept[index], cells, keys = self._smallest(concatenate([self._kept[index], *mine]))
            full.append(cells)
            limits.append(keys)
        self._n_kept = sum(map(len, self._kept))
        self._full_cells, self._limits = np.concatenate(full), np.concatenate(limits)

    def _smallest(self, rows: Rows) -> tuple[Rows, NDArray[np.int64], NDArray[np.uint64]]:
        """The rows that stay, sorted; the cells that are full, and the largest key that each of these holds."""
        if len(rows) == 0:
            return rows, np.zeros(0, np.int64), np.zeros(0, np.uint64)
        order = np.lexsort((rows.window, rows.key, rows.cell))
        cell = rows.cell[order].astype(np.int64)
        first = np.flatnonzero(np.concatenate([[True], cell[1:] != cell[:-1]]))
        sizes = np.diff(np.append(first, len(cell)))
        k = self._k[cell[first] // self._span % len(self._k)]
        rank = np.arange(len(cell)) - np.repeat(first, sizes)
        full = np.flatnonzero(sizes >= k)
        limits = rows.key[order[first[full] + k[full] - 1]]
        return rows.take(order[rank < np.repeat(k, sizes)]), cell[first[full]], limits
