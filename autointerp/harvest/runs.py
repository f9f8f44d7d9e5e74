"""A run: one dictionary, its configuration and its folder. Which settings its samples depend on, and whether they are there.

Several dictionaries can be read in one pass over the corpus (`also` in the configuration): then each has a folder of its own
below the common one, and is a run like any other.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.harvest.earlier import is_of_before
from autointerp.harvest.features import features_identity
from autointerp.harvest.identity import contents
from autointerp.hashing import hex_hash
from autointerp.resources import packaged

# Raised when the sampling itself changes, so that an old run folder is not taken for a new one.
_ALGORITHM = 2
_BY_CONTENTS = "files-"  # begins what marks a run whose files are known by what is in them
_INPUTS = (("subject", "model"), ("sae", "path"), ("corpus", "source"))
NULL = "null"  # the folder of a run's random directions, below its own
_VOLATILE = (
    "batch_windows",
    "allow_mismatch",
    "checkpoint_s",
    "loss_recovered",
)  # settings that the samples do not depend on


@dataclass(frozen=True)
class Run:
    """One dictionary's run. `config` names one SAE."""

    config: Config
    out: Path

    @property
    def catalog(self) -> Path:
        return self.out / "catalog.duckdb"

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every setting that the sampled contexts depend on and of what is in local files, wherever they lie. The batch
        size is none of these."""
        settings = sample_settings(self.config)
        settings["sample"]["features"] = features_identity(self.config.sample.features)
        for (section, field), known in zip(_INPUTS, self._inputs, strict=True):
            settings[section][field] = known
        return _BY_CONTENTS + hex_hash(_ALGORITHM, json.dumps(settings, sort_keys=True))

    @cached_property
    def _inputs(self) -> tuple[str, ...]:
        return tuple(map(_identity, inputs_of(self.config)))

    def facts(self) -> dict[str, Any] | None:
        """What the finished sampling found, or None if it is not finished. Raises UserError if it had other settings."""
        # A run killed as it made the file has left it empty.
        if not self.catalog.exists() or not self.catalog.stat().st_size or Catalog.is_empty(self.catalog):
            return None
        with Catalog.open(self.catalog) as catalog:
            found, facts = catalog.stage_fingerprint("sample"), catalog.stage_facts("sample")
            if found is None:
                return None
            if found == self.fingerprint:
                return facts
            before = json.loads(catalog.value("SELECT config FROM stages WHERE stage = 'sample'"))
        by_contents = found.startswith(_BY_CONTENTS)
        if not by_contents and is_of_before(self):
            return facts
        changed = differences(before, sample_settings(self.config), by_contents=by_contents)
        raise UserError(f"{self.out} holds a run with other settings ({changed}); give another --out, or delete the folder "
                        "to start again")  # fmt: skip

    def require_facts(self) -> dict[str, Any]:
        """The facts. Raises UserError, which says what to run, where the sampling was not done or is not finished."""
        found = self.facts()
        if found is None:
            begun = (self.out / "config.json").exists()
            what = "the sampling is not finished; run again" if begun else "nothing sampled here yet; run first"
            raise UserError(f"{self.out}: {what}: autointerp sample --out {self.out}")
        return found


def runs_of(config: Config, out: Path) -> list[Run]:
    """The runs of a configuration: itself, or one for each SAE in a folder of its own."""
    if not config.also:
        return [Run(config, out)]
    saes = [config.sae, *config.also]
    names = _distinct([sae.path for sae in saes])
    return [
        Run(config.model_copy(update={"sae": sae, "also": ()}), out / name)
        for sae, name in zip(saes, names, strict=True)
    ]


def check_folder(runs: Sequence[Run], out: Path) -> None:
    """A folder holds one run, or folders of several. Raises UserError where it holds what these are not."""
    below = runs_below(out)
    if len(runs) > 1 and (out / "catalog.duckdb").exists():
        raise UserError(f"{out} holds the run of one SAE; several of one pass need another --out")
    if len(runs) == 1 and runs[0].out == out and below and not (out / "catalog.duckdb").exists():
        raise UserError(
            f"{out} holds the runs of several SAEs ({', '.join(below)}); give one of those folders, or another --out"
        )


def runs_below(out: Path) -> list[str]:
    """Names of the folders below `out` that hold a catalog, that of random directions apart."""
    return sorted(path.parent.name for path in out.glob("*/catalog.duckdb") if path.parent.name != NULL)


def _distinct(paths: Sequence[str]) -> list[str]:
    """Folder names for SAEs: the last parts of their paths, as many as tell them apart; numbered where a path comes again."""
    parts = {path: [_as_name(part) for part in re.split(r"[/:]", path.strip("/"))] for path in paths}
    names = dict(zip(parts, map("-".join, parts.values()), strict=True))
    for depth in range(1, max(map(len, parts.values())) + 1):
        short = {path: "-".join(part[-depth:]) for path, part in parts.items()}
        if len(set(short.values())) == len(short):
            names = short
            break
    seen = [list(paths[: index + 1]).count(path) for index, path in enumerate(paths)]
    return [
        f"{names[path]}-{nth}" if paths.count(path) > 1 else names[path] for path, nth in zip(paths, seen, strict=True)
    ]


def _as_name(part: str) -> str:
    """A part of a path as the name of a folder, which never leads out of the one above."""
    return re.sub(r"[^\w.=-]+", "_", part).strip(".") or "sae"


def sample_settings(config: Config) -> dict[str, Any]:
    """The settings that the samples depend on."""
    dumped = config.model_dump(include={"subject", "sae", "corpus", "sample", "seed"})
    for volatile in _VOLATILE:
        dumped["sample"].pop(volatile)
    return dumped


def differences(before: dict[str, Any], now: dict[str, Any], *, by_contents: bool = True) -> str:
    """What was changed, for people. Not `by_contents`: the run's files were told by their times of change."""
    changed = []
    for section, value in now.items():
        old = before.get(section)
        pairs = value.items() if isinstance(value, dict) else [(None, value)]
        for field, new in pairs:
            was = old.get(field) if isinstance(old, dict) else old
            if was != new:
                changed.append(f"{section}{'.' + field if field else ''} was {was!r}, now {new!r}")
    if not changed and before.keys() | before.get("sample", {}).keys() != now.keys() | now.get("sample", {}).keys():
        return "it was made by another version of autointerp"
    if not changed and not by_contents:
        return (
            "an earlier version of autointerp made it, which told files by their times of change, and those of model, SAE "
            "or corpus are others now: if the files are the same, give them their times back, as cp -p and rsync -t do"
        )
    return "; ".join(changed) or "files of the model, the SAE, the corpus or the list of features have changed since"


def plan_fingerprint(config: Config, *, prepend_bos: bool) -> str:
    """Hash of what the plan depends on: the corpus, its tokenizer and how it is cut. SAEs are no part of it."""
    sample = config.sample
    model, _, corpus = inputs_of(config)
    cut = config.corpus.model_dump(exclude={"prepend_bos", "source"})
    settings = [_identity(model), config.subject.revision, _identity(corpus), cut, prepend_bos, sample.pool, sample.part_windows,
                config.seed]  # fmt: skip
    return _BY_CONTENTS + hex_hash(_ALGORITHM, json.dumps(settings, sort_keys=True))


def inputs_of(config: Config) -> tuple[str, str, str]:
    """Model, SAE and corpus: paths of those that are embedded or local, names of others."""
    model, sae = (
        demo_path(name) if given == "demo" else given
        for given, name in ((config.subject.model, "model"), (config.sae.path, "sae"))
    )
    return model, sae, config.corpus.source


def _identity(given: str) -> str:
    """What is in the files behind a local path; what is no local path by its name."""
    prefix, colon, name = given.partition(":") if given.startswith("hf:") else ("", "", given)
    path, further, rest = name.partition(":") if colon else (name, "", "")  # a data set may be a local folder, too
    found = contents(Path(path).expanduser())
    return f"{prefix}{colon}files:{found}{further}{rest}" if found else given


def demo_path(name: str) -> str:
    """Path of the embedded "model" or "sae"."""
    path = packaged("data") / "demo" / name
    if not path.is_dir():
        raise UserError(f"the embedded demo {name} is not here ({path}); name your own with --model and --sae")
    return str(path)


def short_name(source: str, what: str) -> str:
    """What people call it: a hub id as it is, the last part of a local path; the embedded ones by `what` they are."""
    if source == "demo":
        return f"demo {what}"
    return Path(source).name if Path(source).exists() else source
