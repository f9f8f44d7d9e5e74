"""Which weights a name stands for, known without loading them: a part of every request's identity.

A folder is known by its files, a hub id by its commit. Both are noted in the run's folder when they are first seen: a run whose
answers are all in its journal needs neither the folder nor the hub, and a hub id stays at the commit the run began with.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autointerp.errors import DataError, UserError

_STATE = "transformers.json"
_HUB_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")
_WHOLE = 64 << 20  # bytes; larger files are sampled
_STRIDE, _BLOCK = 1 << 20, 4096
_READ = {".json", ".jinja", ".model", ".txt", ".safetensors"}


@dataclass(frozen=True, slots=True)
class Weights:
    """What to load, and the name of exactly these weights: `commit:…` of a hub repository or `files:…` of a folder."""

    source: str
    revision: str | None
    fingerprint: str


def identify(model: str, state: Path | None, of_folder: Callable[[Path], str] | None = None) -> Weights:
    """The weights behind a path or hub id (`org/model` or `org/model@revision`). `state`: the folder of the run's notes.
    `of_folder`: the fingerprint of a folder where `fingerprint` does not see all of it.

    Raises UserError if there is neither such a folder nor a note of it, and if a hub id can be looked up neither in this
    machine's cache nor on the hub.
    """
    path = Path(model).expanduser()
    noted = _read_notes(state).get(model)
    if path.is_dir():
        found = Weights(str(path), None, f"files:{(of_folder or fingerprint)(path)}")
    elif noted is not None:
        repository = model.partition("@")[0]
        revision = noted.removeprefix("commit:") if noted.startswith("commit:") else None
        return Weights(model if revision is None else repository, revision, noted)
    else:
        commit = _commit(model)
        found = Weights(model.partition("@")[0], commit, f"commit:{commit}")
    if state is not None and noted != found.fingerprint:
        _write_note(state, model, found.fingerprint)
    return found


def fingerprint(folder: Path) -> str:
    """32 hexadecimal digits over configuration, tokenizer and weights of a model's folder.

    Files up to 64 MB are read whole; of larger ones the first MiB, the size, and 4 KiB of every MiB after that: weights that
    were trained further differ everywhere, and a model of 16 GB is known in about a second.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(path for path in folder.iterdir() if path.suffix in _READ and path.is_file()):
        size = path.stat().st_size
        digest.update(f"{len(path.name)}:{path.name}:{size}:".encode())
        with path.open("rb") as file:
            if size <= _WHOLE:
                digest.update(file.read())
                continue
            digest.update(file.read(_STRIDE))
            for offset in range(_STRIDE, size, _STRIDE):
                digest.update(os.pread(file.fileno(), _BLOCK, offset))
    return digest.hexdigest()


def _commit(model: str) -> str:
    from huggingface_hub import HfApi, try_to_load_from_cache

    repository, _, revision = model.partition("@")
    if _HUB_ID.fullmatch(repository) is None or repository.startswith("."):
        raise UserError(f"{model}: there is no such folder, and it is not a hub id (org/model); name a model's folder")
    cached = try_to_load_from_cache(repository, "config.json", revision=revision or "main")
    if isinstance(cached, str):
        return Path(cached).parent.name  # …/snapshots/COMMIT/config.json
    try:
        commit = HfApi().model_info(repository, revision=revision or None, timeout=30).sha
    except Exception as error:  # whatever the client's transport raises
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"{model}: not found on this machine, and the Hugging Face hub does not give it ({first_line}); check the name, "
            "or download the model where there is a network and give its folder"
        ) from error
    return str(commit)


def _read_notes(state: Path | None) -> dict[str, str]:
    path = None if state is None else state / _STATE
    if path is None or not path.exists():
        return {}
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
        return {str(model): str(noted) for model, noted in notes.items()}
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path}: not a JSON object of models and fingerprints ({error}); remove it") from error


def _write_note(state: Path, model: str, noted: str) -> None:
    state.mkdir(parents=True, exist_ok=True)
    notes = _read_notes(state) | {model: noted}
    new = state / f"{_STATE}.new"
    new.write_text(json.dumps(notes, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    new.replace(state / _STATE)
