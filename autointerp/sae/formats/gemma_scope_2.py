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
from autointerp.sae.files import (
    Config,
    Weights,
    full_path,
    layer_in,
    peek_keys,
    read_config,
    read_weights,
    single_file,
)

_Hooks = tuple[str | None, str | None]
_MLP_IN = "model.layers.{}.pre_feedforward_layernorm.output"
_MLP_OUT = "model.layers.{}.post_feedforward_layernorm.output"
_HOOKS = {
    "resid_post": ("model.layers.{}.output", "model.layers.{}.output"),
    # The heads, before they are put together: as wide as all of them, not as the residual stream.
    "attn_out": ("model.layers.{}.self_attn.o_proj.input", "model.layers.{}.self_attn.o_proj.input"),
    "mlp_out": (_MLP_OUT, _MLP_OUT),
    "transcoder": (_MLP_IN, _MLP_OUT),
}
_REPOSITORY = re.compile(r"gemma-scope-2-(?P<model>[\w.]+-(?:pt|it))$")


def _file(path: Path) -> Path | None:
    """params.safetensors, or one file with its tensors: the cross-layer transcoders are files, and have to be refused."""
    if (path / "params.safetensors").is_file():
        return path / "params.safetensors"
    found = single_file(path, ".safetensors")
    return found if found is not None and peek_keys(found) >= {"w_enc", "w_dec", "threshold"} else None


def _detect(path: Path) -> bool:
    return _file(path) is not None


def _load(path: Path) -> SAE:
    file = _file(path) or path / "params.safetensors"
    path = file.parent
    weights, config = read_weights(file), read_config(path / "config.json", optional=True)
    config.choice("architecture", "jump_relu", ("jump_relu",))
    _refuse_crosscoders(weights)
    hook_in, hook_out = _hooks(path, config)
    b_enc, b_dec = weights.vector("b_enc"), weights.vector("b_dec")
    d_sae, d_out = len(b_enc), len(b_dec)
    transcoder = config.text("type") == "transcoder" or hook_in != hook_out
    encoder = weights.matrix("w_enc", d_sae, None if transcoder else d_out, transposed=True)
    skip = "affine_skip_connection"
    if config.flag("affine_connection") and skip not in weights:
        raise DataError(f"{weights.path}: has no key {skip!r}, but {config.path.name} says affine_connection")
    return SAE(
        activation="jumprelu",
        encoder=encoder,
        b_enc=b_enc,
        decoder=weights.matrix("w_dec", d_sae, d_out),
        b_dec=b_dec,
        threshold=weights.vector("threshold", d_sae),
        skip=weights.matrix(skip, encoder.shape[1], d_out) if skip in weights else None,
        transcoder=transcoder,
        l0_expected=config.optional_number("l0"),
        hook_in=hook_in,
        hook_out=hook_out,
        prepend_bos=True,
        model_name=config.note("model_name") or _model_name(path),
    )


def _refuse_crosscoders(weights: Weights) -> None:
    for key in ("w_enc", "w_dec"):
        if getattr(weights.raw(key), "ndim", 2) == 3:
            raise DataError(
                f"{weights.path}: {key} has a matrix for every layer: a crosscoder or a cross-layer transcoder, "
                "expected an SAE or a transcoder of one layer"
            )


def _hooks(path: Path, config: Config) -> _Hooks:
    """The modules by the config or, where it does not say, by the names of the folder and of the one it is in.

    A config that names no output is an SAE's, unless the folder is one of transcoders.
    """
    folder = full_path(path)
    layer, site = layer_in(folder.name), re.sub(r"_all$", "", folder.parent.name)
    by_name: _Hooks = (None, None)
    if layer is not None and site in _HOOKS:
        by_name = (_HOOKS[site][0].format(layer), _HOOKS[site][1].format(layer))
    hook_in = config.text("hf_hook_point_in") or by_name[0]
    is_transcoder = site == "transcoder" or config.text("type") == "transcoder"
    return hook_in, config.text("hf_hook_point_out") or (by_name[1] if is_transcoder else hook_in)


def _model_name(path: Path) -> str | None:
    """Of the repository's name, as the hub's cache writes it or as it is."""
    found = next((found for part in reversed(full_path(path).parts) if (found := _REPOSITORY.search(part))), None)
    # The smallest base model alone has no suffix.
    return f"google/gemma-3-{found['model']}".replace("270m-pt", "270m") if found else None


sae_formats.register("gemma_scope_2")(SAEFormat("a folder with params.safetensors (and config.json)", _detect, _load))
