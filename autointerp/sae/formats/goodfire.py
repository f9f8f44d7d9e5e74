"""Goodfire: one `.pt` or `.pth` file with the state_dict of two linear layers; ReLU on the residual stream."""

import re
from pathlib import Path

from autointerp.sae import SAEFormat, sae_formats
from autointerp.sae.canonical import SAE
from autointerp.sae.files import peek_keys, read_weights, single_file, the_file

_NAME = re.compile(r"(?P<model>.+)-SAE-l(?P<layer>\d+)")


def _detect(path: Path) -> bool:
    found = single_file(path, ".pt", ".pth")
    return found is not None and peek_keys(found) >= {"encoder_linear.weight", "decoder_linear.weight"}


def _load(path: Path) -> SAE:
    file = the_file(path, ".pt", ".pth")
    weights = read_weights(file)
    b_enc, b_dec = weights.vector("encoder_linear.bias"), weights.vector("decoder_linear.bias")
    d_sae, d_in = len(b_enc), len(b_dec)
    name = _NAME.fullmatch(file.stem)
    hook = f"blocks.{name['layer']}.hook_resid_post" if name else None
    return SAE(
        activation="relu",
        encoder=weights.matrix("encoder_linear.weight", d_sae, d_in),
        b_enc=b_enc,
        decoder=weights.matrix("decoder_linear.weight", d_sae, d_in, transposed=True),
        b_dec=b_dec,
        hook_in=hook,
        hook_out=hook,
        model_name=name["model"] if name else None,
    )


sae_formats.register("goodfire")(SAEFormat("a .pt or .pth file with encoder_linear and decoder_linear", _detect, _load))
