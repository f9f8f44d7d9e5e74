"""An interpolated Kneser-Ney n-gram model over token ids (Chen and Goodman, 1998, section 4.1.6), the demo's baseline.

Counts are held as sorted arrays of packed n-grams, so that a 5-gram over millions of tokens takes seconds. One discount per
order, n1 / (n1 + 2 n2). Lower orders use continuation counts; the order below the unigram is uniform over the vocabulary.
"""

import numpy as np


class KneserNey:
    def __init__(self, documents: list[np.ndarray], vocabulary: int, order: int) -> None:
        self.vocabulary, self.order = vocabulary, order
        self.bits_per_token = int(np.ceil(np.log2(vocabulary)))
        if self.bits_per_token * order > 63:
            raise ValueError(f"{order}-grams of {vocabulary} tokens do not fit in 64 bits")
        self._levels = []
        grams = np.unique(np.concatenate([self._packed(d, order) for d in documents]), return_counts=True)
        for n in range(order, 0, -1):
            self._levels.append(self._level(*grams))
            # Continuation counts: in how many distinct contexts the (n−1)-gram that remains has been seen.
            keys = grams[0] & ((1 << (self.bits_per_token * (n - 1))) - 1)
            grams = np.unique(keys, return_counts=True)

    def bits(self, documents: list[np.ndarray]) -> float:
        """Total bits of the documents' tokens after the first (BOS)."""
        return float(sum(-np.log2(self._probability(self._packed(d, self.order))).sum() for d in documents))

    def _packed(self, tokens: np.ndarray, n: int) -> np.ndarray:
        """One packed n-gram for every token after the first; the context before the document is BOS, id 0."""
        padded = (
            np.concatenate([np.zeros(n - 2, np.int64), tokens.astype(np.int64)]) if n > 2 else tokens.astype(np.int64)
        )
        packed = np.zeros(len(tokens) - 1, np.int64)
        for offset in range(n):
            packed = (packed << self.bits_per_token) | padded[offset : offset + len(packed)]
        return packed

    def _level(self, keys: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray | float]:
        context = keys >> self.bits_per_token
        starts = np.flatnonzero(np.concatenate([[True], context[1:] != context[:-1]]))
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        return {
            "keys": keys, "counts": counts, "contexts": context[starts], "totals": np.add.reduceat(counts, starts),
            "types": np.diff(np.append(starts, len(keys))), "discount": once / max(once + 2 * twice, 1),
        }  # fmt: skip

    def _probability(self, grams: np.ndarray) -> np.ndarray:
        """Probability of the last token of each packed n-gram given the ones before."""
        p = np.full(len(grams), 1.0 / self.vocabulary)
        for n in range(1, self.order + 1):
            level = self._levels[self.order - n]
            keys = grams & ((1 << (self.bits_per_token * n)) - 1)
            count = _look_up(level["keys"], level["counts"], keys)
            total = _look_up(level["contexts"], level["totals"], keys >> self.bits_per_token)
            types = _look_up(level["contexts"], level["types"], keys >> self.bits_per_token)
            known = total > 0
            discount = level["discount"]
            safe = np.maximum(total, 1)
            p = np.where(known, np.maximum(count - discount, 0) / safe + discount * types / safe * p, p)
        return p


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
