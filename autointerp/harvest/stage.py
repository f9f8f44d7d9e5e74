"""The stage `sample`: corpus, model and SAEs in; for each SAE a catalog of features and their contexts out.

What is finished stays: the plan, every shard, the merged catalogs. A rerun after any interruption does only what is missing, and
so does a worker of a cluster: all of them run the missing parts.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.files import hold_lock
from autointerp.harvest.plan import Plan, PlanSettings, finished_plan, make_plan
from autointerp.harvest.runs import Run, check_folder, plan_fingerprint, runs_of, sample_settings, short_name
from autointerp.harvest.shards import finished_shards, foreign_shards, missing_parts, share
from autointerp.progress import progress
from autointerp.subject.corpora import open_corpus

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from autointerp.harvest.conformance import Conformance
    from autointerp.harvest.forward import Reader
    from autointerp.harvest.passes import Pass


def sample(
    config: Config, out: Path, *, engine: str = "here", workers: int | None = None,
    engine_options: Mapping[str, Any] | None = None, on_ready: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Run the stage in the folder `out`; returns each run's facts. Nothing is done, and nothing imported, if it is complete.

    `engine` says where the work is done, `workers` by how many processes; `engine_options` are the engine's own.
    `on_ready` is called when nothing is left in the way but the work. Raises UserError for settings that do not fit each
    other or the folder, when the conformance gate fails, and when workers have failed.
    """
    runs = runs_of(config, out)
    check_folder(runs, out)
    facts = [run.facts() for run in runs]
    done = [found for found in facts if found is not None]
    if len(done) == len(runs):
        shutil.rmtree(out / "shards", ignore_errors=True)  # of a run that was killed right after its catalog was made
        return done
    from autointerp.harvest.engine import Job, engines

    chosen, options = engines.get(engine), engine_options or {}
    chosen.check(workers, options)
    harvest, conformance = open_pass(runs, out, alone=True)
    on_ready()
    shards = finished_shards(harvest.shards, harvest.fingerprint)
    if missing_parts(harvest.plan.n_parts, shards):
        before = sum(shard.n_tokens for shard in shards)
        with progress("harvest", harvest.plan.n_tokens, "tokens", done=before) as advance:
            chosen.run(Job(config, out, harvest, workers, options), advance)
    _check_complete(harvest, out)
    for index, known in enumerate(facts):
        if known is None:
            _merge(harvest, index, conformance[index])
    shutil.rmtree(harvest.shards)  # now in the catalogs; the plan stays, for passes that need the windows again
    return [found for run in runs if (found := run.facts()) is not None]


def sample_shard(
    config: Config, out: Path, index: int, count: int, *, on_ready: Callable[[], None] = lambda: None
) -> str:
    """Harvest the share of worker `index` of `count`, as far as it is missing; returns what is to be said of it."""
    runs = runs_of(config, out)
    check_folder(runs, out)
    if all(run.facts() is not None for run in runs):
        return f"{out} is complete: nothing is left for a shard to do"
    harvest, _ = open_pass(runs, out, alone=False)
    on_ready()
    parts = share(harvest.plan.n_parts, index, count)
    if not parts:
        return (f"shard {index} of {count} has nothing to do: the corpus has {harvest.plan.n_parts} parts; for more give fewer "
                "windows a part with --set sample.part_windows=N")  # fmt: skip
    missing = missing_parts(harvest.plan.n_parts, finished_shards(harvest.shards, harvest.fingerprint))
    mine = [part for part in missing if part in parts]
    with progress(f"shard {index}/{count}", harvest.plan.part_tokens(mine), "tokens") as advance:
        harvest.harvest(mine, advance)
    left = missing_parts(harvest.plan.n_parts, finished_shards(harvest.shards, harvest.fingerprint))
    if left:
        return f"shard {index} of {count} is done; {len(left)} of {harvest.plan.n_parts} parts are left to other shards"
    return f"all parts are harvested; now merge them: autointerp sample --out {out}"


def open_pass(runs: Sequence[Run], out: Path, *, alone: bool) -> "tuple[Pass, list[Conformance]]":
    """Load model and SAEs, make the plan and pass the gate, or take up what an earlier process has done of it.

    Of processes that begin together one does the work and the others wait. Raises UserError where the folder holds an
    unfinished harvest with other settings: what others have done, or (not `alone`) are doing, is not thrown away.
    """
    from autointerp.harvest.conformance import gate, gate_fingerprint
    from autointerp.harvest.features import parse_features
    from autointerp.harvest.passes import Pass, pass_fingerprint
    from autointerp.harvest.setup import open_readers

    readers = open_readers(runs)
    for run, reader in zip(runs, readers, strict=True):
        # Ids out of range end it before the corpus is read.
        parse_features(run.config.sample.features, reader.sae.d_sae)
    config = runs[0].config
    fingerprint = plan_fingerprint(config, prepend_bos=bool(readers[0].shift))
    out.mkdir(parents=True, exist_ok=True)
    with hold_lock(out / ".prepare", wait=True):
        wanted, shards = pass_fingerprint(runs, fingerprint), out / "shards"
        if foreign_shards(shards, wanted) or not (alone or gate_fingerprint(shards) in (None, wanted)):
            raise UserError(f"{out} holds an unfinished harvest with other settings, or of other files; go on with those (they "
                            f"are in {out / 'config.json'}), give another --out, or delete {shards} to start again")  # fmt: skip
        plan = plan_of(config, readers[0], out, fingerprint)
        harvest = Pass(runs, readers, plan, shards, fingerprint)
        found = gate(readers, plan, harvest.shards, harvest.fingerprint, allow=config.sample.allow_mismatch,
                     loss=config.sample.loss_recovered)  # fmt: skip
    return harvest, found


def plan_of(config: Config, reader: "Reader", out: Path, fingerprint: str) -> Plan:
    """The plan in the folder `out`, made now unless it is there. Raises UserError for windows that the model cannot read."""
    corpus, sample = config.corpus, config.sample
    limit = getattr(reader.subject.model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and corpus.window > limit:
        raise UserError(f"corpus.window = {corpus.window} is longer than the model's context of {limit} tokens; "
                        f"use --set corpus.window={limit} or less")  # fmt: skip
    done = finished_plan(out / "plan", fingerprint)
    if done is not None:
        return done
    settings = PlanSettings(
        corpus.window - reader.shift, corpus.max_tokens, sample.pool, config.seed, sample.part_windows
    )
    documents = open_corpus(corpus.source, corpus.text_field)
    with progress("tokenise", corpus.max_tokens, "tokens") as advance:
        return make_plan(
            documents, reader.subject.tokenizer, out / "plan", settings, fingerprint, lambda tokens: advance(tokens, "")
        )


def _check_complete(harvest: "Pass", out: Path) -> None:
    left = missing_parts(harvest.plan.n_parts, finished_shards(harvest.shards, harvest.fingerprint))
    if left:
        raise UserError(f"{out}: {len(left)} of {harvest.plan.n_parts} parts were not harvested (the first is part "
                        f"{left[0] + 1}); run the same command again: only these are done")  # fmt: skip


def _merge(harvest: "Pass", index: int, conformance: "Conformance") -> None:
    """The catalog of one run, from the finished shards."""
    from autointerp.harvest.cofiring import cofiring
    from autointerp.harvest.lens import neighbours, output_tokens
    from autointerp.harvest.merge import merge_shards, pool_firings
    from autointerp.harvest.tokens import vocabulary_table

    run, reader, features = harvest.runs[index], harvest.readers[index], harvest.features()[index]
    model = reader.subject.model
    folders = [shard.folder / str(index) for shard in finished_shards(harvest.shards, harvest.fingerprint)]
    run.out.mkdir(parents=True, exist_ok=True)
    with progress("catalog", None, "features") as advance, Catalog.open(run.catalog, write=True) as catalog:
        with catalog.transaction():
            merge_shards(catalog, harvest.plan, folders, features, run.config.sample,
                         d_sae=reader.sae.d_sae)  # fmt: skip
            catalog.insert(
                "vocabulary", vocabulary_table(reader.subject.tokenizer, model.config.get_text_config().vocab_size)
            )
            if reader.sae.decoder is not None:  # neurons stand for themselves: no direction of theirs is near another's
                lens = output_tokens(model, reader.sae.decoder, features)
                if lens is not None:
                    catalog.insert("output_tokens", lens)
                catalog.insert("neighbours", neighbours(reader.sae.decoder, features))
            if reader.sae.encoder is not None:  # of neurons the pool keeps no more than peaks
                catalog.insert("cofiring", cofiring(*pool_firings(catalog, harvest.plan.window), features))
            facts = _facts(harvest, index, features, conformance)
            facts["flags"] = dict(
                catalog.rows("SELECT coalesce(flag, 'usual'), count(*) FROM features GROUP BY ALL ORDER BY ALL")
            )
            catalog.finish_stage("sample", run.fingerprint, sample_settings(run.config), facts)
        advance(len(features), "")


def _facts(harvest: "Pass", index: int, features: "NDArray[np.int64]", conformance: "Conformance") -> dict[str, Any]:
    config, reader, plan = harvest.runs[index].config, harvest.readers[index], harvest.plan
    return {
        "subject": short_name(config.subject.model, "model"), "sae": short_name(config.sae.path, "SAE"),
        "dtype": reader.subject.dtype, "sae_format": reader.sae.format, "hookpoint": str(reader.hookpoint),
        "corpus": short_name(config.corpus.source, "corpus"), "tokens": plan.n_tokens,
        "windows": plan.n_windows, "documents": plan.n_documents, "features": len(features), "d_sae": reader.sae.d_sae,
        "window": config.corpus.window, "seed": config.seed, "conformance": asdict(conformance),
    }  # fmt: skip
