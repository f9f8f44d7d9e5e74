"""Llama Scope: `hyperparams.json` and `checkpoints/final.safetensors`; SAEs and transcoders.

Trained on inputs scaled to a mean norm of √d_model. The scale is folded into the weights, and activations are in the
units of the scaled inputs, as SAELens gives them. `top_k` is a setting of the training, not what runs.
"""

from pathlib import Path

import torch

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
    scale_in, scale_out = (d_model**0.5 / _norm(norms, side) for side in ("in", "out"))
    b_enc = weights.vector("encoder.bias", config.optional_integer("d_sae"))
    d_sae, threshold = len(b_enc), config.number("jump_relu_threshold")
    if threshold < 0:
        raise config.wrong("jump_relu_threshold", "a number of at least 0")
    hook_in, hook_out = (config.text(key) or config.need(key) for key in ("hook_point_in", "hook_point_out"))
    sae = SAE(
        activation="jumprelu",
        encoder=weights.matrix("encoder.weight", d_sae, d_model),
        b_enc=b_enc,
        decoder=weights.matrix("decoder.weight", d_sae, d_model, transposed=True),
        b_dec=weights.vector("decoder.bias", d_model)
        if config.flag("use_decoder_bias", True)
        else torch.zeros(d_model),
        threshold=torch.full((d_sae,), threshold * scale_in),
        subtract_b_dec=config.flag("apply_decoder_bias_to_pre_encoder"),
        transcoder=hook_in != hook_out,
        hook_in=hook_in,
        hook_out=hook_out,
        prepend_bos=True,
        context_size=1024,
    )
    return fold_scales(sae, scale_in, scale_out)


def _check(config: Config) -> None:
    """Refuse the variants that the library can write and nobody has published."""
    config.choice("act_fn", "jumprelu", ("jumprelu",))
    config.choice("norm_activation", "dataset-wise", ("dataset-wise",))
    if config.flag("use_glu_encoder"):
        raise config.wrong("use_glu_encoder", "false")


def _norm(norms: Config, side: str) -> float:
    norm = norms.number(side)
    if norm <= 0:
        raise norms.wrong(f"dataset_average_activation_norm.{side}", "a positive number")
    return norm


sae_formats.register("llama_scope")(SAEFormat(f"a folder with hyperparams.json and {_WEIGHTS}", _detect, _load))
