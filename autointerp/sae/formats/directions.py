"""Directions with a threshold each, a file of our own: the random ones that `autointerp null` calibrates, or any others.

A direction fires where w · norm(x) exceeds its threshold, and its activation is what is beyond it: ReLU(w · norm(x) − θ).
There is nothing to reconstruct. One safetensors file with `directions` [n, d_in] and `threshold` [n]; in its metadata how
inputs are normalised, where they are read, and whether windows begin with BOS, as JSON under "directions".
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autointerp.errors import DataError
from autointerp.files import write_atomically
from autointerp.sae import SAEFormat, sae_formats
from autointerp.sae.canonical import SAE

_KEY = "directions"
_SETTINGS = ("input_norm", "center_input", "hook_in", "prepend_bos")


def write_directions(path: Path, sae: SAE, threshold: Tensor, extra: Mapping[str, Tensor]) -> None:
    """Write the encoder of `sae` with a threshold [n] for each direction; `extra`: tensors to be kept beside them."""
    from safetensors.torch import save_file

    assert sae.encoder is not None
    settings = {name: getattr(sae, name) for name in _SETTINGS}
    tensors = {"directions": sae.encoder.cpu(), "threshold": threshold.cpu(), **extra}
    metadata = {_KEY: json.dumps(settings, sort_keys=True)}
    write_atomically(path, lambda partial: save_file(tensors, partial, metadata=metadata))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of such a file. Raises DataError."""
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            settings = json.loads((file.metadata() or {})[_KEY])
            return {name: file.get_tensor(name) for name in file.keys()}, dict(settings)  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: not a file of directions ({error}); delete it and make it anew: autointerp null"
        ) from error


def _detect(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    if not path.is_file() or path.suffix != ".safetensors":
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return _KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def _load(path: Path) -> SAE:
    tensors, settings = _read(path)
    try:
        directions, threshold = tensors["directions"], tensors["threshold"]
        return SAE(
            activation="relu", encoder=directions, b_enc=-threshold, decoder=directions,
            b_dec=torch.zeros(directions.shape[1]), transcoder=True, hook_out=settings["hook_in"], **settings,
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: not a file of directions ({error}); make it anew: autointerp null") from error


sae_formats.register("directions")(SAEFormat("a .safetensors file of autointerp null", _detect, _load))
