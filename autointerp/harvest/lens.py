"""What a feature does on the output side, and which features are near it: read from the weights, no forward pass.

The logit lens (nostalgebraist, 2020): the decoder direction, scaled by the final norm's weights, times the unembedding. It
says which next tokens the feature promotes and suppresses directly, not through later layers.
"""

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

_CHUNK = 512


def output_tokens(
    model: nn.Module, directions: torch.Tensor, features: NDArray[np.int64], k: int = 10
) -> pa.Table | None:
    """Top promoted and suppressed tokens of each feature, as rows of the table `output_tokens`.

    `directions` [d_sae, d_out]. None where the decoder does not write to the residual stream (its width is not the
    unembedding's) or the model has no unembedding: there the lens says nothing.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    if head is None or head.weight.shape[1] != directions.shape[1]:
        return None
    unembedding = (head.weight.detach().float().cpu() * _final_norm_weight(model, directions.shape[1])).to(
        directions.device
    )
    k = min(k, len(unembedding))
    rows = _chosen(directions, features)
    sides = [_largest(rows, sign * unembedding, k) for sign in (1.0, -1.0)]
    token, logit = (np.stack(both, axis=1) for both in zip(*sides, strict=True))  # [features, sides, k]
    logit[:, 1] *= -1
    n = len(features)
    return pa.table({
        "feature_id": np.repeat(features, 2 * k).astype(np.uint32),
        "side": pa.array(np.tile(np.repeat(["promoted", "suppressed"], k), n)),
        "rank": np.tile(np.arange(1, k + 1), 2 * n).astype(np.uint8),
        "token": token.ravel().astype(np.uint32),
        "logit": logit.ravel(),
    })  # fmt: skip


def neighbours(directions: torch.Tensor, features: NDArray[np.int64], k: int = 10) -> pa.Table:
    """The k features whose decoder directions have the largest cosine, as rows of the table `neighbours`."""
    unit = torch.nn.functional.normalize(_chosen(directions, features), dim=1)
    k = min(k, len(features) - 1)
    nearest, cosine = _largest(unit, unit, k, but_own=True)
    return pa.table({
        "feature_id": np.repeat(features, k).astype(np.uint32),
        "rank": np.tile(np.arange(1, k + 1), len(features)).astype(np.uint8),
        "neighbour_id": features[nearest.ravel()].astype(np.uint32),
        "cosine": cosine.ravel(),
    })  # fmt: skip


def nearest(directions: torch.Tensor, ids: NDArray[np.int64], feature: int, k: int) -> list[tuple[int, float]]:
    """(id, cosine) of the k features nearest to one of them. `directions` [n, d_out], in the order of `ids` [n], ascending."""
    unit = torch.nn.functional.normalize(directions.float(), dim=1)
    own = int(np.searchsorted(ids, feature))
    cosine = unit @ unit[own]
    cosine[own] = -torch.inf
    best = torch.topk(cosine, min(k, len(ids) - 1))
    return list(zip(ids[best.indices.cpu().numpy()].tolist(), best.values.tolist(), strict=True))


def _chosen(directions: torch.Tensor, features: NDArray[np.int64]) -> torch.Tensor:
    return directions[torch.from_numpy(features).to(directions.device)].float()


def _largest(
    rows: torch.Tensor, columns: torch.Tensor, k: int, *, but_own: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Index and value [n, k] of the largest entries of rows · columnsᵀ; `but_own` leaves the diagonal out.

    Everything is written into arrays made beforehand: small results between large ones would keep the memory of these.
    """
    index, value = np.empty((len(rows), k), np.int64), np.empty((len(rows), k), np.float32)
    for begin in range(0, len(rows), _CHUNK):
        end = min(begin + _CHUNK, len(rows))
        products = rows[begin:end] @ columns.T
        if but_own:
            products[torch.arange(end - begin), torch.arange(begin, end)] = -torch.inf
        best = torch.topk(products, k, dim=1)
        index[begin:end], value[begin:end] = best.indices.cpu().numpy(), best.values.cpu().numpy()
    return index, value


def _final_norm_weight(model: nn.Module, width: int) -> torch.Tensor:
    """The last norm before the unembedding, under the names of the common architectures; ones where there is none."""
    base = getattr(model, "base_model", model)
    base = getattr(base, "language_model", base)
    for name in ("norm", "ln_f", "final_layer_norm"):
        weight = getattr(getattr(base, name, None), "weight", None)
        if weight is not None and weight.shape == (width,):
            # Gemma's norms multiply by 1 + weight.
            plus_one = 1.0 if "gemma" in type(base).__name__.lower() else 0.0
            scale: torch.Tensor = weight.detach().float().cpu() + plus_one
            return scale
    return torch.ones(width)
