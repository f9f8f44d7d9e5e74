"""Co-firing neighbours against sets, and by hand."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.harvest import cofiring as module
from autointerp.harvest.cofiring import LEAST, cofiring


def rows_of(firings: set[tuple[int, int]], features: list[int], k: int) -> list[tuple[int, int, int, int, float]]:
    pairs = np.array(sorted(firings), np.int64).reshape(-1, 2)
    table = cofiring(pairs[:, 0], pairs[:, 1], np.array(features), k)
    return [tuple(row.values()) for row in table.to_pylist()]


def test_by_hand() -> None:
    # Feature 2 fires on tokens 0-3, feature 5 on 1-4, feature 9 on 1, 2, 3: 2 and 5 share three of five tokens, 2 and 9
    # three of four, 5 and 9 three of four. Feature 7 shares two with each: too few.
    firings = (
        {(t, 2) for t in range(4)} | {(t, 5) for t in range(1, 5)} | {(t, 9) for t in (1, 2, 3)} | {(1, 7), (2, 7)}
    )
    found = [(f, rank, n, both, round(j, 6)) for f, rank, n, both, j in rows_of(firings, [2, 5, 7, 9], 2)]
    assert found == [(2, 1, 9, 3, 0.75), (2, 2, 5, 3, 0.6), (5, 1, 9, 3, 0.75), (5, 2, 2, 3, 0.6),
                     (9, 1, 2, 3, 0.75), (9, 2, 5, 3, 0.75)]  # fmt: skip


@given(
    st.sets(st.tuples(st.integers(0, 12), st.integers(0, 6)), max_size=80),
    st.integers(1, 4),
    st.sampled_from([1, 2, 512]),
)
@settings(max_examples=60, deadline=None)
def test_equals_sets(firings: set[tuple[int, int]], k: int, chunk: int) -> None:
    features = list(range(7))
    tokens = {f: {t for t, g in firings if g == f} for f in features}
    expected = []
    for f in features:
        near = [(-len(tokens[f] & tokens[g]) / len(tokens[f] | tokens[g]), g) for g in features
                if g != f and len(tokens[f] & tokens[g]) >= LEAST]  # fmt: skip
        expected += [(f, rank, g, len(tokens[f] & tokens[g])) for rank, (_, g) in enumerate(sorted(near)[:k], start=1)]
    before = module._CHUNK
    module._CHUNK = chunk
    try:
        assert [row[:4] for row in rows_of(firings, features, k)] == expected
    finally:
        module._CHUNK = before


def test_nothing_fires() -> None:
    assert rows_of(set(), [1, 2], 3) == []
