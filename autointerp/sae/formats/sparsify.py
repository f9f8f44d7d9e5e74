"""EleutherAI's sparsify (formerly sae): `{hookpoint}/cfg.json` and `sae.safetensors`, SAEs and transcoders.

The folder is named after the module whose output the SAE reads; a transcoder reads that module's input.
"""

import re
from pathlib import Path

from autointerp.errors import DataError
from autointerp.sae import SAEFormat, sae_formats
from autointerp.sae.canonical import SAE, Activation
from autointerp.sae.files import full_path, read_config, read_weights

_MODULE = re.compile(r"(embed_tokens|embed_in|wte|[A-Za-z_]\w*(\.\w+)+)")


def _detect(path: Path) -> bool:
    return (path / "cfg.json").is_file() and (path / "sae.safetensors").is_file()


def _load(path: Path) -> SAE:
    cfg, weights = read_config(path / "cfg.json"), read_weights(path / "sae.safetensors")
    run = read_config(path.parent / "config.json", optional=True)
    d_in = cfg.integer("d_in")
    # 0 and absent both mean: by the expansion factor.
    d_sae = int(cfg.get("num_latents", 0)) or d_in * cfg.integer("expansion_factor")
    transcode = bool(cfg.get("transcode", False))
    name = full_path(path).name
    module = name if _MODULE.fullmatch(name) else None
    return SAE(
        activation=_activation(cfg.get("activation", "topk"), bool(cfg.get("signed", False)), cfg.path),
        encoder=weights.matrix("encoder.weight", d_sae, d_in),
        b_enc=weights.vector("encoder.bias", d_sae),
        decoder=weights.matrix("W_dec", d_sae, d_in),
        b_dec=weights.vector("b_dec", d_in),
        skip=weights.matrix("W_skip", d_in, d_in, transposed=True) if "W_skip" in weights else None,
        k=cfg.integer("k"),
        subtract_b_dec=not transcode,
        transcoder=transcode,
        l0_expected=cfg.integer("k"),
        hook_in=f"{module}:in" if module and transcode else module,
        hook_out=module,
        context_size=run.get("ctx_len"),
        dataset=run.text("dataset"),
        model_name=run.text("model"),
    )


def _activation(name: str, signed: bool, path: Path) -> Activation:
    if name == "groupmax":
        return "groupmax"
    if name != "topk":
        raise DataError(f"{path}: activation is {name!r}, expected topk or groupmax")
    return "abstopk" if signed else "topk"


sae_formats.register("sparsify")(SAEFormat("a folder with cfg.json and sae.safetensors", _detect, _load))
