"""Documents cut into windows: the unit of sampling. Pure: token ids in, windows out.

A window is a run of consecutive tokens of one document; the last one of a document may be shorter. A text has no special tokens,
a conversation those of its template; BOS is no part of a window: the harvest puts it before each where the model or the SAE
wants it. `window_id` is a hash of (document, start), so it is the same on every machine and in every sharding. A document's
split is a hash of its name.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autointerp.catalog.records import SPLITS
from autointerp.hashing import mix, sample_key, stable_hash

# Shares of the documents in the splits explain, rerank and test, in this order.
SPLIT_SHARES = (0.5, 0.1, 0.4)


@dataclass(frozen=True, slots=True)
class Windows:
    """Consecutive windows, as flat arrays. `split` indexes SPLITS; tokens of window i: tokens[offsets[i]:offsets[i+1]]."""

    window_id: NDArray[np.uint64]
    doc: NDArray[np.uint32]
    start: NDArray[np.uint32]
    split: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    tokens: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.window_id)


def split_of(doc_id: str, seed: int) -> int:
    """Index into SPLITS of a document, by hash of its name."""
    share = stable_hash("split", seed, doc_id) / 2**64
    bounds = np.cumsum(SPLIT_SHARES)
    return min(int(np.searchsorted(bounds, share, side="right")), len(SPLITS) - 1)


def per_split(total: int) -> tuple[int, ...]:
    """So many contexts a feature, divided among the splits by their shares, rounded up: 40 gives 20, 4 and 16."""
    return tuple(math.ceil(round(total * share, 6)) for share in SPLIT_SHARES)


def window_ids(doc_id: str, starts: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Stable 64-bit ids of the windows of one document that begin at the token offsets `starts`."""
    return mix(starts.astype(np.uint64) ^ mix(np.asarray(stable_hash("window", doc_id), dtype=np.uint64)))


def cut_document(doc: int, doc_id: str, tokens: Sequence[int] | NDArray[np.uint32], length: int, seed: int) -> Windows:
    """Cut one document's tokens into windows of `length` tokens; the last keeps what remains."""
    starts = np.arange(0, len(tokens), length, dtype=np.uint32)
    offsets = np.append(starts.astype(np.int64), len(tokens))
    return Windows(
        window_id=window_ids(doc_id, starts),
        doc=np.full(len(starts), doc, dtype=np.uint32),
        start=starts,
        split=np.full(len(starts), split_of(doc_id, seed), dtype=np.uint8),
        offsets=offsets,
        tokens=np.asarray(tokens, dtype=np.uint32),
    )


def join(parts: Sequence[Windows]) -> Windows:
    """Concatenate runs of windows."""
    lengths = np.concatenate([np.diff(part.offsets) for part in parts]) if parts else np.zeros(0, np.int64)
    return Windows(
        window_id=np.concatenate([part.window_id for part in parts]),
        doc=np.concatenate([part.doc for part in parts]),
        start=np.concatenate([part.start for part in parts]),
        split=np.concatenate([part.split for part in parts]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        tokens=np.concatenate([part.tokens for part in parts]),
    )


def pool_keys(seed: int, window_id: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The random order by which the shared pool of uniformly drawn windows is taken (smallest first)."""
    return sample_key(seed, stable_hash("pool"), window_id)
