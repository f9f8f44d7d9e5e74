"""Gemma Scope (Gemma 2): `layer_L/width_W/average_l0_N/params.npz` and no config.

What the SAE reads is said by the repository's name (…-res, -mlp, -att, -transcoders), the layer and the L0 by the
folder's. The width in the folder's name is rounded: the tensors decide.
"""

import re
from pathlib import Path

from autointerp.sae import SAEFormat, sae_formats
from autointerp.sae.canonical import SAE
from autointerp.sae.files import full_path, layer_in, read_weights

_SITE = re.compile(r"gemma-scope-(?P<model>.+)-(?P<site>res|mlp|att|transcoders)(?:-canonical)?$")
_HOOKS = {
    "res": ("hook_resid_post", "hook_resid_post"),
    "mlp": ("hook_mlp_out", "hook_mlp_out"),
    "att": ("attn.hook_z", "attn.hook_z"),
    "transcoders": ("ln2.hook_normalized", "hook_mlp_out"),
}


def _detect(path: Path) -> bool:
    return (path / "params.npz").is_file()


def _load(path: Path) -> SAE:
    weights = read_weights(path / "params.npz")
    parts = full_path(path).parts
    site = next((found for part in reversed(parts) if (found := _SITE.search(part))), None)
    kind = site["site"] if site else None
    b_enc, b_dec = weights.vector("b_enc"), weights.vector("b_dec")
    d_sae, d_out = len(b_enc), len(b_dec)
    d_in = None if kind == "transcoders" else d_out
    encoder = weights.matrix("W_enc", d_sae, d_in, transposed=True)
    decoder = weights.matrix("W_dec", d_sae, d_out)
    embedding = "embedding" in parts
    if embedding:
        # Trained on embeddings before Gemma multiplies them by the root of d_model; models give them after it.
        encoder, decoder = encoder / d_out**0.5, decoder * d_out**0.5
    layer = next((number for part in reversed(parts) if (number := layer_in(part)) is not None), None)
    hook_in, hook_out = _hooks(kind, layer, embedding)
    return SAE(
        activation="jumprelu",
        encoder=encoder,
        b_enc=b_enc,
        decoder=decoder,
        b_dec=b_dec,
        threshold=weights.vector("threshold", d_sae),
        transcoder=kind == "transcoders",
        l0_expected=_l0(path),
        hook_in=hook_in,
        hook_out=hook_out,
        prepend_bos=True,
        context_size=1024,
        model_name=f"gemma-2-{site['model'].removesuffix('-pt')}" if site else None,
    )


def _hooks(kind: str | None, layer: int | None, embedding: bool) -> tuple[str | None, str | None]:
    if embedding:
        return "hook_embed", "hook_embed"
    if kind is None or layer is None:
        return None, None
    hook_in, hook_out = _HOOKS[kind]
    return f"blocks.{layer}.{hook_in}", f"blocks.{layer}.{hook_out}"


def _l0(path: Path) -> float | None:
    found = re.fullmatch(r"average_l0_(\d+)", full_path(path).name)
    return float(found.group(1)) if found else None


sae_formats.register("gemma_scope_1")(SAEFormat("a folder with params.npz", _detect, _load))
