"""Opening weight files that strangers wrote: nothing is executed, and nothing is unpacked beyond what the file holds.

`.pt` files are read with `weights_only=True`, `.npz` files with `allow_pickle=False`: a file that needs pickle is
refused. So is an archive that declares more than it holds, before anything is allocated for it.
"""

import pickle
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from autointerp.errors import DataError
from autointerp.sae.configs import one_line

_TORCH_ERRORS = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    zipfile.BadZipFile,
)
_ZIP_ERRORS = (RuntimeError, EOFError, OSError, ValueError, zipfile.BadZipFile, zlib.error)
# Weights hardly compress (1.1 to 2 times): what unpacks to more is made to fill the memory.
_MOST_EXPANSION = 50


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors. The library itself checks every declared shape against the bytes that are there."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    except (KeyError, ValueError, TypeError, RuntimeError) as error:  # a type of number that torch does not have
        raise DataError(f"{path}: holds a type of number that cannot be read ({one_line(error)})") from error


def safetensors_keys(path: Path) -> frozenset[str]:
    """The names of the tensors, without reading them."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as opened:
            return frozenset(opened.keys())
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def safetensors_slices(path: Path, key: str) -> Iterator[Tensor]:
    """The matrices [:, i] of a tensor of three dimensions, one at a time: it may be larger than the memory."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as opened:
            whole = opened.get_slice(key)
            shape = whole.get_shape()
            if len(shape) != 3 or 0 in shape:
                raise DataError(f"{path}: {key} has shape {shape}, expected three dimensions")
            for i in range(shape[1]):
                yield whole[:, i]
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def read_npz(path: Path) -> dict[str, Tensor]:
    """All arrays, as tensors."""
    try:
        _check_npz(path)
        with np.load(path, allow_pickle=False) as opened:
            return {key: torch.from_numpy(_native(opened[key])) for key in opened.files}
    except _ZIP_ERRORS as error:
        raise _damaged(path, error) from error


def read_torch(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """The dictionary in a `.pt` file, on the CPU. Anything but tensors and plain values is refused (DataError)."""
    try:
        _check_torch(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on foreign pickles: what counts is whether it reads them
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


def _check_npz(path: Path) -> None:
    """Refuse what would be allocated without being there: numpy allocates what a header says before it reads on."""
    with zipfile.ZipFile(path) as archive:
        _check_expansion(path, archive, _MOST_EXPANSION)
        for info in archive.infolist():
            with archive.open(info) as stream:
                shape, dtype = _header(stream)
                header_bytes = stream.tell()
            key = info.filename.removesuffix(".npy")
            if dtype.hasobject:
                raise DataError(f"{path}: {key} holds pickled Python objects, expected numbers: it was not read")
            if dtype.kind not in "fiub" or dtype.itemsize > 8:
                raise DataError(f"{path}: {key} has dtype {dtype}, expected numbers")
            declared = _product(shape) * dtype.itemsize
            if declared != info.file_size - header_bytes:
                raise DataError(
                    f"{path}: {key} declares the shape {list(shape)} of {dtype}, {declared} bytes, "
                    f"but holds {info.file_size - header_bytes}"
                )


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = npy.read_magic(stream)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"an array of the .npy version {version}")
    shape, _, dtype = readers[version](stream)
    return shape, dtype


def _product(shape: tuple[int, ...]) -> int:
    """In Python's integers, which do not overflow."""
    total = 1
    for size in shape:
        total *= size
    return total


def _native(array: Any) -> Any:
    """In this machine's byte order, with at least one dimension."""
    return np.atleast_1d(array).astype(array.dtype.newbyteorder("="), copy=False)


def _check_torch(path: Path) -> None:
    """torch.save never compresses: a file that declares more than its own size is made to fill the memory."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            _check_expansion(path, archive, 1)


def _check_expansion(path: Path, archive: zipfile.ZipFile, most: int) -> None:
    size, declared = path.stat().st_size, sum(info.file_size for info in archive.infolist())
    if declared > most * size:
        raise DataError(f"{path}: unpacks to {declared} bytes from {size}, expected weights: it was not read")


def _damaged(path: Path, error: Exception) -> DataError:
    kind = path.suffix[1:]
    return DataError(f"{path}: is not a whole {kind} file ({one_line(error)}): download or copy it again")
