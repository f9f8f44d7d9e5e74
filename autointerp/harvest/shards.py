"""A run of parts of the plan, harvested: one sketch for each dictionary as Parquet, and last the completion marker.

shards/00003-00008/COMPLETE.json              parts 3 to 7 are in it; SHA-256 of the files
shards/00003-00008/0/features.parquet         feature, n_tokens, n_windows, n_documents, maximum, positions; sums as pairs of
                                              float64 (total, total_low; total_squares, total_squares_low); its metadata
                                              counts the tokens that were read, by position
shards/00003-00008/0/histograms.parquet       feature, split, bin, n_windows
shards/00003-00008/0/contexts.parquet         feature, kind, split, bin, key, window_id, peak, peak_position, positions,
                                              activations

A process that goes on harvesting writes its sketch anew now and then, under a longer name, and deletes the shorter: a sketch
is bounded, so what has been harvested is always a few folders, one for each time that the work was begun.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from autointerp.catalog.records import SPLITS
from autointerp.files import read_marker, write_atomically, write_marker
from autointerp.harvest.keep import Rows
from autointerp.harvest.sketch import Sketch, bin_of, split_cells

_FILES = ("features.parquet", "histograms.parquet", "contexts.parquet")
_SPLIT_NAMES = pa.array(SPLITS)
_ROW_GROUP = 1 << 16  # small enough for the merge to skip those of other features
_KINDS = ["top", "band", "random"]
_NAME = pa.dictionary(pa.int8(), pa.string())
_CONTEXTS = pa.schema({
    "feature": pa.uint32(), "kind": _NAME, "split": _NAME, "bin": pa.int16(), "key": pa.uint64(), "window_id": pa.uint64(),
    "peak": pa.float32(), "peak_position": pa.uint16(), "positions": pa.large_list(pa.uint16()),
    "activations": pa.large_list(pa.float32()),
})  # fmt: skip


@dataclass(frozen=True, slots=True, order=True)
class Shard:
    """Parts begin … end − 1 of the plan, complete in `folder`."""

    begin: int
    end: int
    folder: Path
    n_tokens: int


def write_shard(sketches: Sequence[Sketch], root: Path, begin: int, end: int, fingerprint: str, n_tokens: int) -> Path:
    """Write the sketches of parts begin … end − 1, one for each dictionary, and mark them complete."""
    folder = root / _name(begin, end)
    (folder / "COMPLETE.json").unlink(
        missing_ok=True
    )  # of a run with other settings: it does not speak for these files
    for index, sketch in enumerate(sketches):
        write_sketch(sketch, folder / str(index))
    names = [f"{index}/{name}" for index in range(len(sketches)) for name in _FILES]
    facts = {"fingerprint": fingerprint, "begin": begin, "end": end, "n_tokens": n_tokens}
    write_marker(folder, facts | {"sha256": {name: _digest(folder / name) for name in names}})
    return folder


def _name(begin: int, end: int) -> str:
    return f"{begin:05d}-{end:05d}"


def foreign_shards(root: Path, fingerprint: str) -> list[Path]:
    """Complete shards of a harvest with other settings."""
    return [
        folder
        for folder in root.glob("*-*")
        if (read_marker(folder) or {}).get("fingerprint") not in (None, fingerprint)
    ]


def finished_shards(root: Path, fingerprint: str) -> list[Shard]:
    """Complete shards that do not overlap, in order. Others are ignored: their parts count as not done."""
    found = []
    for folder in root.glob("*-*"):
        facts = read_marker(folder) or {}
        with suppress(KeyError, TypeError, ValueError, OverflowError):  # a damaged marker marks nothing
            shard = Shard(int(facts["begin"]), int(facts["end"]), folder, int(facts["n_tokens"]))
            if facts["fingerprint"] == fingerprint and folder.name == _name(shard.begin, shard.end):
                found.append(shard)
    chosen: list[Shard] = []
    for shard in sorted(found, key=lambda shard: (shard.begin, -shard.end)):
        if not chosen or shard.begin >= chosen[-1].end:
            chosen.append(shard)
    return chosen


def missing_parts(n_parts: int, shards: Sequence[Shard]) -> list[int]:
    """Parts of the plan that no shard holds."""
    done = {part for shard in shards for part in range(shard.begin, min(shard.end, n_parts))}
    return [part for part in range(n_parts) if part not in done]


def share(n_parts: int, index: int, count: int) -> range:
    """The parts of worker `index` (1 … count): neighbouring ones, as equal in number as can be."""
    return range((index - 1) * n_parts // count, index * n_parts // count)


def remove(folder: Path) -> None:
    """Delete a shard, its marker first, so that none is ever taken for complete that is not."""
    (folder / "COMPLETE.json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def verify(folder: Path) -> None:
    """Compare a sketch's files with the digests in the shard's marker. Raises OSError or ValueError."""
    digests = (read_marker(folder.parent) or {}).get("sha256", {})
    for name in _FILES:
        if _digest(folder / name) != digests.get(f"{folder.name}/{name}"):
            raise ValueError(f"{folder / name} is not as it was written")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sketch(sketch: Sketch, folder: Path) -> None:
    _write(_features(sketch), folder / "features.parquet")
    cells, counts = sketch.histogram()
    feature, split, bins = split_cells(cells)
    histograms = {"feature": feature.astype(np.uint32), "split": _split_names(split), "bin": bins.astype(np.int16)}
    _write(pa.table(histograms | {"n_windows": counts.astype(np.uint64)}), folder / "histograms.parquet")
    _write_contexts(sketch, folder / "contexts.parquet")


def _features(sketch: Sketch) -> pa.Table:
    alive = np.flatnonzero(sketch.n_tokens)
    positions = sketch.positions[alive]
    return pa.table({
        "feature": alive.astype(np.uint32),
        "n_tokens": sketch.n_tokens[alive].astype(np.uint64),
        "n_windows": sketch.n_windows[alive].astype(np.uint64),
        "n_documents": sketch.n_documents[alive].astype(np.uint64),
        "total": sketch.total.high[alive], "total_low": sketch.total.low[alive],
        "total_squares": sketch.total_squares.high[alive], "total_squares_low": sketch.total_squares.low[alive],
        "maximum": sketch.maximum[alive],
        "positions": pa.FixedSizeListArray.from_arrays(positions.ravel(), positions.shape[1]),
    }).replace_schema_metadata({"tokens_read": json.dumps(sketch.tokens_read.tolist())})  # fmt: skip


def _write_contexts(sketch: Sketch, path: Path) -> None:
    """Piece after piece: a copy of everything would be as large as the sketch."""

    def write(partial: Path) -> None:
        few = ["feature", "kind", "split", "bin"]
        with pq.ParquetWriter(
            partial, _CONTEXTS, compression="zstd", compression_level=1, use_dictionary=few
        ) as writer:
            for table in _contexts(sketch):
                writer.write_table(table, row_group_size=_ROW_GROUP)

    write_atomically(path, write)


def _contexts(sketch: Sketch) -> Iterator[pa.Table]:
    for rows in sketch.top.blocks():
        feature, split = np.divmod(rows.cell.astype(np.int64), 3)
        yield _table("top", rows, feature, split, bin_of(rows.peak))
    for rows in sketch.sample.blocks():
        yield _table("band", rows, *split_cells(rows.cell))
    for rows in sketch.pool_blocks():
        yield _table("random", rows, *split_cells(rows.cell))


def _table(
    kind: str, rows: Rows, feature: NDArray[np.int64], split: NDArray[np.int64], bins: NDArray[np.int64]
) -> pa.Table:
    offsets = rows.offsets
    return pa.table({
        "feature": feature.astype(np.uint32),
        "kind": pa.DictionaryArray.from_arrays(np.full(len(rows), _KINDS.index(kind), np.int8), pa.array(_KINDS)),
        "split": _split_names(split),
        "bin": bins.astype(np.int16),
        "key": rows.key,
        "window_id": rows.window,
        "peak": rows.peak,
        "peak_position": rows.peak_position,
        "positions": pa.LargeListArray.from_arrays(offsets, pa.array(rows.positions)),
        "activations": pa.LargeListArray.from_arrays(offsets, pa.array(rows.values)),
    }, schema=_CONTEXTS)  # fmt: skip


def _split_names(split: NDArray[np.int64]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(split.astype(np.int8), _SPLIT_NAMES)


def _write(table: pa.Table, path: Path) -> None:
    write_atomically(path, lambda partial: pq.write_table(table, partial, compression="zstd"))
