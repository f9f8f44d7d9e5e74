"""Llama Scope: `hyperparams.json` and `checkpoints/final.safetensors`; SAEs and transcoders.

Trained on inputs scaled to a mean norm of √d_model. The scale is folded into the weights, and activations are in the
units of the scaled inputs, as SAELens gives them. `top_k` is a setting of the training, not what runs.
"""

from pathlib import Path

import torch

from autointerp.errors import DataError
from autointerp.sae import SAEFormat, sae_formats
from autointerp.sae.canonical import SAE
from autointerp.sae.files import Config, read_config, read_weights
from autointerp.sae.fold import fold_scales

_WEIGHTS = Path("checkpoints") / "final.safetensors"


def _detect(path: Path) -> bool:
    return (path / "hyperparams.json").is_file() and (path / _WEIGHTS).is_file()


def _load(path: Path) -> SAE:
    config, weights = read_config(path / "hyperparams.json"), read_weights(path / _WEIGHTS)
    _check(config)
    d_model = config.integer("d_model")
    norms = config.section("dataset_average_activation_norm")
    scale_in, scale_out = (d_model**0.5 / float(norms.need(side)) for side in ("in", "out"))
    b_enc = weights.vector("encoder.bias", config.get("d_sae"))
    d_sae = len(b_enc)
    hook_in, hook_out = config.need("hook_point_in"), config.need("hook_point_out")
    sae = SAE(
        activation="jumprelu",
        encoder=weights.matrix("encoder.weight", d_sae, d_model),
        b_enc=b_enc,
        decoder=weights.matrix("decoder.weight", d_sae, d_model, transposed=True),
        b_dec=weights.vector("decoder.bias", d_model) if config.get("use_decoder_bias", True) else torch.zeros(d_model),
        threshold=torch.full((d_sae,), float(config.need("jump_relu_threshold")) * scale_in),
        subtract_b_dec=bool(config.get("apply_decoder_bias_to_pre_encoder", False)),
        transcoder=hook_in != hook_out,
        hook_in=hook_in,
        hook_out=hook_out,
        prepend_bos=True,
        context_size=1024,
    )
    return fold_scales(sae, scale_in, scale_out)


def _check(config: Config) -> None:
    """Refuse the variants that the library can write and nobody has published."""
    expected = {"act_fn": "jumprelu", "norm_activation": "dataset-wise", "use_glu_encoder": False}
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise DataError(f"{config.path}: {key} is {config.get(key)!r}, expected {value!r}")


sae_formats.register("llama_scope")(SAEFormat(f"a folder with hyperparams.json and {_WEIGHTS}", _detect, _load))
