"""All shards into the catalog: one script of SQL, run in one transaction with what the model itself tells of each feature."""

from collections.abc import Sequence
from contextlib import suppress
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
from autointerp.harvest.moments import moments
from autointerp.harvest.plan import Plan
from autointerp.subject.windows import per_split


def merge_shards(
    catalog: Catalog,
    plan: Plan,
    shards: Sequence[Path],
    features: NDArray[np.int64],
    sample: SampleConfig,
    *,
    d_sae: int,
) -> None:
    """Fill features, histograms, strata, contexts, windows and documents; the caller holds the transaction."""
    text = files("autointerp.harvest").joinpath("merge.sql").read_text(encoding="utf-8")
    script = Template(text).substitute(
        histograms=_files(shards, "histograms"), contexts=_files(shards, "contexts"), plan=_quoted(plan.folder),
        n_bands=sample.bands,
    )  # fmt: skip
    splits = pa.table({
        "split": list(SPLITS), "n_windows": pa.array(plan.windows_per_split, pa.uint64()), "top": per_split(sample.top),
        "per_band": per_split(sample.per_band),
    })  # fmt: skip
    sums = moments(
        (pq.read_table(folder / "features.parquet") for folder in shards), features, d_sae=d_sae, n_tokens=plan.n_tokens,
        window_lengths=plan.window_lengths(), window=plan.window,
    )  # fmt: skip
    connection = catalog.connection
    connection.register("moments", sums)
    connection.register("splits", splits)
    try:
        connection.execute(script)
    finally:
        for name in ("moments", "splits"):
            with suppress(duckdb.Error):  # in a transaction that failed; its error is the one to be seen
                connection.unregister(name)


def _files(shards: Sequence[Path], table: str) -> str:
    """A list of Parquet files as SQL."""
    return "[" + ", ".join(f"'{_quoted(folder / table)}.parquet'" for folder in shards) + "]"


def _quoted(path: Path) -> str:
    """A path inside a single-quoted SQL string. Glob characters in the run's own folder name cannot be escaped in DuckDB."""
    return str(path.resolve()).replace("'", "''")
