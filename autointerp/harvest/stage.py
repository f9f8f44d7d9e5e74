"""The stage `sample`: corpus, model and SAE in; a catalog of features and their contexts out.

What is finished stays: the plan, every shard, the merged catalog. A rerun after any interruption does only what is missing.
"""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.files import read_marker, write_marker
from autointerp.harvest.plan import Plan, PlanSettings, finished_plan, make_plan
from autointerp.hashing import hex_hash
from autointerp.progress import progress
from autointerp.resources import packaged
from autointerp.subject.corpora import open_corpus

if TYPE_CHECKING:
    from autointerp.harvest.conformance import Conformance
    from autointerp.harvest.forward import Reader
    from autointerp.sae import SAE
    from autointerp.subject.model import Subject

# Raised when the sampling itself changes, so that an old run folder is not taken for a new one.
_ALGORITHM = 1


def catalog_path(out: Path) -> Path:
    return out / "catalog.duckdb"


def sample_fingerprint(config: Config) -> str:
    """Hash of every setting and local file that the sampled contexts depend on. The batch size is not one of them.

    Files count by name, size and time of change: weights of many gigabytes are not read for it.
    """
    inputs = [config.subject.model, config.sae.path, config.corpus.source, config.sample.features]
    paths = [
        demo_path(name) if given == "demo" else given
        for given, name in zip(inputs, ("model", "sae", "", ""), strict=True)
    ]
    return hex_hash(_ALGORITHM, json.dumps(sample_settings(config), sort_keys=True), *map(_contents, paths))


def _contents(given: str) -> str:
    """Names, sizes and times of the files behind a local path; nothing for what is no local path."""
    path = Path(given).expanduser()
    try:
        files = sorted(path.rglob("*")) if path.is_dir() else [path] if path.is_file() else []
    except OSError:  # a list of ids too long to be a file name
        return ""
    found = [(file.relative_to(path).as_posix(), file.stat()) for file in files if file.is_file()]
    return json.dumps([(name, stat.st_size, stat.st_mtime_ns) for name, stat in found])


def sample(config: Config, out: Path) -> dict[str, Any]:
    """Run the stage in the folder `out`; returns its facts. Nothing is done, and nothing imported, if it is complete.

    Raises UserError for settings that do not fit each other or the folder, and when the conformance gate fails.
    """
    fingerprint = sample_fingerprint(config)
    path = catalog_path(out)
    if path.exists():
        with Catalog.open(path, write=True) as catalog:  # a run killed as it made the file has left it empty
            found = catalog.stage_fingerprint("sample")
            if found == fingerprint:
                return catalog.stage_facts("sample")
            if found is not None:
                before = json.loads(catalog.value("SELECT config FROM stages WHERE stage = 'sample'"))
                raise UserError(f"{out} holds a run with other settings ({differences(before, sample_settings(config))}); "
                                "give another --out, or delete the folder to start again")  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    return _Harvest(config, out, fingerprint).run()


def demo_path(name: str) -> str:
    """Path of the embedded "model" or "sae"."""
    path = packaged("data") / "demo" / name
    if not path.is_dir():
        raise UserError(f"the embedded demo {name} is not here ({path}); name your own with --model and --sae")
    return str(path)


def sample_settings(config: Config) -> dict[str, Any]:
    dumped = config.model_dump(include={"subject", "sae", "corpus", "sample", "seed"})
    for volatile in ("batch_windows", "allow_mismatch", "loss_recovered"):
        dumped["sample"].pop(volatile)
    return dumped


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What was changed, for people."""
    changed = []
    for section, value in now.items():
        old = before.get(section)
        pairs = value.items() if isinstance(value, dict) else [(None, value)]
        for field, new in pairs:
            was = old.get(field) if isinstance(old, dict) else old
            if was != new:
                changed.append(f"{section}{'.' + field if field else ''} was {was!r}, now {new!r}")
    return "; ".join(changed) or "files of the model, the SAE or the corpus have changed since"


class _Harvest:
    """One run of the stage: what its steps share."""

    def __init__(self, config: Config, out: Path, fingerprint: str) -> None:
        self.config, self.out, self.fingerprint = config, out, fingerprint

    def run(self) -> dict[str, Any]:
        from autointerp.harvest.features import parse_features
        from autointerp.harvest.forward import Reader

        subject, sae = load_subject_and_sae(self.config)
        hookpoint = resolve_hook(self.config, subject, sae)
        features = parse_features(self.config.sample.features, sae.d_sae)
        bos = wants_bos(self.config, subject, sae)
        plan = self._plan(subject, bos)
        reader = Reader(subject, sae, hookpoint, prepend_bos=bos)
        conformance = check_conformance(
            reader, plan, allow=self.config.sample.allow_mismatch, loss=self.config.sample.loss_recovered
        )
        wanted = None if len(features) == sae.d_sae else features
        self._shards(plan, reader, wanted)
        facts = self._facts(plan, reader, features, conformance)
        self._merge(plan, reader, features, facts)
        return facts

    def _plan(self, subject: "Subject", bos: bool) -> Plan:
        corpus, sample = self.config.corpus, self.config.sample
        length = corpus.window - 1 if bos else corpus.window
        limit = getattr(subject.model.config, "max_position_embeddings", None)
        if limit is not None and corpus.window > limit:
            raise UserError(f"corpus.window = {corpus.window} is longer than the model's context of {limit} tokens; "
                            f"use --set corpus.window={limit} or less")  # fmt: skip
        done = finished_plan(self.out / "plan", self.fingerprint)
        if done is not None:
            return done
        shutil.rmtree(self.out / "shards", ignore_errors=True)  # parts of another plan
        settings = PlanSettings(length, corpus.max_tokens, sample.pool, self.config.seed, sample.part_windows)
        documents = open_corpus(corpus.source, corpus.text_field)
        with progress("tokenise", corpus.max_tokens, "tokens") as advance:
            return make_plan(
                documents, subject.tokenizer, self.out / "plan", settings, self.fingerprint,
                lambda tokens: advance(tokens, ""),
            )  # fmt: skip

    def _shards(self, plan: Plan, reader: "Reader", features: NDArray[np.int64] | None) -> None:
        folder = self.out / "shards"
        todo = [index for index in range(plan.n_parts) if not self._is_done(folder / f"{index:05d}")]
        if not todo:
            return
        pool = plan.pool()
        done = sum(self._tokens_of(folder / f"{i:05d}") for i in range(plan.n_parts) if i not in set(todo))
        with progress("harvest", plan.n_tokens, "tokens", done=done) as advance:
            for index in todo:
                self._shard(plan, index, folder / f"{index:05d}", reader, pool, features, advance)

    def _shard(
        self, plan: Plan, index: int, folder: Path, reader: "Reader", pool: NDArray[np.uint64],
        features: NDArray[np.int64] | None, advance: Any,
    ) -> None:  # fmt: skip
        from autointerp.harvest.forward import batches
        from autointerp.harvest.shards import write_shard
        from autointerp.harvest.sketch import Sketch

        sample = self.config.sample
        windows = plan.part(index)
        sketch = Sketch(reader.sae.d_sae, top=sample.top, per_band=sample.per_band, seed=self.config.seed)
        n_tokens = 0
        for firings, facts, tokens in batches(reader, windows, pool, features, sample.batch_windows):
            sketch.update(firings, facts)
            n_tokens += tokens
            advance(tokens, f"part {index + 1} of {plan.n_parts}")
        write_shard(sketch, folder)
        write_marker(folder, {"fingerprint": self.fingerprint, "n_tokens": n_tokens})

    def _is_done(self, folder: Path) -> bool:
        return (read_marker(folder) or {}).get("fingerprint") == self.fingerprint

    def _tokens_of(self, folder: Path) -> int:
        return int((read_marker(folder) or {}).get("n_tokens", 0))

    def _merge(self, plan: Plan, reader: "Reader", features: NDArray[np.int64], facts: dict[str, Any]) -> None:
        from autointerp.harvest.lens import neighbours, output_tokens
        from autointerp.harvest.merge import merge_shards
        from autointerp.harvest.tokens import vocabulary_table

        sample, directions = self.config.sample, reader.sae.W_dec
        with (
            progress("catalog", None, "features") as advance,
            Catalog.open(catalog_path(self.out), write=True) as catalog,
        ):
            with catalog.transaction():
                merge_shards(catalog, plan, self.out / "shards", features, bands=sample.bands, top=sample.top,
                             per_band=sample.per_band)  # fmt: skip
                catalog.insert(
                    "vocabulary", vocabulary_table(reader.subject.tokenizer, reader.subject.model.config.vocab_size)
                )
                lens = output_tokens(reader.subject.model, directions, features)
                if lens is not None:
                    catalog.insert("output_tokens", lens)
                catalog.insert("neighbours", neighbours(directions, features))
                flags = dict(
                    catalog.rows("SELECT coalesce(flag, 'usual'), count(*) FROM features GROUP BY ALL ORDER BY ALL")
                )
                facts["flags"] = flags
                catalog.finish_stage("sample", self.fingerprint, sample_settings(self.config), facts)
            advance(len(features), "")
        shutil.rmtree(self.out / "shards")  # now in the catalog; the plan stays, for passes that need the windows again

    def _facts(
        self, plan: Plan, reader: "Reader", features: NDArray[np.int64], conformance: "Conformance"
    ) -> dict[str, Any]:
        sae = reader.sae
        return {
            "subject": short_name(self.config.subject.model, "model"), "sae": short_name(self.config.sae.path, "SAE"),
            "sae_format": sae.format, "hookpoint": str(reader.hookpoint),
            "corpus": short_name(self.config.corpus.source, "corpus"), "tokens": plan.n_tokens,
            "windows": plan.n_windows, "documents": plan.n_documents, "features": len(features), "d_sae": sae.d_sae,
            "window": self.config.corpus.window, "seed": self.config.seed, "conformance": asdict(conformance),
        }  # fmt: skip


def load_subject_and_sae(config: Config) -> "tuple[Subject, SAE]":
    """Both, from the configuration's paths; "demo" stands for the embedded ones.

    On a CPU the forward pass is in float32 unless another type is named: half precision is slower there, not faster.
    """
    import torch
    from transformers.utils import logging

    from autointerp.sae import load_sae
    from autointerp.subject.model import absorb_norm_gain, load_subject

    logging.disable_progress_bar()  # loading a model is not one of our stages
    given = config.subject
    path = demo_path("sae") if config.sae.path == "demo" else config.sae.path
    sae = load_sae(path, format=config.sae.format)
    model = demo_path("model") if given.model == "demo" else given.model
    on_cpu = given.device.startswith("cpu") or (given.device == "auto" and not torch.cuda.is_available())
    dtype = "float32" if given.dtype == "auto" and on_cpu else given.dtype
    subject = load_subject(model, device=given.device, dtype=dtype, revision=given.revision)
    return subject, absorb_norm_gain(subject, sae.to(subject.device))


def short_name(source: str, what: str) -> str:
    """What people call it: a hub id as it is, the last part of a local path; the embedded ones by `what` they are."""
    if source == "demo":
        return f"demo {what}"
    return Path(source).name if Path(source).exists() else source


def resolve_hook(config: Config, subject: "Subject", sae: "SAE") -> Any:
    """The hookpoint of the run, checked: it exists, and its width is the SAE's."""
    from autointerp.subject.hookpoints import resolve_hookpoint
    from autointerp.subject.model import check_fit

    name = config.sae.hookpoint or sae.hook_in
    if name is None:
        raise UserError(f"{config.sae.path}: the SAE's files do not say where it reads; name the module with --hookpoint, "
                        "for instance --hookpoint model.layers.2")  # fmt: skip
    hookpoint = resolve_hookpoint(subject.model, name)
    check_fit(subject, sae, hookpoint)
    return hookpoint


def wants_bos(config: Config, subject: "Subject", sae: "SAE") -> bool:
    """Whether windows begin with BOS: as configured, else as the SAE was trained, else where the tokenizer has one."""
    has_bos = subject.tokenizer.bos_token_id is not None
    if config.corpus.prepend_bos is None:
        return has_bos and sae.prepend_bos is not False
    if config.corpus.prepend_bos and not has_bos:
        raise UserError(
            "corpus.prepend_bos = true, but the tokenizer has no BOS token; leave it out or set it to false"
        )
    return config.corpus.prepend_bos


def check_conformance(reader: "Reader", plan: Plan, *, allow: bool, loss: bool = False) -> "Conformance":
    """Measure on the plan's first part, print, and stop on a gross mismatch unless `allow`. `loss`: loss recovered, too."""
    import click

    from autointerp.harvest.conformance import FVU_LIMIT, FVU_POOR, measure_conformance
    from autointerp.harvest.loss import measure_loss_recovered

    found = measure_conformance(reader, plan.part(0))
    if loss and (allow or not found.problem):
        found = replace(found, loss=measure_loss_recovered(reader, plan.part(0)))
    click.echo(f"conformance: {describe(found)}", err=True)
    if found.fvu is not None and FVU_POOR < found.fvu <= FVU_LIMIT:
        click.echo(
            "warning: most of the variance is unexplained; is this the right hookpoint and model for the SAE?", err=True
        )
    if found.problem and not allow:
        raise UserError(f"the SAE does not seem to fit {reader.subject.name} at {reader.hookpoint}: {found.problem}; check "
                        "--hookpoint, --sae and --model, or go on with --set sample.allow_mismatch=true")  # fmt: skip
    return found


def describe(found: "Conformance") -> str:
    """One line for people."""
    expected = "" if found.l0_expected is None else f" (expected {found.l0_expected:.1f})"
    fvu = "not defined for a transcoder" if found.fvu is None else f"{found.fvu:.3f}"
    recovered = "" if found.loss is None else f"; {found.loss.describe()}"
    return f"L0 {found.l0:.1f}{expected}, FVU {fvu}, over {found.tokens:,} tokens{recovered}"
