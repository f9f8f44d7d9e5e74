"""The sketch against plain loops over the dense activations."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.harvest.keep import Rows, concatenate, no_rows
from autointerp.harvest.sketch import BatchWindows, Firings, Sketch, bin_of, peak_key, split_cells
from autointerp.hashing import sample_key

LENGTH = 6
TOP, PER_BAND = (3, 1, 2), (2, 1, 3)


def dense_windows(seed: int, n: int, features: int) -> tuple[np.ndarray, BatchWindows]:
    """Random sparse activations [n, LENGTH, features] and the windows' facts; documents in runs of about three windows."""
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 40, (n, LENGTH, features)).astype(np.float32) / 4  # many ties on purpose
    values[rng.random(values.shape) < 0.8] = 0
    doc = np.cumsum(rng.random(n) < 0.4).astype(np.uint32)
    split = (doc % 3).astype(np.uint8)
    ids = rng.permutation(10 * n)[:n].astype(np.uint64)
    return values, BatchWindows(ids, doc, split, rng.random(n) < 0.3)


def firings_of(values: np.ndarray) -> Firings:
    feature, row, position = np.nonzero(values.transpose(2, 0, 1))
    found = values[row, position, feature]
    read = np.tile(np.arange(LENGTH, dtype=np.uint16), len(values))
    return Firings(feature.astype(np.int32), row.astype(np.int32), position.astype(np.uint16), found, read)


def kept(blocks: list[Rows]) -> Rows:
    return concatenate([no_rows(), *blocks])


def sketch_in_batches(values: np.ndarray, windows: BatchWindows, size: int) -> Sketch:
    sketch = Sketch(values.shape[2], top=TOP, per_band=PER_BAND, seed=5, window=LENGTH)
    for begin in range(0, len(values), size):
        part = slice(begin, begin + size)
        facts = BatchWindows(windows.window_id[part], windows.doc[part], windows.split[part], windows.in_pool[part])
        sketch.update(firings_of(values[part]), facts)
    return sketch


@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([1, 3, 7, 40]))
@settings(max_examples=60, deadline=None)
def test_equals_plain_loops(seed: int, n: int, size: int) -> None:
    values, windows = dense_windows(seed, n, 4)
    sketch = sketch_in_batches(values, windows, size)
    cells, counts = sketch.histogram()
    histogram = dict(zip(zip(*(a.tolist() for a in split_cells(cells)), strict=True), counts.tolist(), strict=True))
    top, sample, pool = kept(sketch.top.blocks()), kept(sketch.sample.blocks()), kept(sketch.pool_blocks())
    expected_histogram: dict[tuple[int, int, int], int] = {}
    for f in range(4):
        a = values[:, :, f]
        fires = a.max(1) > 0
        assert sketch.n_tokens[f] == (a > 0).sum()
        assert sketch.n_windows[f] == fires.sum()
        assert sketch.n_documents[f] == len(set(windows.doc[fires].tolist()))
        assert sketch.total.high[f] + sketch.total.low[f] == a.sum()
        assert sketch.total_squares.high[f] == (a.astype(np.float64) ** 2).sum()  # multiples of 1/16: no rounding
        assert sketch.maximum[f] == a.max()
        # Eight buckets of six positions: position p falls into bucket 8 p // 6.
        by_position = (a > 0).sum(0)
        assert sketch.positions[f].tolist() == [*by_position[:3], 0, *by_position[3:], 0]
        for split in range(3):
            chosen = [i for i in np.flatnonzero(fires) if windows.split[i] == split]
            best = sorted(chosen, key=lambda i: (-a[i].max(), windows.window_id[i]))[: TOP[split]]
            got = top.window[top.cell == f * 3 + split].tolist()
            assert got == [windows.window_id[i] for i in best]
            for b in {int(bin_of(a[i].max(keepdims=True))[0]) for i in chosen}:
                inside = [i for i in chosen if bin_of(a[i].max(keepdims=True))[0] == b]
                expected_histogram[f, split, b] = len(inside)
                keys = sample_key(5, f, windows.window_id)
                drawn = sorted(inside, key=lambda i: (keys[i], windows.window_id[i]))[: PER_BAND[split]]
                cell = (f * 3 + split) * 2048 + b + 1024
                assert sample.window[sample.cell == cell].tolist() == [windows.window_id[i] for i in drawn]
        pooled = {int(windows.window_id[i]) for i in np.flatnonzero(fires & windows.in_pool)}
        assert set(pool.window[split_cells(pool.cell)[0] == f].tolist()) == pooled
    assert histogram == expected_histogram
    assert sketch.tokens_read.tolist() == [n, n, n, 0, n, n, n, 0]
    row_of = {int(w): i for i, w in enumerate(windows.window_id)}
    for rows, feature in (
        (top, top.cell // 3),
        (sample, split_cells(sample.cell)[0]),
        (pool, split_cells(pool.cell)[0]),
    ):
        for i in range(len(rows)):
            a = values[row_of[int(rows.window[i])], :, feature[i]]
            payload = slice(rows.offsets[i], rows.offsets[i + 1])
            assert rows.positions[payload].tolist() == np.flatnonzero(a).tolist()
            assert rows.values[payload].tolist() == a[a > 0].tolist()
            assert rows.peak[i] == a.max() and rows.peak_position[i] == a.argmax()


def test_bins_by_hand() -> None:
    # Quarter octaves: 1, 2^.25 = 1.189, 2^.5 = 1.414, 2^.75 = 1.682, 2.
    peaks = np.array([1.0, 1.18, 1.19, 1.42, 1.69, 1.99, 2.0, 0.5, 0.99], np.float32)
    assert bin_of(peaks).tolist() == [0, 0, 1, 2, 3, 3, 4, -4, -1]


def test_peak_keys_sort_from_large_to_small() -> None:
    peaks = np.array([3.0, 1e-30, 7.5, 3.001], np.float32)
    assert np.argsort(peak_key(peaks)).tolist() == [2, 3, 0, 1]


def test_peaks_within_rounding_are_ties() -> None:
    # 12 binary digits after the first: at 3 = 1.5 · 2 the step is 2 · 2^-12 = 0.00049.
    assert len(set(peak_key(np.array([3.0, 3.0000002, 3.0002], np.float32)).tolist())) == 1
    assert len(set(peak_key(np.array([3.0, 3.0005], np.float32)).tolist())) == 2


def test_bottom_k_samples_are_uniform() -> None:
    """Chi-square over many seeds: each of 20 windows is drawn equally often. Fails for a biased hash (p < 0.001)."""
    from scipy.stats import chisquare

    drawn = np.zeros(20)
    ids = np.arange(20, dtype=np.uint64)
    for seed in range(4000):
        drawn[np.argsort(sample_key(seed, seed % 7, ids))[:3]] += 1
    assert drawn.sum() == 12_000
    assert chisquare(drawn).pvalue > 0.001


@given(st.integers(0, 10_000), st.integers(2, 40), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_of_documents_does_not_show(seed: int, n: int, random) -> None:  # type: ignore[no-untyped-def]
    values, windows = dense_windows(seed, n, 3)
    documents = [np.flatnonzero(windows.doc == doc) for doc in np.unique(windows.doc)]
    random.shuffle(documents)
    order = np.concatenate(documents)
    moved = BatchWindows(*(getattr(windows, name)[order] for name in ("window_id", "doc", "split", "in_pool")))
    one, other = sketch_in_batches(values, windows, 4), sketch_in_batches(values[order], moved, 7)
    for name in ("n_tokens", "n_windows", "n_documents", "maximum", "positions"):
        assert (getattr(one, name) == getattr(other, name)).all()
    for name in ("total", "total_squares"):
        assert (getattr(one, name).high == getattr(other, name).high).all()
    assert all((a == b).all() for a, b in zip(one.histogram(), other.histogram(), strict=True))
    for first, again in ((one.top, other.top), (one.sample, other.sample)):
        a, b = kept(first.blocks()), kept(again.blocks())
        for name in ("cell", "key", "window", "peak", "peak_position", "offsets", "positions", "values"):
            assert (getattr(a, name) == getattr(b, name)).all()
    pools = [
        rows.take(np.lexsort((rows.window, rows.cell))) for rows in map(kept, (one.pool_blocks(), other.pool_blocks()))
    ]
    assert (pools[0].window == pools[1].window).all() and (pools[0].values == pools[1].values).all()


def test_squares_keep_their_digits() -> None:
    """Values of 1000 ± 0.1: the variance is a hundred-millionth of the squares."""
    import math

    value = np.random.default_rng(0).normal(1000, 0.1, 4096).astype(np.float32)
    n = len(value)
    sketch = Sketch(1, top=TOP, per_band=PER_BAND, seed=0, window=n)
    firings = Firings(
        np.zeros(n, np.int32), np.zeros(n, np.int32), np.arange(n, dtype=np.uint16), value, np.zeros(n, np.uint16)
    )
    one = np.zeros(1)
    sketch.update(
        firings, BatchWindows(one.astype(np.uint64), one.astype(np.uint32), one.astype(np.uint8), one.astype(np.bool_))
    )
    total = sketch.total_squares.high[0] + sketch.total_squares.low[0]
    assert total == math.fsum(float(v) ** 2 for v in value)
    mean = (sketch.total.high[0] + sketch.total.low[0]) / n
    assert abs((total / n - mean**2) ** 0.5 - value.astype(np.float64).std()) < 1e-6


def test_the_pool_of_neurons_keeps_peaks() -> None:
    values, windows = dense_windows(3, 30, 4)
    facts = BatchWindows(windows.window_id, windows.doc, windows.split, np.ones(30, np.bool_))
    sketches = [
        Sketch(4, top=TOP, per_band=PER_BAND, seed=0, window=LENGTH, whole_pool=whole) for whole in (True, False)
    ]
    for sketch in sketches:
        sketch.update(firings_of(values), facts)
    whole, peaks = (kept(sketch.pool_blocks()) for sketch in sketches)
    assert len(peaks) == len(whole) > 20 and len(whole.values) > len(peaks.values) == len(peaks)
    assert (peaks.values == whole.peak).all() and (peaks.positions == whole.peak_position).all()
