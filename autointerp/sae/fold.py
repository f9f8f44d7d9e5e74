"""Scalings that a format applies at run time, moved into the weights once: the canonical SAE then has none of them."""

from dataclasses import replace

import torch
from torch import Tensor

from autointerp.sae.canonical import SAE


def fold_decoder_norm(sae: SAE, *, threshold_folded: bool) -> SAE:
    """p ← p · ‖W_dec,i‖ before the activation, and W_dec,i / ‖W_dec,i‖ in the decode (`rescale_acts_by_decoder_norm`).

    `threshold_folded`: a JumpReLU threshold is already stated in units of p · ‖W_dec,i‖; an ordinary one is scaled too.
    """
    assert sae.encoder is not None and sae.decoder is not None
    norm = sae.decoder.norm(dim=1)
    length = torch.where(norm > 0, norm, 1.0)  # a dead feature's decoder may be zero, and stays so
    threshold = sae.threshold
    if threshold is not None and not threshold_folded:
        threshold = threshold * norm
    return replace(
        sae,
        encoder=sae.encoder * norm[:, None],
        b_enc=sae.b_enc * norm,
        decoder=sae.decoder / length[:, None],
        threshold=threshold,
    )


def fold_scales(sae: SAE, scale_in: float, scale_out: float | None = None) -> SAE:
    """The SAE was trained on x · scale_in and to give y · scale_out (an autoencoder: the same): make it read x, give y.

    b_enc and the threshold stay: they are in the units of the scaled inputs, as the activations are. Subtracting
    b_dec / scale_in from x before the scaled encoder is subtracting b_dec from x · scale_in.
    """
    assert sae.encoder is not None and sae.decoder is not None
    out = scale_in if scale_out is None else scale_out
    return replace(sae, encoder=sae.encoder * scale_in, decoder=sae.decoder / out, b_dec=sae.b_dec / out)


def fold_decode_scale(sae: SAE, scale: Tensor) -> SAE:
    """f · scale [d_sae] in the decode only (SAELens' `finetuning_scaling_factor`): the activations are not touched."""
    assert sae.decoder is not None
    return replace(sae, decoder=sae.decoder * scale[:, None])
