"""Directions with a threshold each, a folder of our own: the random ones that `autointerp null` calibrates, or any others.

A direction fires where w · norm(x) exceeds its threshold, and its activation is what is beyond it: ReLU(w · norm(x) − θ).
There is nothing to reconstruct. `directions.safetensors` holds `directions` [n, d_in] and `threshold` [n]; `directions.json`
says how inputs are normalised, where they are read, and whether windows begin with BOS.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from autointerp.files import write_atomically, write_text
from autointerp.sae import SAEFormat, sae_formats
from autointerp.sae.canonical import SAE, InputNorm
from autointerp.sae.files import Config, read_config, read_weights

_CONFIG, _WEIGHTS = "directions.json", "directions.safetensors"


def write_directions(folder: Path, sae: SAE, threshold: Tensor, facts: Mapping[str, Any]) -> None:
    """Write the encoder of `sae` with a threshold [n] for each direction; `facts` are kept with the settings."""
    from safetensors.torch import save_file

    assert sae.encoder is not None
    tensors = {"directions": sae.encoder.cpu(), "threshold": threshold.cpu()}
    write_atomically(folder / _WEIGHTS, lambda partial: save_file(tensors, partial))
    settings = {
        "input_norm": sae.input_norm,
        "center_input": sae.center_input,
        "hook": sae.hook_in,
        "prepend_bos": sae.prepend_bos,
    }
    write_text(folder / _CONFIG, json.dumps({**facts, **settings}, indent=1, sort_keys=True) + "\n")


def read_facts(folder: Path) -> Config | None:
    """What was kept with the directions, or None where there are none. Raises DataError."""
    return read_config(folder / _CONFIG) if (folder / _CONFIG).is_file() else None


def _detect(path: Path) -> bool:
    return (path / _CONFIG).is_file() and (path / _WEIGHTS).is_file()


def _load(path: Path) -> SAE:
    cfg, weights = read_config(path / _CONFIG), read_weights(path / _WEIGHTS)
    directions = weights.matrix("directions", None, None)
    norm = cfg.choice("input_norm", "none", ("none", "layer_norm", "constant_norm_rescale"))
    return SAE(
        activation="relu",
        encoder=directions,
        b_enc=-weights.vector("threshold", len(directions)),
        decoder=directions,
        b_dec=torch.zeros(directions.shape[1]),
        input_norm=cast(InputNorm, norm),
        center_input=cfg.flag("center_input"),
        transcoder=True,  # nothing is reconstructed
        hook_in=cfg.text("hook"),
        hook_out=cfg.text("hook"),
        prepend_bos=cfg.flag("prepend_bos") if cfg.has("prepend_bos") else None,
    )


sae_formats.register("directions")(SAEFormat(f"a folder with {_CONFIG} and {_WEIGHTS}", _detect, _load))
