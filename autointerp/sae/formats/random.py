"""Random directions, the control that every dictionary has to beat: `random:d_in=128,d_sae=1024,threshold=2.5`.

Optional: `seed=0` and `hook=HOOKPOINT`. The directions are uniform on the unit sphere; a feature fires where the
projection of the input on its direction exceeds the threshold (JumpReLU). The decoder is the encoder's transpose.
"""

from pathlib import Path

import numpy as np
import torch

from autointerp.errors import UserError
from autointerp.sae import SAEFormat, sae_formats
from autointerp.sae.canonical import SAE

_SYNTAX = "random:d_in=N,d_sae=N,threshold=X[,seed=N][,hook=HOOKPOINT]"


def _detect(path: Path) -> bool:
    return str(path).startswith("random:")


def _load(path: Path) -> SAE:
    text = str(path)
    options: dict[str, str] = {}
    for item in text.removeprefix("random:").split(","):
        key, equals, value = item.strip().partition("=")
        if not equals or key not in ("d_in", "d_sae", "seed", "threshold", "hook"):
            raise UserError(f"{text}: found {item!r}, expected {_SYNTAX}")
        options[key] = value
    try:
        d_in, d_sae, seed = int(options["d_in"]), int(options["d_sae"]), int(options.get("seed", "0"))
        threshold = float(options["threshold"])
    except (KeyError, ValueError) as error:
        raise UserError(f"{text}: {error} is missing or no number, expected {_SYNTAX}") from error
    if min(d_in, d_sae) < 1 or not 0 <= seed < 1 << 32 or not 0 <= threshold < float("inf"):
        raise UserError(f"{text}: expected positive sizes, a seed below 2^32 and a threshold of at least 0")
    # RandomState's stream is frozen for good, unlike that of numpy's newer generators: the control is the same
    # everywhere.
    directions = np.random.RandomState(seed).standard_normal((d_sae, d_in))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    weights = torch.from_numpy(directions.astype(np.float32))
    return SAE(
        activation="jumprelu",
        encoder=weights,
        b_enc=torch.zeros(d_sae),
        decoder=weights,
        b_dec=torch.zeros(d_in),
        threshold=torch.full((d_sae,), threshold),
        hook_in=options.get("hook"),
        hook_out=options.get("hook"),
    )


sae_formats.register("random")(SAEFormat(f"the text {_SYNTAX}", _detect, _load))
