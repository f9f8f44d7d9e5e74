"""What tells one model, SAE or corpus from another: what is in its files, not where they lie or when they were written.

A copy is the same, and so is a fresh clone. What is little is read whole. Where there is more, files are sampled: the beginning,
the end, 4 KiB of every MiB, the header of safetensors with the beginning of every tensor, and small tensors whole. Weights that
were trained further differ everywhere, so 10 GB are known in a fraction of a second. What can go unnoticed is an edit of a few
numbers of a large tensor in place, file size and all else unchanged.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from autointerp.errors import DataError

WHOLE = 512 << 20  # bytes: a folder or file up to this size is read whole
SMALL = 1 << 16  # bytes: files and tensors up to this size always are
_STRIDE, _BLOCK = 1 << 20, 4096
_LONGEST_HEADER = 100 << 20  # safetensors' own limit


def contents(path: Path) -> str:
    """A hexadecimal hash of the names, sizes and contents of a file or of all files of a folder, hidden ones apart; "" for what
    is neither. Raises DataError for what is there and cannot be read."""
    if "\0" in str(path):  # a list of ids, with a character that no file name has
        return ""
    try:
        return _contents(path, visible_files(path))
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # such a list
            return ""
        raise DataError(
            f"{error.filename or path}: cannot be read ({error.strerror}); expected files that this user may read"
        ) from None


def _contents(path: Path, files: Sequence[Path]) -> str:
    if not files:
        return ""
    sizes = [file.stat().st_size for file in files]
    is_whole = sum(sizes) <= WHOLE
    digest = hashlib.sha256()
    for file, size in zip(files, sizes, strict=True):
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        digest.update(f"{len(name)}:{name}:{size}:".encode(errors="surrogateescape"))
        with file.open("rb") as opened:
            if is_whole or size <= SMALL:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
                continue
            for offset, length in _sampled(opened, size, file.suffix):
                digest.update(os.pread(opened.fileno(), length, offset))
    return digest.hexdigest()[:32]


def visible_files(path: Path) -> list[Path]:
    """The file, or those of the folder and the folders below it that are not hidden, in a fixed order."""
    if path.is_file():
        return [path]
    return sorted(_below(path, frozenset()))


def _below(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """Visible files; a link to one of the folders `above` leads nowhere new."""
    above |= {os.path.realpath(folder)}
    if not folder.is_dir():
        return
    for file in (folder / name for name in os.listdir(folder) if not name.startswith(".")):
        if file.is_file():
            yield file
        elif file.is_dir() and os.path.realpath(file) not in above:
            yield from _below(file, above)


def _sampled(file: BinaryIO, size: int, suffix: str) -> Iterator[tuple[int, int]]:
    """(offset, length) of what is read of a large file."""
    yield 0, SMALL
    for offset in range(_STRIDE, size, _STRIDE):
        yield offset, _BLOCK
    yield max(0, size - _BLOCK), _BLOCK
    if suffix == ".safetensors":
        yield from _tensors(file)


def _tensors(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Header, small tensors, and the beginnings of others; nothing where the header cannot be read: whoever loads it will say."""
    length = int.from_bytes(os.pread(file.fileno(), 8, 0), "little")
    if length > _LONGEST_HEADER:
        return
    yield 8, length
    try:
        header = json.loads(os.pread(file.fileno(), length, 8))
        spans = sorted(tuple(map(int, one["data_offsets"])) for name, one in header.items() if name != "__metadata__")
        for begin, end in spans:
            yield 8 + length + begin, end - begin if 0 <= end - begin <= SMALL else _BLOCK
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return
