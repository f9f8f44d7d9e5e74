"""`load_sae`: find the files, recognise the format, read it."""

import os
from dataclasses import replace
from pathlib import Path

from autointerp.errors import DataError, UserError
from autointerp.sae import sae_formats
from autointerp.sae.canonical import SAE
from autointerp.sae.configs import one_line
from autointerp.sae.files import listing
from autointerp.sae.formats.saelens import load_folder
from autointerp.sae.hub import download, locate
from autointerp.sae.saelens_registry import Entry, find, is_registry_id

# How far the message about a folder of SAEs looks for them.
_DEPTH = 6
_MOST_FOLDERS = 300


def load_sae(source: str | Path, *, format: str | None = None, device: str = "cpu") -> SAE:
    """Load an SAE from a local folder or file, a hub id (org/repo/folder@revision), an id of SAELens' registry
    ("saelens:release/id") or a description ("random:…").

    `format` skips the detection. A local path wins over a hub id. Raises UserError where nothing fits, DataError (one
    of its kinds) for a file that is not what its format says.
    """
    text = str(source)
    registered = find(text) if is_registry_id(text) else None
    sae = _load_registered(registered, format) if registered else _load(_described(text) or locate(text), format)
    return replace(sae, source=text).to(device)


def _load(path: Path, format: str | None, entry: Entry | None = None) -> SAE:
    if format is None:
        format, path = _detect(path)
    try:
        if entry is not None and format == "saelens":
            sae = load_folder(path, entry.overrides, entry.input_scale)
        else:
            sae = sae_formats.get(format).load(path)
    except (ValueError, TypeError, ArithmeticError) as error:
        # A config or tensors that contradict each other: found when the SAE is put together.
        raise DataError(f"{path}: is not a sound {format} SAE: {one_line(error)}") from error
    return replace(sae, format=format)


def _load_registered(entry: Entry, format: str | None) -> SAE:
    """What the SAE's own files do not say is taken from the registry."""
    sae = _load(download(entry.where), format, entry)
    hook_in = sae.hook_in or entry.hook
    hook_out = sae.hook_out or (None if sae.transcoder else hook_in)
    return replace(sae, hook_in=hook_in, hook_out=hook_out, model_name=sae.model_name or entry.model)


def _described(text: str) -> Path | None:
    """The formats without files are recognised by their text alone: they must not reach for the hub."""
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
    below = (_saes_in(path) or _saes_below(path)) if path.is_dir() else []
    if below:
        shown = ", ".join(str(one) for one in below[:6]) + (", …" if len(below) > 6 else "")
        return f"{path}: is not an SAE itself (found {found}) but holds some: give one of {shown}"
    layouts = "; ".join(f"{name}: {one.layout}" for name, one in sae_formats.items())
    return f"{path}: fits no SAE format: found {found}, expected one of: {layouts}"


def _saes_in(path: Path) -> list[Path]:
    """SAEs that are files side by side, one for each layer."""
    files = sorted(Path(entry.path) for entry in _entries(path) if entry.is_file())
    return [file for file in files[:_MOST_FOLDERS] if _fits(file)]


def _fits(path: Path) -> bool:
    try:
        return bool(_matching(path))
    except UserError:
        return False


def _saes_below(path: Path) -> list[Path]:
    """SAEs in the folders below. For the message only: what cannot be read is passed over."""
    found: list[Path] = []
    level = [path]
    for _ in range(_DEPTH):
        folders = (entry.path for folder in level for entry in _entries(folder) if entry.is_dir())
        level = sorted(map(Path, folders))[:_MOST_FOLDERS]
        for folder in level:
            found += [folder] if _fits(folder) else _saes_in(folder)
    return found


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []  # not ours to read
