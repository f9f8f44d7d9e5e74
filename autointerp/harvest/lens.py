"""What a feature does on the output side, and which features are near it: read from the weights, no forward pass.

The logit lens (nostalgebraist, 2020): the decoder direction, scaled by the final norm's weights, times the unembedding. It
says which next tokens the feature promotes and suppresses directly, not through later layers.
"""

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

_CHUNK = 1024


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
    unembedding = head.weight.detach().float().cpu() * _final_norm_weight(model, directions.shape[1])
    parts = []
    for begin in range(0, len(features), _CHUNK):
        chunk = features[begin : begin + _CHUNK]
        logits = directions[torch.from_numpy(chunk)].float().cpu() @ unembedding.T
        for side, sign in (("promoted", 1.0), ("suppressed", -1.0)):
            best = torch.topk(sign * logits, min(k, logits.shape[1]), dim=1)
            parts.append(_token_rows(chunk, side, best.indices.numpy(), (sign * best.values).numpy()))
    return pa.concat_tables(parts).sort_by([("feature_id", "ascending"), ("side", "ascending"), ("rank", "ascending")])


def neighbours(directions: torch.Tensor, features: NDArray[np.int64], k: int = 10) -> pa.Table:
    """The k features whose decoder directions have the largest cosine, as rows of the table `neighbours`."""
    unit = torch.nn.functional.normalize(directions.float().cpu(), dim=1)[torch.from_numpy(features)]
    k = min(k, len(features) - 1)
    parts = []
    for begin in range(0, len(features), _CHUNK):
        cosine = unit[begin : begin + _CHUNK] @ unit.T
        cosine[torch.arange(len(cosine)), torch.arange(begin, begin + len(cosine))] = -2.0  # not its own neighbour
        best = torch.topk(cosine, k, dim=1)
        count = len(cosine)
        parts.append(
            pa.table(
                {
                    "feature_id": np.repeat(features[begin : begin + count], k).astype(np.uint32),
                    "rank": np.tile(np.arange(1, k + 1), count).astype(np.uint8),
                    "neighbour_id": features[best.indices.numpy().ravel()].astype(np.uint32),
                    "cosine": best.values.numpy().ravel(),
                }
            )
        )
    return pa.concat_tables(parts)


def _token_rows(
    features: NDArray[np.int64], side: str, tokens: NDArray[np.int64], logits: NDArray[np.float32]
) -> pa.Table:
    k = tokens.shape[1]
    return pa.table({
        "feature_id": np.repeat(features, k).astype(np.uint32),
        "side": pa.array([side] * (len(features) * k)),
        "rank": np.tile(np.arange(1, k + 1), len(features)).astype(np.uint8),
        "token": tokens.ravel().astype(np.uint32),
        "logit": logits.ravel(),
    })  # fmt: skip


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
