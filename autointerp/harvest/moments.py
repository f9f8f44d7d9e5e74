"""Sums over shards: what each feature did on the whole corpus. Pure numpy on Arrow tables."""

import json
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from autointerp.harvest.sketch import POSITION_BUCKETS, ExactSum

RARE_DOCUMENTS = 20  # fires in fewer documents than this: insufficient evidence (scoring.md, Descriptors)
DENSE_SHARE = 0.10  # fires on more than this share of the tokens


def moments(shards: Iterable[pa.Table], features: NDArray[np.int64], *, d_sae: int) -> pa.Table:
    """One row for each of `features`: columns of the catalog's table `features` that are sums or follow from sums."""
    count = {name: np.zeros(d_sae, np.int64) for name in ("n_tokens", "n_windows", "n_documents")}
    sums = {"total": ExactSum(d_sae), "total_squares": ExactSum(d_sae)}
    maximum = np.zeros(d_sae, np.float32)
    positions = np.zeros((d_sae, POSITION_BUCKETS), np.int64)
    read = np.zeros(POSITION_BUCKETS, np.int64)
    for table in shards:
        read += json.loads(table.schema.metadata[b"tokens_read"])
        row = table["feature"].to_numpy().astype(np.int64)
        for name, array in count.items():
            array[row] += table[name].to_numpy().astype(np.int64)
        for name, both in sums.items():
            both.add(row, table[name].to_numpy())
            both.add(row, table[f"{name}_low"].to_numpy())
        maximum[row] = np.maximum(maximum[row], table["maximum"].to_numpy())
        positions[row] += table["positions"].combine_chunks().flatten().to_numpy().reshape(-1, POSITION_BUCKETS)
    fires, n_tokens = count["n_tokens"][features], int(read.sum())
    n = np.maximum(fires, 1)
    mean = (sums["total"].high + sums["total"].low)[features] / n
    square = (sums["total_squares"].high + sums["total_squares"].low)[features] / n
    dependence = position_dependence(positions[features], read)
    return pa.table({
        "feature_id": features.astype(np.uint32),
        **{name: array[features].astype(np.uint64) for name, array in count.items()},
        "density": fires / max(n_tokens, 1),
        "max_activation": maximum[features],
        "mean_activation": pa.array(mean, mask=fires == 0),
        "sd_activation": pa.array(np.sqrt(np.maximum(square - mean**2, 0)), mask=fires == 0),
        "position_dependence": pa.array(dependence, mask=fires == 0),
        "flag": _flags(fires, count["n_documents"][features], n_tokens),
    })  # fmt: skip


def position_dependence(fired: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Total variation distance between where a feature fires and where tokens are, over the parts of a window.

    `fired` [n, buckets], `tokens` [buckets]. 0: it fires anywhere; towards 1: in one place only. Few firings give a high value
    by chance alone.
    """
    share = fired / np.maximum(fired.sum(1, keepdims=True), 1)
    distance: NDArray[np.float64] = np.abs(share - tokens / max(tokens.sum(), 1)).sum(1) / 2
    return distance


def _flags(fires: NDArray[np.int64], documents: NDArray[np.int64], n_tokens: int) -> pa.Array:
    names = np.array([None, "dead", "rare", "dense"], dtype=object)
    kind = np.select([fires == 0, documents < RARE_DOCUMENTS, fires > DENSE_SHARE * n_tokens], [1, 2, 3], 0)
    return pa.array(names[kind].tolist(), pa.string())
