"""Run folders of earlier versions, which told files by their times of change: they are taken over where those are unchanged.

What marks the samples and the plan is rewritten, and from then on the folder is known by what is in the files.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from autointerp.catalog.store import Catalog
from autointerp.errors import UserError
from autointerp.files import read_marker, write_marker
from autointerp.hashing import hex_hash

if TYPE_CHECKING:
    from autointerp.harvest.runs import Run

_ALGORITHM = 2


def is_of_before(run: "Run") -> bool:
    """Whether the samples are marked as an earlier version did it, with these settings and these files, unchanged. Then they are
    marked anew, unless another process holds the catalog."""
    from autointerp.harvest.runs import inputs_of, sample_settings

    with Catalog.open(run.catalog) as catalog:
        found = catalog.stage_fingerprint("sample")
    settings = json.dumps(sample_settings(run.config), sort_keys=True)
    if found != hex_hash(_ALGORITHM, settings, *map(_times, (*inputs_of(run.config), run.config.sample.features))):
        return False
    try:
        with Catalog.open(run.catalog, write=True) as catalog:
            catalog.rows("UPDATE stages SET fingerprint = ? WHERE stage = 'sample'", [run.fingerprint])
    except UserError:
        return True  # another process holds the catalog; the next command does it
    _mark_plan(run)
    return True


def _mark_plan(run: "Run") -> None:
    """The plan of the run, or of the pass that it was a part of."""
    from autointerp.harvest.runs import inputs_of, plan_fingerprint

    config, sample = run.config, run.config.sample
    model, _, corpus = inputs_of(config)
    for folder in (run.out / "plan", run.out.parent / "plan"):
        facts = read_marker(folder)
        for prepend_bos in (False, True):
            settings = [
                config.subject.model, config.subject.revision, config.corpus.model_dump(exclude={"prepend_bos"}), prepend_bos,
                sample.pool, sample.part_windows, config.seed,
            ]  # fmt: skip
            known = hex_hash(_ALGORITHM, json.dumps(settings, sort_keys=True), _times(model), _times(corpus))
            if facts is not None and facts.get("fingerprint") == known:
                write_marker(folder, facts | {"fingerprint": plan_fingerprint(config, prepend_bos=prepend_bos)})


def _times(given: str) -> str:
    """Names, sizes and times of the files behind a local path; nothing for what is no local path."""
    path = Path(given.split(":")[1] if given.startswith("hf:") else given).expanduser()
    try:
        files = sorted(path.rglob("*")) if path.is_dir() else [path] if path.is_file() else []
    except OSError:  # a list of ids too long to be a file name
        return ""
    found = [(file.relative_to(path).as_posix(), file.stat()) for file in files if file.is_file()]
    return json.dumps([(name, stat.st_size, stat.st_mtime_ns) for name, stat in found])
