"""Sparse encoding: the hot path of a harvest.

The encoder's product is formed in blocks that stay in the processor's cache, transposed ([features, rows]), so that
the nonzeros come out of a scan already sorted by feature and the full [rows, features] matrix is never held.
`SAE.encode` is the plain reference that this file is tested against.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from autointerp.sae.canonical import SAE

# Elements of one block of pre-activations. On a CPU: 4 MB, which stays in cache between the product and the scan
# (measured best of 1 to 64 MB). On a GPU a block must be large enough to fill the device.
_BLOCK_CPU = 1 << 20
_BLOCK_GPU = 1 << 27
# Fewer rows than this make the product slow, because the encoder is read anew for every block of rows: ranked SAEs,
# whose blocks hold all features, take as many, unless the block would pass 256 MB.
_MIN_ROWS = 256
_MAX_BLOCK = 1 << 26
# The top k of a row are looked for among at least this many times k maxima of groups of features.
_GROUPS_PER_K = 5
_LEAST_POSITIVE = 2.0**-149


@dataclass(frozen=True, slots=True)
class SparseActivations:
    """The nonzero activations, sorted by (feature, row): `feature` int32, `row` int32, `value` float32, each [nnz].

    `feature` is the SAE's own index, also when only some of the features were asked for.
    """

    feature: NDArray[np.int32]
    row: NDArray[np.int32]
    value: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.feature)

    def only(self, features: NDArray[np.integer]) -> "SparseActivations":
        """The entries of the given features."""
        wanted = np.zeros(max(int(features.max(initial=-1)), int(self.feature.max(initial=-1))) + 1, dtype=bool)
        wanted[features] = True
        keep = wanted[self.feature]
        return SparseActivations(self.feature[keep], self.row[keep], self.value[keep])


def _block(device: torch.device) -> int:
    return _BLOCK_CPU if device.type == "cpu" else _BLOCK_GPU


def _entries(scores: Tensor, mask: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Flat positions of the true entries of `mask`, in order, and the scores there. Both tensors are contiguous."""
    if scores.device.type == "cpu":
        # numpy's scan of a sparse mask is five times faster than torch's.
        where = np.flatnonzero(mask.numpy())
        return where, scores.numpy().reshape(-1)[where]
    found = mask.view(-1).nonzero().squeeze(1)
    return found.cpu().numpy(), scores.view(-1)[found].cpu().numpy()


def encode_by_threshold(sae: "SAE", u: Tensor, features: NDArray[np.int64] | None) -> SparseActivations:
    """ReLU, tanh-ReLU, JumpReLU and gated SAEs, for which a feature's activation does not depend on the others.

    `u` float32 [N, d_in], normalised and centred; `features` ascending, or None for all. Blocks run over features.
    """
    n, count = len(u), sae.d_sae if features is None else len(features)
    # A gated SAE compares π with -b_gate instead of π + b_gate with 0: the same decision, and π itself is kept.
    cut = -sae.b_enc if sae.activation == "gated" else sae.cut
    bias = None if sae.activation == "gated" else sae.b_enc
    height = max(1, min(count, _block(u.device) // max(n, 1)))
    scores = u.new_empty((height, n))
    mask = torch.empty((height, n), dtype=torch.bool, device=u.device)
    columns = u.T
    positions, values = [], []
    for start in range(0, count, height):
        stop = min(start + height, count)
        chosen: slice | Tensor = slice(start, stop)
        if features is not None:
            chosen = torch.from_numpy(features[start:stop]).to(u.device)
        block, fires = scores[: stop - start], mask[: stop - start]
        _project(sae, chosen, columns, bias, block)
        torch.gt(block, cut[chosen, None], out=fires)
        where, value = _entries(block, fires)
        positions.append(where + start * n)
        values.append(value)
    feature, row = np.divmod(np.concatenate(positions), n) if positions and n else (np.zeros(0, np.int64),) * 2
    if features is not None:
        feature = features[feature]
    value = np.concatenate(values) if values else np.zeros(0, np.float32)
    return _finish(sae, feature, row, value)


def _project(sae: "SAE", chosen: slice | Tensor, columns: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """out = W_encᵀ[chosen] · columns (+ bias): pre-activations [features, N]."""
    if sae.encoder is None:
        torch.add(columns[chosen], 0 if bias is None else bias[chosen, None], out=out)
    elif bias is None:
        torch.mm(sae.encoder[chosen], columns, out=out)
    else:
        torch.addmm(bias[chosen, None], sae.encoder[chosen], columns, out=out)


def _finish(
    sae: "SAE", feature: NDArray[np.int64], row: NDArray[np.int64], score: NDArray[np.float32]
) -> SparseActivations:
    """From the scores that passed the threshold to activations."""
    value = torch.from_numpy(score)
    if sae.activation == "tanh-relu":
        value = value.tanh()
    if sae.activation == "gated":
        assert sae.gain is not None and sae.b_mag is not None
        index = torch.from_numpy(feature)
        value = sae.gain.cpu()[index] * value + sae.b_mag.cpu()[index]
    result = value.numpy()
    feature32, row32 = feature.astype(np.int32), row.astype(np.int32)
    if sae.activation == "gated":
        keep = result > 0
        return SparseActivations(feature32[keep], row32[keep], result[keep])
    return SparseActivations(feature32, row32, result)


def encode_by_rank(sae: "SAE", u: Tensor) -> SparseActivations:
    """TopK, AbsTopK and GroupMax SAEs, whose features compete: always over the full width. Blocks run over rows."""
    n = len(u)
    width = max(1, _block(u.device) // sae.d_sae, min(_MIN_ROWS, _MAX_BLOCK // sae.d_sae))
    scores = u.new_empty((sae.d_sae, min(width, n)))
    parts = []
    for start in range(0, n, width):
        columns = u[start : start + width].T
        block = scores.view(-1)[: sae.d_sae * columns.shape[1]].view(sae.d_sae, columns.shape[1])
        _project(sae, slice(None), columns, sae.b_enc, block)
        part = _group_maxima(sae, block) if sae.activation == "groupmax" else _top_k(sae, block)
        parts.append(SparseActivations(part.feature, part.row + np.int32(start), part.value))
    if not parts:
        return SparseActivations(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32))
    feature = np.concatenate([part.feature for part in parts])
    order = _stable_order(feature)
    row = np.concatenate([part.row for part in parts])
    value = np.concatenate([part.value for part in parts])
    return SparseActivations(feature[order], row[order], value[order])


def _stable_order(feature: NDArray[np.int32]) -> NDArray[np.int64]:
    """A stable sort by feature, in passes of 16 bits: numpy sorts only 16-bit integers by radix, ten times faster."""
    order: NDArray[np.int64] = np.argsort((feature & 0xFFFF).astype(np.uint16), kind="stable")
    if feature.max(initial=0) > 0xFFFF:
        order = order[np.argsort((feature >> 16).astype(np.uint16)[order], kind="stable")]
    return order


def _top_k(sae: "SAE", scores: Tensor) -> SparseActivations:
    """The k largest of every column of scores [d_sae, n]; ties go to the lower feature index.

    The k-th largest of the maxima of groups of features is a lower bound of the k-th largest score, because k scores
    reach it. Few other scores do: those that pass are ranked exactly.
    """
    assert sae.k is not None
    signed = sae.activation == "abstopk"
    rank = scores.abs() if signed else scores
    d_sae, n = rank.shape
    size = max(1, d_sae // (_GROUPS_PER_K * sae.k))
    groups = d_sae // size
    maxima = rank[: groups * size].view(groups, size, n).amax(1)
    # Whatever its rank, a score that is not positive gives no activation.
    bound = _kth_largest(maxima.T.contiguous(), sae.k).clamp(min=_LEAST_POSITIVE)
    where, value = _entries(scores, rank >= bound)
    feature, row = np.divmod(where, n)
    keep = _largest_of_rows(row, np.abs(value) if signed else value, sae.k, n)
    return SparseActivations(feature[keep].astype(np.int32), row[keep].astype(np.int32), value[keep])


def _kth_largest(table: Tensor, k: int) -> Tensor:
    """The k-th largest of every row of table [n, m]; minus infinity where m < k."""
    n, m = table.shape
    if m < k:
        return table.new_full((n,), -torch.inf)
    if table.device.type == "cpu":
        # numpy selects; torch sorts.
        return torch.from_numpy(np.partition(table.numpy(), m - k, axis=1)[:, m - k].copy())
    return table.topk(k, dim=1).values[:, -1]


def _largest_of_rows(row: NDArray[np.int64], rank: NDArray[np.float32], k: int, n: int) -> NDArray[np.bool_]:
    """Which candidates are among the k largest of their row; they come in the order of features, and ties keep it."""
    counts = np.bincount(row, minlength=n)
    most = int(counts.max(initial=0))
    if most <= k:
        return np.ones(len(row), dtype=bool)
    order = np.argsort(row.astype(np.uint16) if n <= 1 << 16 else row, kind="stable")
    slot = np.empty_like(row)
    slot[order] = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((n, most), -np.inf, dtype=np.float32)
    table[row, slot] = rank
    kth = np.partition(table, most - k, axis=1)[:, most - k, None]
    above = table > kth
    level = table == kth
    room = k - above.sum(1, keepdims=True)
    chosen = above | (level & (level.cumsum(1) <= room))
    return np.asarray(chosen[row, slot])


def _group_maxima(sae: "SAE", scores: Tensor) -> SparseActivations:
    """The maximum of every one of the k groups of neighbouring features, where positive; ties go to the lower index."""
    assert sae.k is not None
    d_sae, n = scores.shape
    best, index = scores.view(sae.k, d_sae // sae.k, n).max(1)
    mask = best > 0
    where, value = _entries(best, mask)
    group, row = np.divmod(where, n)
    feature = group * (d_sae // sae.k) + index.cpu().numpy().reshape(-1)[where]
    return SparseActivations(feature.astype(np.int32), row.astype(np.int32), value)
