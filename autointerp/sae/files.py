"""Reading weights that strangers wrote: every tensor that is asked for is checked before it is used, and every complaint
names the file and the key.
"""

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autointerp.errors import DataError, UserError
from autointerp.sae.archives import read_npz, read_safetensors, read_torch, safetensors_keys
from autointerp.sae.configs import Config, as_integer, as_number, brief, read_config, some

__all__ = [
    "Config", "Weights", "full_path", "layer_in", "listing", "peek_keys", "read_config", "read_weights", "single_file",
    "the_file",
]  # fmt: skip

_TORCH_SUFFIXES = (".pt", ".pth", ".bin")


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
            raise DataError(f"{self.path}: has no key {key!r}; it has {some(self.keys())}")
        return self._tensors[key]

    def tensor(self, key: str) -> Tensor:
        """Any tensor, as finite float32."""
        found = self.raw(key)
        if not isinstance(found, Tensor):
            raise DataError(f"{self.path}: {key} is a {type(found).__name__}, expected a tensor")
        self._check_storage(key, found)
        try:
            found = found.detach().to(torch.float32)
        except (RuntimeError, NotImplementedError) as error:
            raise DataError(f"{self.path}: {key} has dtype {found.dtype}, which cannot be read as float32") from error
        finite = torch.isfinite(found)
        if not finite.all():
            bad = int((~finite).sum())
            raise DataError(f"{self.path}: {key} has {bad} values that are NaN or infinite, expected finite numbers")
        return found

    def _check_storage(self, key: str, found: Tensor) -> None:
        """Floating-point numbers that are all there."""
        if found.layout != torch.strided or found.is_meta or found.is_quantized:
            raise DataError(f"{self.path}: {key} is a sparse, quantised or empty-handed tensor, expected a plain one")
        if not found.is_floating_point():
            raise DataError(
                f"{self.path}: {key} has dtype {found.dtype}, expected floating-point numbers "
                "(weights that were quantised to integers are not read)"
            )
        if found.numel() == 0:
            raise DataError(f"{self.path}: {key} has shape {list(found.shape)}: it holds no numbers")
        declared, held = found.numel() * found.element_size(), found.untyped_storage().nbytes()
        if declared > held:
            raise DataError(
                f"{self.path}: {key} declares the shape {list(found.shape)}, {declared} bytes, but holds {held}"
            )

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
        value = self._scalar(key)
        found = as_integer(value)
        if found is None:
            raise DataError(f"{self.path}: {key} is {brief(value)}, expected a whole number")
        return found

    def number(self, key: str) -> float:
        """A finite number, stored as a scalar tensor or as a number."""
        value = self._scalar(key)
        found = as_number(value)
        if found is None:
            raise DataError(f"{self.path}: {key} is {brief(value)}, expected a finite number")
        return found

    def _scalar(self, key: str) -> Any:
        found = self.raw(key)
        plain = isinstance(found, Tensor) and found.numel() == 1 and found.layout == torch.strided and not found.is_meta
        return found.item() if plain else found

    def section(self, key: str) -> "Weights":
        """A nested dictionary of tensors."""
        found = self.raw(key)
        if not isinstance(found, Mapping):
            raise DataError(f"{self.path}: {key} is a {type(found).__name__}, expected a dictionary")
        return Weights(self.path, {str(name): value for name, value in found.items()})

    def wrong_shape(self, key: str, found: Tensor, expected: str) -> DataError:
        return DataError(f"{self.path}: {key} has shape {list(found.shape)}, expected {expected}")


def read_weights(path: Path) -> Weights:
    """Read all tensors of a `.safetensors`, `.npz`, `.pt` or `.pth` file. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file, expected this format's weights")
    if path.suffix == ".safetensors":
        return Weights(path, read_safetensors(path))
    if path.suffix == ".npz":
        return Weights(path, read_npz(path))
    if path.suffix in _TORCH_SUFFIXES:
        return Weights(path, read_torch(path))
    raise DataError(f"{path}: is a {path.suffix or 'nameless'} file, expected .safetensors, .npz, .pt or .pth")


def peek_keys(path: Path) -> frozenset[str]:
    """The names of the tensors in a file, without reading them. Empty for files that are of no known kind."""
    if path.suffix == ".safetensors":
        return safetensors_keys(path)
    if path.suffix in _TORCH_SUFFIXES:
        return frozenset(read_torch(path, mmap=zipfile.is_zipfile(path)))
    return frozenset()


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
    if not path.is_dir():
        return f"{path.name}, which is neither a file nor a folder"
    names = sorted(child.name + ("/" if child.is_dir() else "") for child in path.iterdir())
    return some(names) if names else "an empty folder"


def layer_in(text: str) -> int | None:
    """The layer that a name such as `layer_12`, `layers.3.mlp` or `resid_post_layer_2` speaks of."""
    found = re.search(r"layers?[._-]?(\d+)", text)
    return int(found.group(1)) if found else None
