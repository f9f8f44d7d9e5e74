"""circuit-tracer's cross-layer transcoders, one layer's features at a time: `W_enc_N.safetensors`, `W_dec_N.safetensors` and
`config.yaml`. ReLU or JumpReLU.

A feature reads one layer and writes to that one and all later ones: W_dec_N is [d_sae, layers from N on, d_model]. As
all of them write to the same residual stream, the decoder here is their sum, which is what the logit lens and the
neighbours are about. It reconstructs no single layer, and is never compared with one (`transcoder`).
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autointerp.errors import DataError
from autointerp.sae import SAEFormat, sae_formats
from autointerp.sae.archives import safetensors_slices
from autointerp.sae.canonical import SAE
from autointerp.sae.files import Weights, peek_keys, read_config, read_weights

_NAME = re.compile(r"W_enc_(\d+)\.safetensors")


def _encoder_file(path: Path) -> Path | None:
    """`path` itself, or the only encoder in the folder."""
    files = [path] if path.is_file() else list(path.glob("W_enc_*.safetensors")) if path.is_dir() else []
    return files[0] if len(files) == 1 and _NAME.fullmatch(files[0].name) else None


def _detect(path: Path) -> bool:
    file = _encoder_file(path)
    return file is not None and file.stem in peek_keys(file)


def _load(path: Path) -> SAE:
    file = _encoder_file(path)
    found = _NAME.fullmatch(file.name) if file else None
    if file is None or found is None:
        raise DataError(f"{path}: expected one file W_enc_N.safetensors there")
    layer = found.group(1)
    weights, config = read_weights(file), read_config(file.parent / "config.yaml", optional=True)
    b_enc = weights.vector(f"b_enc_{layer}")
    encoder = weights.matrix(f"W_enc_{layer}", len(b_enc), None)
    threshold = f"threshold_{layer}"
    hook = config.text("feature_input_hook")
    kind: dict[str, Any] = {"activation": "relu"}
    if threshold in weights:
        kind = {"activation": "jumprelu", "threshold": weights.per_feature(threshold, len(b_enc))}
    return SAE(
        encoder=encoder,
        b_enc=b_enc,
        decoder=_decoder(file.with_name(f"W_dec_{layer}.safetensors"), f"W_dec_{layer}", encoder),
        b_dec=torch.zeros(encoder.shape[1]),
        transcoder=True,
        hook_in=f"blocks.{layer}.{hook}" if hook else None,
        model_name=config.note("model_name"),
        **kind,
    )


def _decoder(file: Path, key: str, encoder: Tensor) -> Tensor:
    """[d_sae, d_model]: what a feature writes to the residual stream over all layers."""
    if not file.is_file():
        raise DataError(f"{file}: there is no such file, expected this layer's decoder beside its encoder")
    if key not in peek_keys(file):
        raise DataError(f"{file}: has no key {key!r}")
    total = torch.zeros_like(encoder)
    for part in safetensors_slices(file, key):
        total += Weights(file, {key: part.contiguous()}).matrix(key, *encoder.shape)
    return total


sae_formats.register("circuit_tracer_clt")(
    SAEFormat("a file W_enc_N.safetensors, with W_dec_N.safetensors beside it", _detect, _load)
)
