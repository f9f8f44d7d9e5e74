"""Random directions, the control that every dictionary has to beat: `random:d_in=128,d_sae=1024,k=16`.

The directions are uniform on the unit sphere, and the decoder is the encoder's transpose. With `k` the k largest
projections of a token are active: as dense as a dictionary with that L0, whatever the model. With `threshold=X` in its
place a feature fires where the projection exceeds X (JumpReLU). Optional: `seed=0` and `hook=HOOKPOINT`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from autointerp.errors import UserError
from autointerp.sae import SAEFormat, sae_formats
from autointerp.sae.canonical import SAE

_SYNTAX = "random:d_in=N,d_sae=N,k=N (or threshold=X)[,seed=N][,hook=HOOKPOINT]"
_KEYS = ("d_in", "d_sae", "k", "threshold", "seed", "hook")
# 2 GB of directions, in the double precision that they are drawn in.
_MOST_NUMBERS = 1 << 28


def _detect(path: Path) -> bool:
    return str(path).startswith("random:")


def _load(path: Path) -> SAE:
    text = str(path)
    options = _options(text)
    try:
        d_in, d_sae, seed = int(options["d_in"]), int(options["d_sae"]), int(options.get("seed", "0"))
        kind = _kind(text, options, d_sae)
    except (KeyError, ValueError) as error:
        raise UserError(f"{text}: {error} is missing or no number, expected {_SYNTAX}") from error
    if min(d_in, d_sae) < 1 or d_in * d_sae > _MOST_NUMBERS or not 0 <= seed < 1 << 32:
        raise UserError(f"{text}: expected sizes of 1 to {_MOST_NUMBERS} numbers in all and a seed below 2^32")
    # RandomState's stream is frozen for good, unlike that of numpy's newer generators: the control is the same
    # everywhere.
    directions = np.random.RandomState(seed).standard_normal((d_sae, d_in))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    weights = torch.from_numpy(directions.astype(np.float32))
    return SAE(
        encoder=weights,
        b_enc=torch.zeros(d_sae),
        decoder=weights,
        b_dec=torch.zeros(d_in),
        transcoder=True,  # nothing was trained to be reconstructed: no reconstruction is to be judged
        hook_in=options.get("hook"),
        hook_out=options.get("hook"),
        **kind,
    )


def _options(text: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for item in text.removeprefix("random:").split(","):
        key, equals, value = item.strip().partition("=")
        if not equals or key not in _KEYS or key in options:
            raise UserError(f"{text}: found {item!r}, expected {_SYNTAX}")
        options[key] = value
    if ("k" in options) == ("threshold" in options):
        raise UserError(f"{text}: expected one of k and threshold: {_SYNTAX}")
    return options


def _kind(text: str, options: dict[str, str], d_sae: int) -> dict[str, Any]:
    if "k" in options:
        k = int(options["k"])
        if not 1 <= k <= d_sae:
            raise UserError(f"{text}: k is {k}, expected 1 to d_sae = {d_sae}")
        return {"activation": "topk", "k": k, "l0_expected": float(k)}
    threshold = float(options["threshold"])
    if not 0 <= threshold < float("inf"):
        raise UserError(f"{text}: threshold is {threshold}, expected a number of at least 0")
    return {"activation": "jumprelu", "threshold": torch.full((max(d_sae, 0),), threshold)}


sae_formats.register("random")(SAEFormat(f"the text {_SYNTAX}", _detect, _load))
