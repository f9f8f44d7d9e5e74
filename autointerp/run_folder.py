"""A run's folder: held by one process at a time, and the settings in it, which later commands take up.

A stage puts its settings there when its checks are passed, before the work, so that whoever is stopped goes on with the same
ones. A command that fails before it has done anything leaves the folder's settings as they were.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.files import hold_lock, write_text
from autointerp.harvest.runs import Run, runs_below, runs_of, sample_settings

_OF_MODELS = ("journal/*.jsonl", "batches/*.sqlite")  # what asking a model leaves in the folder


def catalog_path(out: Path) -> Path:
    return out / "catalog.duckdb"


@contextmanager
def run_folder(out: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the folder against other processes for the time of a command; `shared`: against all but other shards."""
    if not str(out).isprintable() or any(char in str(out.resolve()) for char in "*?["):
        raise UserError(f"--out {str(out.resolve())!r}: the path of a run's folder cannot have *, ?, [ or control characters in "
                        "it; choose another")  # fmt: skip
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; --out names the run's folder")
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with hold_lock(out / ".lock", shared=shared):
            yield
    except Exception:
        if is_new and [path.name for path in out.iterdir()] == [".lock"]:
            shutil.rmtree(out)  # nothing was done: leave nothing behind
        raise


@contextmanager
def sampled_catalog(config: Config, out: Path) -> Iterator[Catalog]:
    """The catalog, to write into. Raises UserError where the sampling is not finished, or was done with other settings."""
    if not catalog_path(out).exists():
        raise UserError(f"{out}: nothing sampled here yet; run first: autointerp sample --out {out}")
    with Catalog.open(catalog_path(out)) as catalog:
        if catalog.stage_fingerprint("sample") is None:
            raise UserError(f"{out}: the sampling is not finished; run again: autointerp sample --out {out}")
    require_same_sampling(config, out)
    with Catalog.open(catalog_path(out), write=True) as catalog:
        yield catalog


def require_same_sampling(config: Config, out: Path) -> None:
    """Raise UserError where the sampling, which is finished, was done with other settings."""
    with Catalog.open(catalog_path(out)) as catalog:
        before = json.loads(catalog.value("SELECT config FROM stages WHERE stage = 'sample'"))
    if before != sample_settings(config):
        Run(config, out).require_facts()  # the same files may lie elsewhere now


def is_sampled(out: Path) -> bool:
    """Whether the sampling of a run in the folder, or of all runs below it, is finished."""
    paths = (
        [catalog_path(out)] if catalog_path(out).exists() else [catalog_path(out / name) for name in runs_below(out)]
    )
    return bool(paths) and all(_is_finished(path) for path in paths)


def _is_finished(path: Path) -> bool:
    if not path.stat().st_size or Catalog.is_empty(path):
        return False
    with Catalog.open(path) as catalog:
        return catalog.stage_fingerprint("sample") is not None


def save_configs(config: Config, out: Path) -> None:
    """Of the folder, and of the run of each dictionary below it."""
    save_config(config, out)
    for run in runs_of(config, out):
        save_config(run.config, run.out)


def save_config(config: Config, out: Path) -> None:
    text = json.dumps(config.model_dump(), indent=1, sort_keys=True) + "\n"
    path = _settings(out)
    out.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def saved_config(out: Path) -> dict[str, Any]:
    """The configuration that an earlier command left in the folder, or an empty one."""
    path = _settings(out)
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); delete it and name the options again") from None


@contextmanager
def settings_of_stage(config: Config, out: Path, rows: Callable[[], object]) -> Iterator[None]:
    """Save the settings for the stage in the block; if it ends in a UserError before it has done anything, those of before
    come back.

    `rows` tells what the stage has written into the catalog; what it asked of models shows in the folder. Killed or
    interrupted, it has begun.
    """
    path = _settings(out)
    before = path.read_bytes() if path.exists() else None
    state = rows(), _sizes(out)
    save_config(config, out)
    try:
        yield
    except UserError:
        if (rows(), _sizes(out)) == state:
            path.unlink() if before is None else write_text(path, before.decode("utf-8"))
        raise


def _settings(out: Path) -> Path:
    return out / "config.json"


def _sizes(out: Path) -> dict[Path, int]:
    """Of the files that asking a model fills, as far as they hold anything."""
    sizes = {path: path.stat().st_size for pattern in _OF_MODELS for path in out.glob(pattern)}
    return {path: size for path, size in sizes.items() if size}
