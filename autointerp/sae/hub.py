"""From what the user typed to a folder or a file on this machine: a local path, or a Hugging Face hub id.

org/repo   org/repo/sub/folder   org/repo/sub/file.pt   …@revision
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast

from autointerp.errors import UserError

WEIGHT_SUFFIXES = (".safetensors", ".npz", ".pt", ".pth")
_CONFIG_SUFFIXES = (".json", ".yaml", ".yml")
_TIMEOUT_S = 20.0
# Large, and of no use here.
_LEFT_OUT = ("optimizer", "examples.safetensors", "training_state")
_NOT_WEIGHTS = (*_LEFT_OUT, "sparsity.safetensors", "W_dec_")
_HUB_ID = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<early>[^/@]+))?(?:/(?P<inside>[^@]*[^@/]))?/?(?:@(?P<late>[^@]+))?"
)


@dataclass(frozen=True, slots=True)
class HubId:
    """A repository, a folder or file inside it ("" for the root) and a revision (None for the default branch)."""

    repo: str
    inside: str
    revision: str | None


def parse_hub_id(text: str) -> HubId | None:
    """A hub id, or None if `text` cannot be one."""
    found = _HUB_ID.fullmatch(text)
    if found is None or text.startswith((".", "/", "~")) or ".." in text:
        return None
    if found["early"] and found["late"]:
        return None
    return HubId(found["repo"], found["inside"] or "", found["early"] or found["late"])


def locate(source: str) -> Path:
    """A local path if it exists, else the downloaded snapshot of a hub id. Raises UserError."""
    path = Path(source).expanduser()
    if path.exists():
        return path
    hub_id = parse_hub_id(source)
    if hub_id is None:
        raise UserError(f"{source}: no such file or folder, and not a hub id (org/repo[/folder][@revision])")
    return download(hub_id)


def download(hub_id: HubId) -> Path:
    """The folder or file that a hub id means, on this machine. Raises UserError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    files = _list_files(hub_id)
    if files is None:
        # No network: what an earlier run has downloaded will do.
        patterns = [f"{hub_id.inside}*"] if hub_id.inside else None
        try:
            root = snapshot_download(
                hub_id.repo, revision=hub_id.revision, allow_patterns=patterns, local_files_only=True
            )
        except LocalEntryNotFoundError as error:
            raise UserError(_offline(hub_id)) from error
    else:
        root = snapshot_download(hub_id.repo, revision=hub_id.revision, allow_patterns=choose_files(hub_id, files))
    found = Path(root) / hub_id.inside
    if not found.exists():
        raise UserError(_offline(hub_id))
    return found


def _offline(hub_id: HubId) -> str:
    where = f"{hub_id.repo}/{hub_id.inside}".rstrip("/")
    return (
        f"{where}: not found on this machine, and the Hugging Face hub cannot be reached; "
        "check the path, or download the folder where there is a network and give its path"
    )


def _list_files(hub_id: HubId) -> list[str] | None:
    """The repository's files, or None where the hub cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    # The HTTP library under the hub client differs with its version; its base error is an ancestor of the client's own.
    unreachable = cast(tuple[type[Exception], ...], (OSError, *HfHubHTTPError.__bases__))
    name = hub_id.repo
    try:
        info = HfApi().model_info(name, revision=hub_id.revision, timeout=_TIMEOUT_S)
    except GatedRepoError as error:
        raise UserError(f"{name}: is gated: accept its licence on the hub, then run `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{name}: no such folder here and no such repository on the hub (or it is private)") from error
    except RevisionNotFoundError as error:
        raise UserError(f"{name}: the hub repository has no revision {hub_id.revision!r}") from error
    except unreachable:
        return None
    return [sibling.rfilename for sibling in info.siblings or ()]


def choose_files(hub_id: HubId, files: list[str]) -> list[str]:
    """The files to download: the SAE that is meant, with every config above it, and no other SAE.

    Repositories hold hundreds of SAEs: an id that names several is refused, with examples of what to add to it.
    """
    inside = hub_id.inside
    below = [name for name in files if not inside or name == inside or name.startswith(inside + "/")]
    if not below:
        raise UserError(f"{hub_id.repo}: has no file or folder {inside!r}; it has {_examples(_saes(files))}")
    direct = [name for name in below if name != inside and str(PurePosixPath(name).parent) == (inside or ".")]
    if len(_saes(direct)) == 1:
        below = direct  # what lies deeper (checkpoints of the training) is not meant
    saes = _saes(below)
    if not saes:
        raise UserError(
            f"{hub_id.repo}/{inside}: expected weights ({', '.join(WEIGHT_SUFFIXES)}), found {_examples(below)}"
        )
    if len(saes) > 1:
        name = f"{hub_id.repo}/{inside}".rstrip("/")
        raise UserError(f"{name}: holds {len(saes)} SAEs; add one to the id: {_examples(saes)}")
    # A layer of a cross-layer transcoder is two files, found under the name of the first.
    below += [two for name in below if (two := name.replace("W_enc_", "W_dec_")) in files and two not in below]
    above = {str(folder) for name in below for folder in PurePosixPath(name).parents}
    configs = [name for name in files if name.endswith(_CONFIG_SUFFIXES) and str(PurePosixPath(name).parent) in above]
    wanted = [
        name for name in below if not (name.endswith(WEIGHT_SUFFIXES) and any(part in name for part in _LEFT_OUT))
    ]
    return sorted({*wanted, *configs})


def _saes(files: list[str]) -> list[str]:
    """The SAEs among the files: a folder with one weight file is one, and so is each file where there are more."""
    in_folder: dict[str, list[str]] = {}
    for name in files:
        if name.endswith(WEIGHT_SUFFIXES) and not any(part in name for part in _NOT_WEIGHTS):
            in_folder.setdefault(str(PurePosixPath(name).parent), []).append(name)
    return sorted(one for folder, names in in_folder.items() for one in ([folder] if len(names) == 1 else names))


def _examples(names: list[str], most: int = 6) -> str:
    shown = ", ".join(names[:most]) or "nothing"
    return f"{shown}, … ({len(names)} in all)" if len(names) > most else shown
