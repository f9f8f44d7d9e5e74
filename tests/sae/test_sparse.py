"""The fast path equals the reference: every activation, every way of cutting the work into blocks, ties and subsets."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from autointerp.errors import UserError
from autointerp.sae import SAE, SparseActivations, sparse

KINDS = ["relu", "tanh-relu", "jumprelu", "gated", "topk", "abstopk", "groupmax"]


def make(kind: str, d_in: int, d_sae: int, k: int, *, whole: bool, seed: int = 0) -> SAE:
    """An SAE with normal weights, or with small whole ones: then sums are exact and ties are everywhere."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        if whole:
            return torch.randint(-2, 3, shape, generator=generator).float()
        return torch.randn(*shape, generator=generator)

    options: dict[str, Any] = {}
    if kind == "jumprelu":
        options = {"threshold": draw(d_sae).abs()}
    if kind == "gated":
        options = {"r_mag": torch.zeros(d_sae) if whole else 0.3 * draw(d_sae), "b_mag": draw(d_sae)}
    if kind in ("topk", "abstopk", "groupmax"):
        options = {"k": k}
    return SAE(
        activation=kind, encoder=draw(d_sae, d_in), b_enc=draw(d_sae), decoder=draw(d_sae, d_in), b_dec=draw(d_in),
        subtract_b_dec=True, **options,
    )  # type: ignore[arg-type]  # fmt: skip


def inputs(n: int, d_in: int, *, whole: bool, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if whole:
        return torch.randint(-3, 4, (n, d_in), generator=generator).float()
    return torch.randn(n, d_in, generator=generator)


def check_sorted(found: SparseActivations, n: int) -> None:
    key = found.feature.astype(np.int64) * max(n, 1) + found.row
    assert (np.diff(key) > 0).all()
    assert (found.feature.dtype, found.row.dtype, found.value.dtype) == (np.int32, np.int32, np.float32)


def densify(found: SparseActivations, n: int, d_sae: int) -> NDArray[np.float32]:
    dense = np.zeros((n, d_sae), np.float32)
    dense[found.row, found.feature] = found.value
    return dense


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [0, 1, 7, 300])
def test_equals_dense(kind: str, n: int) -> None:
    sae, x = make(kind, 16, 96, 4, whole=False), inputs(n, 16, whole=False)
    found = sae.encode_sparse(x)
    check_sorted(found, n)
    assert np.allclose(densify(found, n, 96), sae.encode(x).numpy(), atol=1e-5)
    assert (found.value != 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [1, 64, 1000])
def test_the_cut_into_blocks_does_not_matter(kind: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sae, x = make(kind, 8, 60, 4, whole=True), inputs(50, 8, whole=True)
    whole = sae.encode_sparse(x)
    monkeypatch.setattr(sparse, "_BLOCK_CPU", block)
    monkeypatch.setattr(sparse, "_MIN_ROWS", 3)
    cut = sae.encode_sparse(x)
    check_sorted(cut, 50)
    for name in ("feature", "row", "value"):
        assert np.array_equal(getattr(cut, name), getattr(whole, name))
    assert np.array_equal(densify(cut, 50, 60), sae.encode(x).numpy())


@settings(max_examples=120, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    k=st.sampled_from([1, 2, 3, 6, 12]),
    d_sae=st.sampled_from([12, 24, 96]),
    d_in=st.integers(1, 3),
    n=st.integers(1, 20),
    seed=st.integers(0, 10_000),
)
def test_ties_are_broken_as_in_the_reference(kind: str, k: int, d_sae: int, d_in: int, n: int, seed: int) -> None:
    """Small whole numbers: nearly every k-th place is shared, and the arithmetic is exact."""
    sae = make(kind, d_in, d_sae, k, whole=True, seed=seed)
    x = inputs(n, d_in, whole=True, seed=seed + 1)
    found = sae.encode_sparse(x)
    check_sorted(found, n)
    assert np.array_equal(densify(found, n, d_sae), sae.encode(x).numpy())


def naive_topk(p: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    out = np.zeros_like(p)
    for i, row in enumerate(p):
        for j in sorted(range(len(row)), key=lambda j: (-row[j], j))[:k]:
            out[i, j] = max(row[j], 0.0)
    return out


def test_topk_against_a_loop() -> None:
    sae, x = make("topk", 3, 40, 5, whole=True), inputs(30, 3, whole=True)
    p = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    expected = naive_topk(p.numpy(), 5)
    assert np.array_equal(sae.encode(x).numpy(), expected)
    assert np.array_equal(densify(sae.encode_sparse(x), 30, 40), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("features", [[], [3], [90, 5, 5, 41], list(range(20, 60))])
def test_a_subset_keeps_its_own_indices(kind: str, features: list[int]) -> None:
    sae, x = make(kind, 8, 96, 6, whole=True), inputs(40, 8, whole=True)
    found = sae.encode_sparse(x, np.array(features, dtype=np.int64))
    check_sorted(found, 40)
    mask = np.zeros(96, dtype=bool)
    mask[features] = True
    assert np.array_equal(densify(found, 40, 96), sae.encode(x).numpy() * mask)


def test_a_feature_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="0 to 95"):
        make("relu", 8, 96, 1, whole=True).encode_sparse(inputs(1, 8, whole=True), np.array([3, 96]))


def test_more_than_65536_features_are_sorted() -> None:
    generator = np.random.default_rng(0)
    feature = generator.integers(0, 200_000, 5_000).astype(np.int32)
    order = sparse._stable_order(feature)
    assert np.array_equal(order, np.argsort(feature, kind="stable"))


def test_wide_topk_equals_dense() -> None:
    sae, x = make("topk", 4, 70_000, 9, whole=True), inputs(6, 4, whole=True)
    found = sae.encode_sparse(x)
    check_sorted(found, 6)
    assert np.array_equal(densify(found, 6, 70_000), sae.encode(x).numpy())


@pytest.mark.parametrize("kind", ["relu", "topk"])
def test_equal_scores_everywhere(kind: str) -> None:
    """The worst case of the bound on the k-th score: all features tie, and all are candidates."""
    options: dict[str, Any] = {"k": 5} if kind == "topk" else {}
    weights = torch.zeros(64, 2)
    sae = SAE(activation=kind, encoder=weights, decoder=weights, b_enc=torch.ones(64), b_dec=torch.zeros(2), **options)  # type: ignore[arg-type]
    found = sae.encode_sparse(torch.zeros(3, 2))
    assert len(found) == 3 * (5 if kind == "topk" else 64)
    if kind == "topk":
        assert sorted(set(found.feature)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_decode_sparse_equals_decode(kind: str) -> None:
    sae, x = make(kind, 16, 96, 4, whole=False), inputs(20, 16, whole=False)
    found = sae.encode_sparse(x)
    assert torch.allclose(sae.decode_sparse(found, 20), sae.decode(sae.encode(x)), atol=1e-4)


def test_inputs_from_inference_mode_are_taken() -> None:
    sae = make("jumprelu", 8, 32, 1, whole=True)
    with torch.inference_mode():
        x = inputs(5, 8, whole=True) * 1
    assert np.array_equal(densify(sae.encode_sparse(x), 5, 32), sae.encode(x).numpy())


def test_only() -> None:
    found = SparseActivations(np.array([1, 1, 4], np.int32), np.array([0, 2, 1], np.int32), np.ones(3, np.float32))
    kept = found.only(np.array([4, 9]))
    assert list(kept.feature) == [4] and list(kept.row) == [1]
    assert len(found.only(np.array([], np.int64))) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu(kind: str) -> None:
    sae, x = make(kind, 8, 96, 6, whole=True), inputs(40, 8, whole=True)
    found = sae.to("cuda").encode_sparse(x.cuda())
    assert np.array_equal(densify(found, 40, 96), sae.encode(x).numpy())
