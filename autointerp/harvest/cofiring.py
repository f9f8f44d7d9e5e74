"""Which features fire on the same tokens, counted exactly over the shared pool of uniformly drawn windows.

The pool keeps all its activations, so nothing is estimated but the corpus by the pool. Rare features fire too seldom in it to
have neighbours: a pair needs `LEAST` common tokens.
"""

import warnings

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

LEAST = 3
_CHUNK = 512


def cofiring(
    token: NDArray[np.int64], feature: NDArray[np.int64], features: NDArray[np.int64], k: int = 10
) -> pa.Table:
    """The k features with the largest Jaccard index of the tokens on which each of `features` (ascending) fires.

    `token`, `feature` [nnz]: the firings, each pair once, of those features only. Rows of the catalog's table `cofiring`; ties
    go to the lower feature.
    """
    column = np.searchsorted(features, feature)
    rows, row = np.unique(token, return_inverse=True)
    by_token = _csr(row, column, (len(rows), len(features)))
    counts = np.bincount(column, minlength=len(features))
    order = np.argsort(column, kind="stable")
    ends = np.concatenate([[0], np.cumsum(counts)])
    parts = []
    for begin in range(0, len(features), _CHUNK):
        end = min(begin + _CHUNK, len(features))
        mine = order[ends[begin] : ends[end]]
        if len(mine):
            chunk = _csr(column[mine] - begin, row[mine], (end - begin, len(rows)))
            parts.append(_nearest(torch.sparse.mm(chunk, by_token), begin, counts, features, k))
    return pa.concat_tables(parts) if parts else _table([], [], [], [], [])


def _csr(row: NDArray[np.int64], column: NDArray[np.int64], shape: tuple[int, int]) -> torch.Tensor:
    """A matrix of ones at the given places."""
    order = np.lexsort((column, row))
    starts = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=shape[0]))])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        return torch.sparse_csr_tensor(
            torch.from_numpy(starts),
            torch.from_numpy(column[order]),
            torch.ones(len(row)),
            size=shape,
            check_invariants=True,
        )


def _nearest(
    both: torch.Tensor, begin: int, counts: NDArray[np.int64], features: NDArray[np.int64], k: int
) -> pa.Table:
    """Rows for the features at begin …; `both` [chunk, features], sparse: tokens on which the pair fires."""
    lengths = np.diff(both.crow_indices().numpy())
    of = np.repeat(np.arange(len(lengths)), lengths)
    other, common = both.col_indices().numpy(), both.values().numpy().astype(np.int64)
    keep = (common >= LEAST) & (other != of + begin)
    of, other, common = of[keep], other[keep], common[keep]
    jaccard = common / (counts[begin + of] + counts[other] - common)
    order = np.lexsort((other, -jaccard, of))
    of = of[order]
    first = np.flatnonzero(np.diff(of, prepend=-1))
    rank = np.arange(len(of)) - np.repeat(first, np.diff(np.append(first, len(of))))
    near = order[rank < k]
    return _table(
        features[begin + of[rank < k]], rank[rank < k] + 1, features[other[near]], common[near], jaccard[near]
    )


def _table(feature: object, rank: object, neighbour: object, both: object, jaccard: object) -> pa.Table:
    columns = (feature, rank, neighbour, both, jaccard)
    kinds = (np.uint32, np.uint8, np.uint32, np.uint32, np.float32)
    names = ("feature_id", "rank", "neighbour_id", "n_both", "jaccard")
    return pa.table({
        name: np.asarray(column).astype(kind) for name, column, kind in zip(names, columns, kinds, strict=True)
    })  # fmt: skip
