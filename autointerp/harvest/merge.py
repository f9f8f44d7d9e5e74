"""All shards into the catalog: one script of SQL, run in one transaction with what the model itself tells of each feature."""

from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from string import Template

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from autointerp.catalog.records import SPLITS
from autointerp.catalog.store import Catalog
from autointerp.harvest.plan import Plan

RARE_DOCUMENTS = 20  # fires in fewer documents than this: insufficient evidence (scoring.md, Descriptors)
DENSE_SHARE = 0.10  # fires on more than this share of the tokens


def merge_shards(
    catalog: Catalog, plan: Plan, shards: Path, features: NDArray[np.int64], *, bands: int, top: int, per_band: int
) -> None:
    """Fill features, histograms, strata, contexts, windows and documents; the caller holds the transaction."""
    text = files("autointerp.harvest").joinpath("merge.sql").read_text(encoding="utf-8")
    script = Template(text).substitute(
        shards=_quoted(shards / "*"), plan=_quoted(plan.folder), n_bands=bands, top=top, per_band=per_band,
        n_tokens=plan.n_tokens, rare_documents=RARE_DOCUMENTS, dense_share=DENSE_SHARE,
    )  # fmt: skip
    connection = catalog.connection
    sizes = pa.table({"split": list(SPLITS), "n_windows": pa.array(plan.windows_per_split, pa.uint64())})
    connection.register("selected", pa.table({"feature": features.astype(np.uint32)}))
    connection.register("split_windows", sizes)
    try:
        connection.execute(script)
    finally:
        for name in ("selected", "split_windows"):
            with suppress(duckdb.Error):  # in a transaction that failed; its error is the one to be seen
                connection.unregister(name)


def _quoted(path: Path) -> str:
    """A path inside a single-quoted SQL string. Glob characters in the run's own folder name cannot be escaped in DuckDB."""
    return str(path.resolve()).replace("'", "''")
