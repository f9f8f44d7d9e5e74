"""One part of the plan, harvested: its sketch as Parquet, and last its completion marker.

shards/00000/features.parquet    feature, n_tokens, n_windows, n_documents, total, total_squares, maximum
shards/00000/histograms.parquet  feature, split, bin, n_windows
shards/00000/contexts.parquet    feature, kind, split, bin, key, window_id, peak, peak_position, positions, activations
shards/00000/COMPLETE.json
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from autointerp.catalog.records import SPLITS
from autointerp.files import write_atomically
from autointerp.harvest.keep import Rows
from autointerp.harvest.sketch import Sketch, bin_of, split_cells

_SPLIT_NAMES = pa.array(SPLITS)


def write_shard(sketch: Sketch, folder: Path) -> None:
    """Write the sketch's tables; the caller writes the marker."""
    _write(_features(sketch), folder / "features.parquet")
    cells, counts = sketch.histogram()
    feature, split, bins = split_cells(cells)
    histograms = {"feature": feature.astype(np.uint32), "split": _split_names(split), "bin": bins.astype(np.int16)}
    _write(pa.table(histograms | {"n_windows": counts.astype(np.uint64)}), folder / "histograms.parquet")
    _write(pa.concat_tables(_contexts(sketch)), folder / "contexts.parquet")


def _features(sketch: Sketch) -> pa.Table:
    alive = np.flatnonzero(sketch.n_tokens)
    return pa.table({
        "feature": alive.astype(np.uint32),
        "n_tokens": sketch.n_tokens[alive].astype(np.uint64),
        "n_windows": sketch.n_windows[alive].astype(np.uint64),
        "n_documents": sketch.n_documents[alive].astype(np.uint64),
        "total": sketch.total[alive],
        "total_squares": sketch.total_squares[alive],
        "maximum": sketch.maximum[alive],
    })  # fmt: skip


def _contexts(sketch: Sketch) -> list[pa.Table]:
    top = sketch.top.rows()
    feature, split = np.divmod(top.cell, 3)
    tables = [_table("top", top, feature, split, bin_of(top.peak))]
    for kind, rows in (("band", sketch.sample.rows()), ("random", sketch.pool())):
        tables.append(_table(kind, rows, *split_cells(rows.cell)))
    return tables


def _table(
    kind: str, rows: Rows, feature: NDArray[np.int64], split: NDArray[np.int64], bins: NDArray[np.int64]
) -> pa.Table:
    return pa.table({
        "feature": feature.astype(np.uint32),
        "kind": pa.DictionaryArray.from_arrays(np.zeros(len(rows), np.int8), pa.array([kind])),
        "split": _split_names(split),
        "bin": bins.astype(np.int16),
        "key": rows.key,
        "window_id": rows.window,
        "peak": rows.peak,
        "peak_position": rows.peak_position,
        "positions": pa.LargeListArray.from_arrays(rows.offsets, pa.array(rows.positions)),
        "activations": pa.LargeListArray.from_arrays(rows.offsets, pa.array(rows.values)),
    })  # fmt: skip


def _split_names(split: NDArray[np.int64]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(split.astype(np.int8), _SPLIT_NAMES)


def _write(table: pa.Table, path: Path) -> None:
    write_atomically(path, lambda partial: pq.write_table(table, partial, compression="zstd"))
