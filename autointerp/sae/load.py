"""`load_sae`: find the files, recognise the format, read it."""

import os
from dataclasses import replace
from pathlib import Path

from autointerp.errors import DataError, UserError
from autointerp.sae import sae_formats
from autointerp.sae.canonical import SAE
from autointerp.sae.files import listing
from autointerp.sae.hub import locate

# How far the message about a folder of SAEs looks for them.
_DEPTH = 6
_MOST_FOLDERS = 300


def load_sae(source: str | Path, *, format: str | None = None, device: str = "cpu") -> SAE:
    """Load an SAE from a local folder or file, a hub id (org/repo/folder@revision) or a description ("random:…").

    `format` skips the detection. A local path wins over a hub id. Raises UserError where nothing fits, DataError (one
    of its kinds) for a file that is not what its format says.
    """
    path = _described(source) or locate(str(source))
    if format is None:
        format, path = _detect(path)
    try:
        sae = sae_formats.get(format).load(path)
    except (ValueError, TypeError) as error:
        # A config or tensors that contradict each other: found when the SAE is put together.
        raise DataError(f"{path}: is not a sound {format} SAE: {error}") from error
    return replace(sae, source=str(source), format=format).to(device)


def _described(source: str | Path) -> Path | None:
    """The formats without files are recognised by their text alone: they must not reach for the hub."""
    text = str(source)
    head, colon, _ = text.partition(":")
    return Path(text) if colon and head in sae_formats.names() and not Path(text).exists() else None


def _matching(path: Path) -> list[str]:
    return [name for name, one in sae_formats.items() if one.detect(path)]


def _detect(path: Path) -> tuple[str, Path]:
    """The one format that fits, and the path that it fits: a weight file may be given for the folder that it is in."""
    for candidate in (path, path.parent) if path.is_file() else (path,):
        names = _matching(candidate)
        if len(names) == 1:
            return names[0], candidate
        if names:
            raise UserError(f"{path}: fits several SAE formats ({', '.join(names)}): name one with format")
    raise UserError(_nothing_fits(path))


def _nothing_fits(path: Path) -> str:
    found = listing(path) if path.exists() else "a description, not a file"
    below = _saes_below(path) if path.is_dir() else []
    if below:
        shown = ", ".join(str(one) for one in below[:6]) + (", …" if len(below) > 6 else "")
        return f"{path}: is not an SAE itself (found {found}) but holds some: give one of {shown}"
    layouts = "; ".join(f"{name}: {one.layout}" for name, one in sae_formats.items())
    return f"{path}: fits no SAE format: found {found}, expected one of: {layouts}"


def _saes_below(path: Path) -> list[Path]:
    """SAEs in the folders below. For the message only: what cannot be read is passed over."""
    found: list[Path] = []
    level = [path]
    for _ in range(_DEPTH):
        level = [Path(child.path) for folder in level for child in _folders_in(folder)][:_MOST_FOLDERS]
        for folder in sorted(level):
            try:
                found += [folder] if _matching(folder) else []
            except UserError:
                continue
    return found


def _folders_in(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if entry.is_dir()]
    except OSError:
        return []  # not ours to read
