"""EleutherAI's sparsify (formerly sae): `{hookpoint}/cfg.json` and `sae.safetensors`, SAEs and transcoders.

The folder is named after the module whose output the SAE reads; a transcoder reads that module's input.
"""

import re
from pathlib import Path

from autointerp.errors import DataError
from autointerp.sae import SAEFormat, sae_formats
from autointerp.sae.canonical import SAE, Activation
from autointerp.sae.files import Config, full_path, read_config, read_weights

_MODULE = re.compile(r"(embed_tokens|embed_in|wte|[A-Za-z_]\w*(\.\w+)+)")


def _detect(path: Path) -> bool:
    return (path / "cfg.json").is_file() and (path / "sae.safetensors").is_file()


def _load(path: Path) -> SAE:
    cfg, weights = read_config(path / "cfg.json"), read_weights(path / "sae.safetensors")
    run = read_config(path.parent / "config.json", optional=True)
    d_in = cfg.integer("d_in")
    # 0 and absent both mean: by the expansion factor.
    d_sae = cfg.optional_integer("num_latents") or d_in * cfg.integer("expansion_factor")
    transcode = cfg.flag("transcode")
    if cfg.flag("skip_connection") and "W_skip" not in weights:
        raise DataError(f"{weights.path}: has no key 'W_skip', but {cfg.path.name} says skip_connection")
    name = full_path(path).name
    module = name if _MODULE.fullmatch(name) else None
    return SAE(
        activation=_activation(cfg),
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
        context_size=run.optional_integer("ctx_len"),
        dataset=run.note("dataset"),
        model_name=run.note("model"),
    )


def _activation(cfg: Config) -> Activation:
    if cfg.choice("activation", "topk", ("topk", "groupmax")) == "groupmax":
        return "groupmax"
    return "abstopk" if cfg.flag("signed") else "topk"


sae_formats.register("sparsify")(SAEFormat("a folder with cfg.json and sae.safetensors", _detect, _load))
