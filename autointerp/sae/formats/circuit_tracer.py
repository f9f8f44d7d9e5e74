"""circuit-tracer's per-layer transcoders: `layer_N.safetensors` and `config.yaml` for the set. ReLU, JumpReLU or TopK.

W_enc is [d_sae, d_in]; W_dec is found in both orientations.
"""

import re
from pathlib import Path
from typing import Any

from autointerp.errors import DataError
from autointerp.sae import SAEFormat, sae_formats
from autointerp.sae.canonical import SAE
from autointerp.sae.files import Config, Weights, peek_keys, read_config, read_weights, single_file, the_file

_NAME = re.compile(r"layer_(\d+)\.safetensors")
_THRESHOLD = "activation_function.threshold"


def _detect(path: Path) -> bool:
    found = single_file(path, ".safetensors")
    if found is None or not _NAME.fullmatch(found.name):
        return False
    return peek_keys(found) >= {"W_enc", "W_dec", "b_enc", "b_dec"}


def _load(path: Path) -> SAE:
    file = the_file(path, ".safetensors")
    weights, config = read_weights(file), read_config(file.parent / "config.yaml", optional=True)
    b_enc, b_dec = weights.vector("b_enc"), weights.vector("b_dec")
    d_sae, d_out = len(b_enc), len(b_dec)
    encoder = weights.matrix("W_enc", d_sae, None)
    return SAE(
        encoder=encoder,
        b_enc=b_enc,
        decoder=weights.matrix("W_dec", d_sae, d_out),
        b_dec=b_dec,
        skip=weights.matrix("W_skip", encoder.shape[1], d_out, transposed=True) if "W_skip" in weights else None,
        transcoder=True,
        hook_in=_hook(file, config.text("feature_input_hook")),
        hook_out=_hook(file, config.text("feature_output_hook")),
        model_name=config.note("model_name"),
        **_activation(weights, config, d_sae),
    )


def _activation(weights: Weights, config: Config, d_sae: int) -> dict[str, Any]:
    name = config.text("activation")
    if _THRESHOLD in weights:
        return {"activation": "jumprelu", "threshold": weights.per_feature(_THRESHOLD, d_sae)}
    if name == "topk" or "k" in weights:
        k = weights.integer("k") if "k" in weights else config.integer("k")
        return {"activation": "topk", "k": k, "l0_expected": k}
    if name not in (None, "relu"):
        raise DataError(f"{config.path}: activation is {name!r}, expected relu, topk, or a threshold among the tensors")
    return {"activation": "relu"}


def _hook(file: Path, name: str | None) -> str | None:
    found = _NAME.fullmatch(file.name)
    return f"blocks.{found.group(1)}.{name}" if found and name else None


sae_formats.register("circuit_tracer")(SAEFormat("a file layer_N.safetensors (and config.yaml)", _detect, _load))
