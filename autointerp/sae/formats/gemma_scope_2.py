"""Gemma Scope 2 (Gemma 3):
`{site}[_all]/layer_L_width_W_l0_{small,medium,big}[_affine]/{config.json,params.safetensors}`.

The config names the modules; where it is missing the folder's name does. `affine_skip_connection` is [d_in, d_out]:
it is applied as x · A.
"""

import re
from pathlib import Path

from autointerp.errors import DataError
from autointerp.sae import SAEFormat, sae_formats
from autointerp.sae.canonical import SAE
from autointerp.sae.files import full_path, layer_in, read_config, read_weights

_HOOKS = {
    "resid_post": ("model.layers.{}.output", "model.layers.{}.output"),
    "attn_out": ("blocks.{}.hook_attn_out", "blocks.{}.hook_attn_out"),
    "mlp_out": ("blocks.{}.hook_mlp_out", "blocks.{}.hook_mlp_out"),
    "transcoder": (
        "model.layers.{}.pre_feedforward_layernorm.output",
        "model.layers.{}.post_feedforward_layernorm.output",
    ),
}


def _detect(path: Path) -> bool:
    return (path / "params.safetensors").is_file()


def _load(path: Path) -> SAE:
    weights = read_weights(path / "params.safetensors")
    config = read_config(path / "config.json", optional=True)
    architecture = config.get("architecture", "jump_relu")
    if architecture != "jump_relu":
        raise DataError(f"{config.path}: architecture is {architecture!r}, expected jump_relu")
    hook_in, hook_out = _hooks(path)
    hook_in, hook_out = config.get("hf_hook_point_in", hook_in), config.get("hf_hook_point_out", hook_out)
    b_enc, b_dec = weights.vector("b_enc"), weights.vector("b_dec")
    d_sae, d_out = len(b_enc), len(b_dec)
    transcoder = config.get("type") == "transcoder" or hook_in != hook_out
    encoder = weights.matrix("w_enc", d_sae, None if transcoder else d_out, transposed=True)
    skip = "affine_skip_connection"
    return SAE(
        activation="jumprelu",
        encoder=encoder,
        b_enc=b_enc,
        decoder=weights.matrix("w_dec", d_sae, d_out),
        b_dec=b_dec,
        threshold=weights.vector("threshold", d_sae),
        skip=weights.matrix(skip, encoder.shape[1], d_out) if skip in weights else None,
        transcoder=transcoder,
        l0_expected=config.get("l0"),
        hook_in=hook_in,
        hook_out=hook_out,
        prepend_bos=True,
        model_name=config.text("model_name"),
    )


def _hooks(path: Path) -> tuple[str | None, str | None]:
    """The modules by the folder's name and the name of the folder it is in."""
    folder = full_path(path)
    layer, site = layer_in(folder.name), re.sub(r"_all$", "", folder.parent.name)
    if layer is None or site not in _HOOKS:
        return None, None
    hook_in, hook_out = _HOOKS[site]
    return hook_in.format(layer), hook_out.format(layer)


sae_formats.register("gemma_scope_2")(SAEFormat("a folder with params.safetensors (and config.json)", _detect, _load))
