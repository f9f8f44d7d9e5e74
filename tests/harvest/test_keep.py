"""`Keep` against a plain sort, whatever the batches."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.harvest import keep
from autointerp.harvest.keep import Keep, Rows, concatenate, no_rows


def rows_of(entries: list[tuple[int, int, int]]) -> Rows:
    """Rows (cell, key, window); row i has a payload of window % 3 entries, all of value `window`."""
    cell, key, window = (np.array(column) for column in zip(*entries, strict=True)) if entries else (np.zeros(0),) * 3
    lengths = (window % 3).astype(np.int64)
    return Rows(
        cell=cell.astype(np.int64), key=key.astype(np.uint64), window=window.astype(np.uint64),
        peak=window.astype(np.float32), peak_position=(window % 7).astype(np.uint16),
        lengths=lengths.astype(np.uint16),
        positions=np.repeat(window % 5, lengths).astype(np.uint16), values=np.repeat(window, lengths).astype(np.float32),
    )  # fmt: skip


entries = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 10_000)),
    unique_by=lambda e: (e[0], e[2]),
    max_size=60,
)


@given(
    entries,
    st.tuples(*[st.integers(1, 4)] * 3),
    st.lists(st.integers(0, 60), max_size=5),
    st.randoms(use_true_random=False),
)
@settings(max_examples=150, deadline=None)
def test_keeps_the_k_smallest_of_every_cell(
    found: list[tuple[int, int, int]], k: tuple[int, ...], cuts: list[int], random
) -> None:
    expected = []
    for cell in sorted({e[0] for e in found}):
        expected += sorted(e for e in found if e[0] == cell)[: k[cell % 3]]
    random.shuffle(found)
    kept = Keep(k, span=1, n_cells=4)
    bounds = sorted({0, len(found), *(min(cut, len(found)) for cut in cuts)})
    for begin, end in itertools.pairwise(bounds):
        batch = rows_of(found[begin:end])
        batch = batch.take(np.flatnonzero(kept.may_enter(batch.cell, batch.key)))
        kept.add(batch)
        concatenate(kept.blocks())  # a merge after each batch, so that the limits are in force
    result = concatenate(kept.blocks())
    assert list(zip(result.cell.tolist(), result.key.tolist(), result.window.tolist(), strict=True)) == expected
    for i in range(len(result)):
        window = int(result.window[i])
        payload = slice(result.offsets[i], result.offsets[i + 1])
        assert result.values[payload].tolist() == [float(window)] * (window % 3)
        assert result.positions[payload].tolist() == [window % 5] * (window % 3)
        assert result.peak[i] == window and result.peak_position[i] == window % 7


def test_merges_by_itself_when_the_buffer_is_full(monkeypatch) -> None:
    monkeypatch.setattr(keep, "_BUFFER_ROWS", 4)
    kept = Keep([1], span=1, n_cells=1)
    for window in range(10):
        kept.add(rows_of([(0, 10 - window, window)]))
    assert concatenate(kept.blocks()).window.tolist() == [9]
    assert len(kept._buffer) == 0


def test_classes_of_cells_have_their_own_k() -> None:
    # span 10: cells 0-9 are of class 0 (k = 1), 10-19 of class 1 (k = 2), 20-29 of class 0 again.
    kept = Keep([1, 2], span=10, n_cells=30)
    kept.add(rows_of([(cell, window, window) for cell in (3, 14, 25) for window in (8, 6, 7)]))
    assert concatenate(kept.blocks()).cell.tolist() == [3, 14, 14, 25]
    assert concatenate(kept.blocks()).window.tolist() == [6, 6, 7, 6]
    assert kept.nbytes > 4 * (8 + 8 + 8 + 4 + 2)


def test_nothing_added() -> None:
    assert sum(map(len, Keep([3], span=1, n_cells=9).blocks())) == 0
    assert len(concatenate([no_rows(), rows_of([(0, 1, 2)])])) == 1
