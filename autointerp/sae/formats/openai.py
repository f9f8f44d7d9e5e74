"""OpenAI's sparse_autoencoder: one `.pt` file a layer, `{location}/{layer}.pt`, for GPT-2 small. ReLU or TopK.

The TopK versions normalise their input: x minus its mean, divided by its standard deviation (unbiased) plus 1e-5.
"""

import re
from pathlib import Path
from typing import Any

from autointerp.errors import DataError
from autointerp.sae import SAEFormat, sae_formats
from autointerp.sae.canonical import SAE
from autointerp.sae.configs import brief
from autointerp.sae.files import Weights, full_path, peek_keys, read_weights, single_file, the_file

_HOOKS = {
    "resid_post_mlp": "hook_resid_post", "resid_post_attn": "hook_resid_mid", "mlp_post_act": "mlp.hook_post",
    "resid_delta_attn": "hook_attn_out", "resid_delta_mlp": "hook_mlp_out",
}  # fmt: skip


def _detect(path: Path) -> bool:
    found = single_file(path, ".pt")
    return found is not None and peek_keys(found) >= {"pre_bias", "latent_bias", "encoder.weight"}


def _load(path: Path) -> SAE:
    file = the_file(path, ".pt")
    weights = read_weights(file)
    bias, pre_bias = weights.vector("latent_bias"), weights.vector("pre_bias")
    d_sae, d_in = len(bias), len(pre_bias)
    hook = _hook(file)
    return SAE(
        encoder=weights.matrix("encoder.weight", d_sae, d_in),
        b_enc=bias,
        decoder=weights.matrix("decoder.weight", d_sae, d_in, transposed=True),
        b_dec=pre_bias,
        subtract_b_dec=True,
        hook_in=hook,
        hook_out=hook,
        **_activation(weights),
    )


def _activation(weights: Weights) -> dict[str, Any]:
    name = weights.raw("activation") if "activation" in weights else "ReLU"  # the library's own default
    if isinstance(name, str) and name == "ReLU":
        return {"activation": "relu"}
    if not isinstance(name, str) or name != "TopK":
        raise DataError(f"{weights.path}: activation is {brief(name)}, expected ReLU or TopK")
    state = weights.section("activation_state_dict")
    after = state.raw("postact_fn") if "postact_fn" in state else "ReLU"
    if not isinstance(after, str) or after != "ReLU":
        raise DataError(f"{weights.path}: activation_state_dict.postact_fn is {brief(after)}, expected ReLU")
    k = state.integer("k")
    return {"activation": "topk", "k": k, "l0_expected": k, "input_norm": "layer_norm"}


def _hook(file: Path) -> str | None:
    """`resid_post_mlp/2.pt` or `resid_post_mlp_v5_32k/autoencoders/2.pt`."""
    if not file.stem.isdigit():
        return None
    for folder in full_path(file).parents:
        site = re.sub(r"_v\d+.*$", "", folder.name)
        if site in _HOOKS:
            return f"blocks.{file.stem}.{_HOOKS[site]}"
    return None


sae_formats.register("openai")(SAEFormat("a .pt file with pre_bias and latent_bias", _detect, _load))
