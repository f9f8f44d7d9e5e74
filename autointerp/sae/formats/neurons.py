"""A layer's own neurons as features: `neurons:HOOKPOINT:WIDTH`, for example
`neurons:model.layers.2.mlp.down_proj:in:352`.

The encoder is the identity and the activation is ReLU: a neuron's positive side. Nothing is stored and no product
formed.
"""

from pathlib import Path

import torch

from autointerp.errors import UserError
from autointerp.sae import SAEFormat, sae_formats
from autointerp.sae.canonical import SAE

_SYNTAX = "neurons:HOOKPOINT:WIDTH"
_MOST = 1 << 24  # far beyond any layer: a slip of the keyboard must not fill the memory


def _detect(path: Path) -> bool:
    return str(path).startswith("neurons:")


def _load(path: Path) -> SAE:
    hook, _, width = str(path).removeprefix("neurons:").rpartition(":")
    if not hook or not width.isdecimal() or not 1 <= int(width) <= _MOST:
        raise UserError(f"{path}: expected {_SYNTAX}, for example neurons:model.layers.2.mlp.down_proj:in:352")
    size = int(width)
    return SAE(
        activation="relu",
        encoder=None,
        b_enc=torch.zeros(size),
        decoder=None,
        b_dec=torch.zeros(size),
        transcoder=True,  # the negative side is not there to be reconstructed: no reconstruction is to be judged
        hook_in=hook,
        hook_out=hook,
    )


sae_formats.register("neurons")(SAEFormat(f"the text {_SYNTAX}", _detect, _load))
