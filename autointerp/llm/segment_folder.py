"""Which segments of a journal's folder count, also when a compaction was interrupted.

A compaction writes one new segment whose first line names the segments that it replaces, by name, size and digest of
their bytes. The segment gets its name by a rename, when it is whole and on the disk; then the others are removed. So at
any moment either the old segments stand alone, or the new one is there and those of the old ones that are still there
are recognised and passed over. A segment that merely has the name of a replaced one (put there by hand, from another
journal) has another digest, and counts.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from autointerp.errors import DataError, UserError
from autointerp.llm.segments import read_header

_SEGMENT_NAME = re.compile(r"\d{6,}\.jsonl")
_LEFT_BEHIND = re.compile(r"\.\d{6,}\.jsonl\.[0-9a-f]+\.partial|index\.cache")  # the latter by earlier versions


@dataclass(frozen=True, slots=True)
class Replaced:
    """A segment as it was when a compaction read it. `digest` is BLAKE2b of all its bytes, 64 hexadecimal digits."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of a compacted segment: what it replaces, and how many lines follow."""

    compacted: list[Replaced]
    lines: int


@dataclass(frozen=True, slots=True)
class Listing:
    """The segments that count, in order; of these, those with a header; and what an interrupted compaction left."""

    segments: list[Path]
    headers: Mapping[Path, Header]
    leftovers: list[Path]


def need_folder(folder: Path) -> None:
    """Raise UserError if there is no such folder."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not there; expected the folder of a journal; run the labelling stage first")


def list_segments(folder: Path) -> Listing:
    """Look at a journal's folder. Raises FileNotFoundError if a compaction removes a segment meanwhile."""
    found = sorted(
        (path for path in folder.iterdir() if _SEGMENT_NAME.fullmatch(path.name)), key=lambda path: int(path.stem)
    )
    headers = {path: header for path in found if (header := _header(path)) is not None}
    names = {path.name: path for path in found}
    replaced = {
        names[old.name]
        for header in headers.values()
        for old in header.compacted
        if old.name in names and _is(names[old.name], old)
    }
    return Listing(
        [path for path in found if path not in replaced],
        {path: header for path, header in headers.items() if path not in replaced},
        sorted(replaced),
    )


def sweep(folder: Path, listing: Listing) -> None:
    """Remove what an interrupted process left. Only the journal's writer may."""
    for path in listing.leftovers:
        path.unlink()
    for path in list(folder.iterdir()):
        if _LEFT_BEHIND.fullmatch(path.name):
            path.unlink()


def next_segment(folder: Path) -> Path:
    """A name after all that are taken."""
    taken = [int(path.stem) for path in folder.iterdir() if _SEGMENT_NAME.fullmatch(path.name)]
    return folder / f"{max(taken, default=0) + 1:06d}.jsonl"


def new_digest() -> Any:
    """What `Replaced.digest` is computed with."""
    return blake2b(digest_size=32)


def _header(path: Path) -> Header | None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        record = read_header(fd)
    finally:
        os.close(fd)
    if record is None:
        return None
    try:
        return msgspec.convert(record, Header)
    except msgspec.ValidationError as error:
        raise DataError(
            f"{path}, line 1: a damaged header of a compaction ({error}); expected the segments that it replaces; "
            "restore the file from a copy"
        ) from error


def _is(path: Path, old: Replaced) -> bool:
    if path.stat().st_size != old.size:
        return False
    digest = new_digest()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return bool(digest.hexdigest() == old.digest)
