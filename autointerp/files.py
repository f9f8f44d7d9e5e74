"""Files that are either whole or absent, and markers that say that a piece of work is complete."""

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from autointerp.errors import UserError


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: a reader never sees half a file.

    The temporary name is this call's own, so that of two processes that write the same file one wins and none fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    def write(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def write_marker(folder: Path, facts: Mapping[str, Any]) -> None:
    """Mark `folder` as complete. Written last, so that its presence means that all else is there."""
    write_text(folder / "COMPLETE.json", json.dumps(facts, sort_keys=True, indent=1) + "\n")


def read_marker(folder: Path) -> dict[str, Any] | None:
    """The facts of a complete folder, or None."""
    try:
        return dict(json.loads((folder / "COMPLETE.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):  # a damaged marker marks nothing
        return None


def link_folder(source: Path, target: Path) -> None:
    """Make `target` a folder of the same files as `source`, linked where the file system can; nothing where there is no source.

    Files that are replaced afterwards, as all of ours are, are replaced in one of the folders only.
    """
    for file in sorted(source.glob("*"), key=lambda file: (file.name == "COMPLETE.json", file.name)):
        if file.is_file() and not (target / file.name).exists():
            write_atomically(target / file.name, partial(_link, file))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@contextmanager
def hold_lock(path: Path, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold a lock for the time of the block. The system frees it when the process ends, however it ends.

    A `shared` lock lets other shared ones in, an exclusive one nobody. With `wait` this waits for its turn; without, it
    raises UserError that names the process which holds the lock.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, kind | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise UserError(
                f"{path.parent} is in use by another autointerp (process {holder}); wait for it, or stop it"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
