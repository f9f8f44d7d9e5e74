"""Where a feature writes, and what: the place and the direction by which the model can be made to compute with it.

A feature's share of the reconstruction is its activation times its decoder direction, in the model's own units. Of an SAE that
normalises its input token by token it is longer where the hidden state is, as the reconstruction undoes the norm. A transcoder
reads at one hookpoint and writes at another.
"""

import torch
from torch import Tensor

from autointerp.errors import UserError
from autointerp.harvest.forward import Reader
from autointerp.sae import SAE
from autointerp.subject.hookpoints import Hookpoint, capture, resolve_hookpoint
from autointerp.subject.interventions import Edit

_CROSS_LAYER = "circuit_tracer_clt"


def output_site(reader: Reader) -> Hookpoint:
    """Where the SAE's output goes, checked for its width. Raises UserError that says why there is no such place."""
    sae, model = reader.sae, reader.subject.model
    if not sae.transcoder:
        return reader.hookpoint
    if sae.format == _CROSS_LAYER:
        raise UserError(
            "a cross-layer transcoder's feature writes to every layer from its own on, and there is no one place for that"
        )
    if sae.hook_out is None:
        raise UserError("the transcoder's files do not say which hidden state it predicts")
    site = resolve_hookpoint(model, sae.hook_out)
    token = torch.zeros((1, 1), dtype=torch.long, device=reader.subject.device)
    width = capture(model, [site], token)[site].shape[-1]
    if width != sae.d_out:
        raise UserError(f"the transcoder gives {sae.d_out} numbers, and {site}, which it predicts, has {width}")
    return site


def directions(sae: SAE, features: list[int]) -> Tensor:
    """Decoder directions [n, d_out] of some features, without the whole matrix where the decoder is the identity."""
    index = torch.tensor(features, device=sae.device)
    if sae.decoder is not None:
        return sae.decoder[index]
    return torch.nn.functional.one_hot(index, sae.d_sae).float()


def adding(sae: SAE, added: Tensor) -> Edit:
    """The edit that adds activation · direction, `added` [B, d_out] of each row, at every token of x [B, T, d_out]."""

    def edit(x: Tensor) -> Tensor:
        given = x.float()
        return given + added[:, None, :] * lengths(sae, given)

    return edit


def lengths(sae: SAE, x: Tensor) -> Tensor | float:
    """By what the decoder's output is multiplied for the inputs x [..., d]: [..., 1], or 1 where it does not depend on them."""
    if sae.transcoder or sae.input_norm == "none":
        return 1.0
    if sae.input_norm == "layer_norm":
        return x.std(-1, keepdim=True)
    given = x - x.mean(-1, keepdim=True) if sae.center_input else x
    length: Tensor = given.norm(dim=-1, keepdim=True) / sae.d_in**0.5
    return length
