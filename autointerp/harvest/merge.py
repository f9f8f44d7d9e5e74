"""All shards into the catalog: SQL over their Parquet files, in one transaction with what the model itself tells."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from string import Template

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from autointerp.catalog.records import SPLITS
from autointerp.catalog.store import Catalog
from autointerp.config import SampleConfig
from autointerp.errors import DataError
from autointerp.harvest.moments import moments
from autointerp.harvest.plan import Plan
from autointerp.harvest.shards import verify
from autointerp.subject.windows import per_split

# Rows of contexts that are merged at once: about 200 MB.
_ROWS_AT_ONCE = 400_000


def merge_shards(
    catalog: Catalog,
    plan: Plan,
    shards: Sequence[Path],
    features: NDArray[np.int64],
    sample: SampleConfig,
    *,
    d_sae: int,
) -> None:
    """Fill features, histograms, strata, contexts, windows and documents; the caller holds the transaction.

    Raises DataError for shards that cannot be read.
    """
    names: dict[str, object] = {
        "histograms": _files(shards, "histograms"), "contexts": _files(shards, "contexts"), "plan": _quoted(plan.folder),
        "n_bands": sample.bands, "window": plan.window,
    }  # fmt: skip
    splits = pa.table({
        "split": list(SPLITS), "n_windows": pa.array(plan.windows_per_split, pa.uint64()), "top": per_split(sample.top),
        "per_band": per_split(sample.per_band),
    })  # fmt: skip
    with _readable(shards, plan):
        for folder in shards:
            verify(folder)
        sums = moments((pq.read_table(folder / "features.parquet") for folder in shards), features, d_sae=d_sae)
        n_rows = sum(pq.read_metadata(folder / "contexts.parquet").num_rows for folder in shards)
    connection = catalog.connection
    connection.register("moments", sums)
    connection.register("splits", splits)
    try:
        with _readable(shards, plan):
            connection.execute(_script("merge_strata", names))
            for chunk in np.array_split(features, max(1, min(-(-n_rows // _ROWS_AT_ONCE), len(features)))):
                connection.execute(_script("merge_contexts", names | {"first": chunk[0], "last": chunk[-1]}))
        connection.execute(_script("merge_features", names))
    finally:
        for name in ("moments", "splits"):
            with suppress(duckdb.Error):  # in a transaction that failed; its error is the one to be seen
                connection.unregister(name)


@contextmanager
def _readable(shards: Sequence[Path], plan: Plan) -> Iterator[None]:
    """Reading errors of Arrow and DuckDB as one that says what to do. A full disk or too little memory is another matter."""
    try:
        yield
    except (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException):  # our own SQL
        raise
    except (ValueError, OSError, KeyError, duckdb.Error) as error:
        text = " ".join(str(error).split())
        if any(sign in text for sign in ("No space left", "Out of Memory", "Could not write")):
            raise
        known = [*(folder.parent for folder in shards), plan.folder]
        where = next(
            (folder for folder in known if str(folder) in text), shards[0].parents[1] if shards else plan.folder
        )
        raise DataError(
            f"{where} cannot be read ({text[:300]}); delete it and run the same command again: only what was in it is done anew"
        ) from error


def pool_firings(catalog: Catalog, window: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token (numbered over the pool) and feature of every firing in the pool. `window`: tokens of a full window."""
    rows = catalog.arrow("SELECT feature_id, rank, positions FROM contexts WHERE kind = 'random'")
    positions = rows["positions"].combine_chunks()
    lengths = np.diff(positions.offsets.to_numpy())
    place = np.repeat(rows["rank"].to_numpy().astype(np.int64), lengths)
    feature = np.repeat(rows["feature_id"].to_numpy().astype(np.int64), lengths)
    return place * window + positions.values.to_numpy(), feature


def _script(name: str, names: Mapping[str, object]) -> str:
    text = files("autointerp.harvest").joinpath(f"{name}.sql").read_text(encoding="utf-8")
    return Template(text).substitute(names)


def _files(shards: Sequence[Path], table: str) -> str:
    """A list of Parquet files as SQL."""
    return "[" + ", ".join(f"'{_quoted(folder / table)}.parquet'" for folder in shards) + "]"


def _quoted(path: Path) -> str:
    """A path inside a single-quoted SQL string. Glob characters in the run's own folder name cannot be escaped in DuckDB."""
    return str(path.resolve()).replace("'", "''")
