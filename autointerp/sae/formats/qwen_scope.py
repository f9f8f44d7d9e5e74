"""Qwen-Scope: `layerN.sae.pt`, one file a layer of the residual stream, and `config.json` {base_model, k,
hook_point}."""

import re
from pathlib import Path

from autointerp.errors import DataError
from autointerp.sae import SAEFormat, sae_formats
from autointerp.sae.canonical import SAE
from autointerp.sae.files import Config, full_path, peek_keys, read_config, read_weights, single_file, the_file

_NAME = re.compile(r"layer(\d+)\.sae\.pt")


def _detect(path: Path) -> bool:
    found = single_file(path, ".pt")
    if found is None or not _NAME.fullmatch(found.name):
        return False
    return peek_keys(found) >= {"W_enc", "W_dec", "b_enc", "b_dec"}


def _load(path: Path) -> SAE:
    file = the_file(path, ".pt")
    weights, config = read_weights(file), read_config(file.parent / "config.json", optional=True)
    b_enc, b_dec = weights.vector("b_enc"), weights.vector("b_dec")
    d_sae, d_in = len(b_enc), len(b_dec)
    hook, k = _hook(file, config), _k(file, config)
    return SAE(
        activation="topk",
        encoder=weights.matrix("W_enc", d_sae, d_in),
        b_enc=b_enc,
        decoder=weights.matrix("W_dec", d_sae, d_in, transposed=True),
        b_dec=b_dec,
        k=k,
        l0_expected=k,
        hook_in=hook,
        hook_out=hook,
        model_name=config.note("base_model"),
    )


def _k(file: Path, config: Config) -> int:
    """From the config, or from the repository's name (…-L0_100)."""
    if config.has("k"):
        return config.integer("k")
    found = re.search(r"L0_(\d+)", str(full_path(file).parent))
    if found is None:
        raise DataError(f"{config.path}: has no key 'k', expected the number of latents kept per token")
    return int(found.group(1))


def _hook(file: Path, config: Config) -> str | None:
    """`hook_point` is a name with the layer in it, a pattern for one, or words for the residual stream."""
    found = _NAME.fullmatch(file.name)
    if found is None:
        return None
    name = config.text("hook_point") or "residual stream"
    if "." in name:
        return re.sub(r"\{\w*\}", found.group(1), name)
    return f"blocks.{found.group(1)}.hook_resid_post" if "resid" in name.lower() else None


sae_formats.register("qwen_scope")(SAEFormat("a file layerN.sae.pt (and config.json)", _detect, _load))
