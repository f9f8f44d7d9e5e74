"""What the harvest remembers of every feature: exact counts, a histogram of window peaks, and samples of windows.

Pure numpy: knows nothing of models, files or databases. Everything here merges associatively, so shards can be cut anywhere
between documents. Memory: features × (counts + occupied histogram bins × k samples), whatever the number of tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autointerp.harvest.keep import Keep, Rows
from autointerp.hashing import sample_key

BINS_PER_OCTAVE = 4
_BIN_SPAN = 2048  # float32 exponents × 4 fit with room to spare
POSITION_BUCKETS = 8
_QUARTERS = np.array([2**0.25, 2**0.5, 2**0.75], dtype=np.float32)


def bin_of(peak: NDArray[np.float32]) -> NDArray[np.int64]:
    """Histogram bin of positive values: bin b holds [2^(b/4), 2^((b+1)/4)). Exact and the same on every machine."""
    mantissa, exponent = np.frexp(peak)
    return (exponent.astype(np.int64) - 1) * BINS_PER_OCTAVE + np.searchsorted(_QUARTERS, 2 * mantissa, side="right")


def peak_key(peak: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Keys that sort positive floats from large to small: positive floats compare as their bits do.

    Peaks that agree in their first 12 binary digits are ties, which the window id breaks. Without that, the same text at the
    start of two windows (a licence, a greeting) would be ordered by the rounding of the matrix product, which depends on
    the shape of the batch.
    """
    bits = np.ascontiguousarray(peak, dtype=np.float32).view(np.uint32) >> np.uint32(23 - 12)
    return np.uint64(0xFFFFFFFF) - bits.astype(np.uint64)


def _upper_half(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first 24 binary digits of each value."""
    return (value.view(np.uint64) & np.uint64(0xFFFFFFFFE0000000)).view(np.float64)


@dataclass(frozen=True, slots=True)
class Firings:
    """Activations of a batch of windows, sorted by (feature, window, position): nnz entries.

    `feature` int32; `row` int32, index of the window within the batch; `position` uint16; `value` float32 > 0. `read` uint16
    [n]: the position of every token that was read, whether anything fires on it or not.
    """

    feature: NDArray[np.int32]
    row: NDArray[np.int32]
    position: NDArray[np.uint16]
    value: NDArray[np.float32]
    read: NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class BatchWindows:
    """The windows that `Firings.row` indexes: ids, documents, splits (index into SPLITS), membership of the random pool."""

    window_id: NDArray[np.uint64]
    doc: NDArray[np.uint32]
    split: NDArray[np.uint8]
    in_pool: NDArray[np.bool_]


class ExactSum:
    """Sums whose rounding does not show, whatever the order of the addends: a second float64 holds what the first loses.

    What is added should be exact: sums of a batch's values are, as long as these lie within a factor of some ten thousand.

    Knuth's TwoSum (The Art of Computer Programming, vol. 2, 4.2.2). `high` and `low`: float64 [n]; the sum is high + low.
    """

    def __init__(self, n: int) -> None:
        self.high, self.low = np.zeros(n), np.zeros(n)

    def add(self, index: NDArray[np.integer], value: NDArray[np.float64]) -> None:
        """Add value[i] to the sum index[i]; no index may come twice."""
        high = self.high[index]
        total = high + value
        part = total - high
        self.low[index] += (high - (total - part)) + (value - part)
        self.high[index] = total

    @property
    def nbytes(self) -> int:
        return self.high.nbytes + self.low.nbytes


class Sketch:
    """Streaming summary of `n_features` features. Documents must arrive one after the other, never interleaved.

    `top` and `per_band` are numbers of windows for each split, in the order of SPLITS; `window` is the tokens of a full one.
    Without `whole_pool` only the peak of each of the pool's windows is kept: neurons fire on half of all tokens.
    """

    def __init__(
        self, n_features: int, *, top: Sequence[int], per_band: Sequence[int], seed: int, window: int,
        whole_pool: bool = True,
    ) -> None:  # fmt: skip
        self.n_features, self.seed, self.window, self.whole_pool = n_features, seed, window, whole_pool
        self.n_tokens = np.zeros(n_features, np.int64)
        self.n_windows = np.zeros(n_features, np.int64)
        self.n_documents = np.zeros(n_features, np.int64)
        self.total = ExactSum(n_features)
        self.total_squares = ExactSum(n_features)
        self.maximum = np.zeros(n_features, np.float32)
        self.positions = np.zeros((n_features, POSITION_BUCKETS), np.int64)
        self.tokens_read = np.zeros(POSITION_BUCKETS, np.int64)
        self.top = Keep(top, span=1, n_cells=3 * n_features)
        self.sample = Keep(per_band, span=_BIN_SPAN, n_cells=3 * n_features * _BIN_SPAN)
        self._pool: list[Rows] = []
        self._last_doc = np.full(n_features, -1, np.int64)
        self._cells: list[NDArray[np.int64]] = []
        self._cell_count = 0
        self._histogram = (np.zeros(0, np.int64), np.zeros(0, np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes held, buffers included."""
        per_feature = (self.n_tokens, self.n_windows, self.n_documents, self.maximum, self.positions, self._last_doc)
        arrays: list[NDArray[Any]] = [*per_feature, *self._cells, *self._histogram]
        held = sum(array.nbytes for array in arrays)
        sums = self.total.nbytes + self.total_squares.nbytes
        return held + sums + self.top.nbytes + self.sample.nbytes + sum(rows.nbytes for rows in self._pool)

    def update(self, firings: Firings, windows: BatchWindows) -> None:
        """Add a batch of windows."""
        self.tokens_read += np.bincount(self._bucket(firings.read), minlength=POSITION_BUCKETS)
        if len(firings.feature) == 0:
            return
        self._add_moments(firings)
        pairs = _pairs(firings, windows)
        self._add_windows(pairs)
        split_cell = pairs.cell * 3 + windows.split[pairs.row]
        bins = bin_of(pairs.peak)
        self._add_histogram(_bin_cell(split_cell, bins))

        key = peak_key(pairs.peak)
        wanted = np.flatnonzero(self.top.may_enter(split_cell, key))
        self.top.add(_rows(firings, pairs, windows, wanted, split_cell, key))

        bin_cell = _bin_cell(split_cell, bins)
        key = sample_key(self.seed, pairs.cell.astype(np.uint64), windows.window_id[pairs.row])
        wanted = np.flatnonzero(self.sample.may_enter(bin_cell, key))
        self.sample.add(_rows(firings, pairs, windows, wanted, bin_cell, key))

        pooled = np.flatnonzero(windows.in_pool[pairs.row])
        if len(pooled):
            rows = _rows(firings, pairs, windows, pooled, bin_cell, key)
            self._pool.append(rows if self.whole_pool else rows.peaks())

    def histogram(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Occupied cells (see `split_cells`) and the number of windows in each."""
        self._fold_histogram()
        return self._histogram

    def pool_blocks(self) -> list[Rows]:
        """Every activation of the pool's windows, in pieces."""
        return self._pool

    def _add_moments(self, firings: Firings) -> None:
        starts = np.flatnonzero(np.diff(firings.feature, prepend=-1))
        features = firings.feature[starts]
        value = firings.value.astype(np.float64)
        self.n_tokens[features] += np.diff(np.append(starts, len(value)))
        self.total.add(features, np.add.reduceat(value, starts))
        squares = value * value
        upper = _upper_half(squares)  # short numbers are added without rounding, so that a batch's size does not show
        self.total_squares.add(features, np.add.reduceat(upper, starts))
        self.total_squares.add(features, np.add.reduceat(squares - upper, starts))
        self.maximum[features] = np.maximum(self.maximum[features], np.maximum.reduceat(firings.value, starts))
        cells = firings.feature.astype(np.int64) * POSITION_BUCKETS + self._bucket(firings.position)
        self.positions += np.bincount(cells, minlength=self.positions.size).reshape(self.positions.shape)

    def _bucket(self, position: NDArray[np.uint16]) -> NDArray[np.int64]:
        """Which of the equal parts of a window a position is in."""
        return position.astype(np.int64) * POSITION_BUCKETS // self.window

    def _add_windows(self, pairs: "_Pairs") -> None:
        starts = np.flatnonzero(np.diff(pairs.cell, prepend=-1))
        features = pairs.cell[starts]
        self.n_windows[features] += np.diff(np.append(starts, len(pairs.cell)))
        # Pairs are sorted by (feature, window) and windows by document, so a new document shows as a change.
        previous = np.concatenate([[-1], pairs.doc[:-1]])
        previous[starts] = self._last_doc[features]
        new = pairs.doc != previous
        self.n_documents += np.bincount(pairs.cell[new], minlength=self.n_features)
        self._last_doc[features] = pairs.doc[np.append(starts[1:], len(pairs.cell)) - 1]

    def _add_histogram(self, cells: NDArray[np.int64]) -> None:
        self._cells.append(cells)
        self._cell_count += len(cells)
        if self._cell_count >= 1_000_000:
            self._fold_histogram()

    def _fold_histogram(self) -> None:
        if not self._cells:
            return
        new, counts = np.unique(np.concatenate(self._cells), return_counts=True)
        self._cells, self._cell_count = [], 0
        cells, inverse = np.unique(np.concatenate([self._histogram[0], new]), return_inverse=True)
        both = np.concatenate([self._histogram[1], counts])
        self._histogram = (cells, np.bincount(inverse, weights=both, minlength=len(cells)).astype(np.int64))


def split_cells(cells: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Feature, split and bin of histogram and sample cells."""
    outer, bins = np.divmod(cells.astype(np.int64), _BIN_SPAN)
    return outer // 3, outer % 3, bins - _BIN_SPAN // 2


def _bin_cell(split_cell: NDArray[np.int64], bins: NDArray[np.int64]) -> NDArray[np.int64]:
    return split_cell * _BIN_SPAN + bins + _BIN_SPAN // 2


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Distinct (feature, window) pairs of a batch: where each begins in the firings, and its peak."""

    cell: NDArray[np.int64]  # the feature
    row: NDArray[np.int32]
    doc: NDArray[np.int64]
    offsets: NDArray[np.int64]
    peak: NDArray[np.float32]


def _pairs(firings: Firings, windows: BatchWindows) -> _Pairs:
    code = firings.feature.astype(np.int64) * len(windows.window_id) + firings.row
    starts = np.flatnonzero(np.diff(code, prepend=-1))
    row = firings.row[starts]
    return _Pairs(
        cell=firings.feature[starts].astype(np.int64),
        row=row,
        doc=windows.doc[row].astype(np.int64),
        offsets=np.append(starts, len(code)).astype(np.int64),
        peak=np.maximum.reduceat(firings.value, starts),
    )


def _rows(
    firings: Firings, pairs: _Pairs, windows: BatchWindows, wanted: NDArray[np.intp], cell: NDArray[np.int64],
    key: NDArray[np.uint64],
) -> Rows:  # fmt: skip
    """The wanted pairs with their payloads."""
    lengths = np.diff(pairs.offsets)[wanted]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    entries = np.repeat(pairs.offsets[:-1][wanted] - offsets[:-1], lengths) + np.arange(offsets[-1])
    values, positions = firings.value[entries], firings.position[entries]
    owner = np.repeat(np.arange(len(wanted)), lengths)
    at_peak = np.flatnonzero(values == np.repeat(pairs.peak[wanted], lengths))
    # A peak reached twice counts where it is first.
    first = at_peak[np.flatnonzero(np.diff(owner[at_peak], prepend=-1))]
    return Rows(
        cell=cell[wanted],
        key=key[wanted],
        window=windows.window_id[pairs.row[wanted]],
        peak=pairs.peak[wanted],
        peak_position=positions[first],
        lengths=lengths.astype(np.uint16),
        positions=positions,
        values=values,
    )
