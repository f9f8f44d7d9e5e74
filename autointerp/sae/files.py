"""Reading weights and configs that strangers wrote: nothing is executed, and every complaint names the file and the
key.

`.pt` files are read with `weights_only=True`, `.npz` files with `allow_pickle=False`: a file that needs pickle is
refused.
"""

import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autointerp.errors import DataError, UserError

_TORCH_SUFFIXES = (".pt", ".pth", ".bin")
_TORCH_ERRORS = (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile)


class Weights:
    """The tensors of one file. Every access checks presence, shape and finiteness, and gives float32."""

    def __init__(self, path: Path, tensors: Mapping[str, Any]) -> None:
        self.path = path
        self._tensors = tensors

    def __contains__(self, key: str) -> bool:
        return key in self._tensors

    def keys(self) -> list[str]:
        return sorted(self._tensors)

    def raw(self, key: str) -> Any:
        """What the file holds under `key`: a tensor of any type, a number, a string or a mapping."""
        if key not in self._tensors:
            raise DataError(f"{self.path}: has no key {key!r}; it has {_some(self.keys())}")
        return self._tensors[key]

    def tensor(self, key: str) -> Tensor:
        """Any tensor, as finite float32."""
        found = self.raw(key)
        if not isinstance(found, Tensor):
            raise DataError(f"{self.path}: {key} is a {type(found).__name__}, expected a tensor")
        found = found.detach().to(torch.float32)
        finite = torch.isfinite(found)
        if not finite.all():
            bad = int((~finite).sum())
            raise DataError(f"{self.path}: {key} has {bad} values that are NaN or infinite, expected finite numbers")
        return found

    def vector(self, key: str, length: int | None = None) -> Tensor:
        """A vector, of the given length if any."""
        found = self.tensor(key)
        if found.ndim != 1 or (length is not None and len(found) != length):
            raise self.wrong_shape(key, found, "[n]" if length is None else f"[{length}]")
        return found

    def matrix(self, key: str, rows: int | None, columns: int | None, *, transposed: bool = False) -> Tensor:
        """The matrix, oriented as [rows, columns]; None stands for "the other dimension of the file's matrix".

        `transposed` is the format's convention: the file holds [columns, rows]. The shape decides; where it fits both
        ways the convention does.
        """
        found = self.tensor(key)
        if found.ndim == 2:
            for flip in (transposed, not transposed):
                oriented = found.T if flip else found
                if rows in (None, oriented.shape[0]) and columns in (None, oriented.shape[1]):
                    return oriented
        sizes = ["n" if size is None else str(size) for size in (rows, columns)]
        if transposed:
            sizes.reverse()
        raise self.wrong_shape(key, found, f"[{sizes[0]}, {sizes[1]}] or its transpose")

    def per_feature(self, key: str, d_sae: int) -> Tensor:
        """A vector over features; a scalar is repeated."""
        found = self.tensor(key)
        return found.reshape(1).repeat(d_sae) if found.numel() == 1 else self.vector(key, d_sae)

    def integer(self, key: str) -> int:
        """A whole number, stored as a scalar tensor or as a number."""
        found = self.raw(key)
        value = found.item() if isinstance(found, Tensor) and found.numel() == 1 else found
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            raise DataError(f"{self.path}: {key} is {value!r}, expected a whole number")
        return int(value)

    def wrong_shape(self, key: str, found: Tensor, expected: str) -> DataError:
        return DataError(f"{self.path}: {key} has shape {list(found.shape)}, expected {expected}")


class Config:
    """A JSON or YAML object. `get` is for what may be missing, `need` for what may not."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path = path
        self.values = values

    def get(self, key: str, default: Any = None) -> Any:
        found = self.values.get(key)
        return default if found is None else found

    def need(self, key: str) -> Any:
        if self.values.get(key) is None:
            raise DataError(f"{self.path}: has no key {key!r}; it has {_some(sorted(self.values))}")
        return self.values[key]

    def integer(self, key: str) -> int:
        value = self.need(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            raise DataError(f"{self.path}: {key} is {value!r}, expected a whole number")
        return int(value)

    def text(self, key: str) -> str | None:
        value = self.get(key)
        return value if isinstance(value, str) else None

    def section(self, key: str) -> "Config":
        """A nested object; an empty one where it is missing."""
        found = self.get(key, {})
        if not isinstance(found, Mapping):
            raise DataError(f"{self.path}: {key} is a {type(found).__name__}, expected an object")
        return Config(self.path, found)


def read_config(path: Path, *, optional: bool = False) -> Config:
    """Read a `.json`, `.yaml` or `.yml` file that holds an object. Missing and optional: an empty Config."""
    if not path.is_file():
        if optional:
            return Config(path, {})
        raise DataError(f"{path}: there is no such file, expected this format's config")
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else _parse_yaml(text)
    except ValueError as error:
        raise DataError(f"{path}: is not a valid {path.suffix[1:].upper()} file: {_one_line(error)}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds a {type(found).__name__}, expected an object")
    return Config(path, found)


def _parse_yaml(text: str) -> Any:
    import yaml  # type: ignore[import-untyped]

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(error) from error


def read_weights(path: Path) -> Weights:
    """Read all tensors of a `.safetensors`, `.npz`, `.pt` or `.pth` file. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file, expected this format's weights")
    if path.suffix == ".safetensors":
        return Weights(path, _read_safetensors(path))
    if path.suffix == ".npz":
        return Weights(path, _read_npz(path))
    if path.suffix in _TORCH_SUFFIXES:
        return Weights(path, read_torch(path))
    raise DataError(f"{path}: is a {path.suffix or 'nameless'} file, expected .safetensors, .npz, .pt or .pth")


def peek_keys(path: Path) -> frozenset[str]:
    """The names of the tensors in a file, without reading them. Empty for files that are of no known kind."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as opened:
                return frozenset(opened.keys())
        except (SafetensorError, OSError) as error:
            raise _damaged(path, error) from error
    if path.suffix in _TORCH_SUFFIXES:
        return frozenset(read_torch(path, mmap=zipfile.is_zipfile(path)))
    return frozenset()


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as opened:
            return {key: torch.from_numpy(np.atleast_1d(opened[key])) for key in opened.files}
    except ValueError as error:
        raise DataError(f"{path}: holds pickled Python objects, expected plain arrays: it was not read") from error
    except (OSError, EOFError, zipfile.BadZipFile, TypeError) as error:
        raise _damaged(path, error) from error


def read_torch(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """The dictionary in a `.pt` file, on the CPU. Anything but tensors and plain values is refused (DataError)."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path}: holds pickled Python objects, expected a dictionary of tensors: it was not read, because reading "
            "it would run code. Save the state_dict alone, or convert the file to safetensors"
        ) from error
    except _TORCH_ERRORS as error:
        raise _damaged(path, error) from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds a {type(found).__name__}, expected a dictionary of tensors")
    return {str(key): value for key, value in found.items()}


def _damaged(path: Path, error: Exception) -> DataError:
    kind = path.suffix[1:]
    return DataError(f"{path}: is not a whole {kind} file ({_one_line(error)}): download or copy it again")


def single_file(path: Path, *suffixes: str) -> Path | None:
    """`path` itself if it is a file with one of the suffixes, or the only such file of the folder `path`."""
    if path.is_file():
        return path if path.suffix in suffixes else None
    if not path.is_dir():
        return None
    found = [child for child in path.iterdir() if child.suffix in suffixes and child.is_file()]
    return found[0] if len(found) == 1 else None


def the_file(path: Path, *suffixes: str) -> Path:
    """`single_file`, or a UserError that says what is there."""
    found = single_file(path, *suffixes)
    if found is None:
        raise UserError(f"{path}: expected one {' or '.join(suffixes)} file there, found {listing(path)}")
    return found


def full_path(path: Path) -> Path:
    """The absolute path, links left alone: formats read names of folders, and the hub's cache links files."""
    return Path(os.path.abspath(path))


def listing(path: Path) -> str:
    """What is in a folder, for messages."""
    if path.is_file():
        return f"the file {path.name}"
    names = sorted(child.name + ("/" if child.is_dir() else "") for child in path.iterdir())
    return _some(names) if names else "an empty folder"


def layer_in(text: str) -> int | None:
    """The layer that a name such as `layer_12`, `layers.3.mlp` or `resid_post_layer_2` speaks of."""
    found = re.search(r"layers?[._-]?(\d+)", text)
    return int(found.group(1)) if found else None


def _some(names: list[str], most: int = 12) -> str:
    shown = ", ".join(names[:most])
    return f"{shown}, … ({len(names)} in all)" if len(names) > most else shown or "nothing"


def _one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
