"""The stage `score`: labels are simulated on the test split, graded, controlled and ranked. Graded labels are left alone.

On every run another feature's label is simulated on a feature's contexts (the shuffled control): a score means something only
if that control's is about zero. Labels that a model wrote are compared with the lexicon's on the same contexts.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from autointerp.catalog.draws import read_draws
from autointerp.catalog.reading import EvidenceReader, read_labels, read_vocabulary
from autointerp.catalog.records import Context, FeatureEvidence, Label
from autointerp.catalog.spending import write_spending
from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.explain.stage import Which, explainer_key, features_to_label
from autointerp.hashing import hex_hash, sample_key, stable_hash
from autointerp.llm.rounds import drawn, in_rounds
from autointerp.llm.session import ModelSession, journal_folder, open_session, provider_for
from autointerp.score import Simulated, Simulator, simulators
from autointerp.score.leakage import audit
from autointerp.score.order import write_ranks
from autointerp.score.pool import blinded
from autointerp.score.simulation import (
    SCORER,
    ScoreRow,
    difference_rows,
    score_simulation,
    scored_contexts,
    shuffled_partner,
)

SHUFFLED = "shuffled"
BASELINE = "lexicon"
STAGE = "score"
_CONTROLS_OF_A_MODEL = 50  # features in the control where every simulation costs money


@dataclass(frozen=True)
class Task:
    """One label to grade on one feature's contexts. `baseline`: the lexicon's label of the feature, to compare with."""

    feature_id: int
    explanation_id: str
    label: Label
    control: str
    baseline: Label | None


@dataclass(frozen=True, slots=True)
class _Graded:
    task: Task
    contexts: Sequence[Context]
    simulated: Sequence[Simulated]
    rows: Sequence[ScoreRow]


def simulator_name(config: Config) -> str:
    """The configured simulator, or the one that suits the labels."""
    return config.score.simulator or (BASELINE if config.explain.explainer == BASELINE else "logprob_free")


def score_key(config: Config) -> str:
    """Identity of the scores: the labels, the simulator and every setting that the values depend on."""
    name = simulator_name(config)
    simulator = simulators.get(name)
    settings, access = config.score, config.simulating()
    model = (provider_for(access).name, access.model) if simulator.needs_model else ("", "")
    version = getattr(simulator, "version", "1")
    chosen = (settings.per_band, settings.silent, settings.resamples, config.seed)
    return hex_hash("score", explainer_key(config, config.explain.explainer), SCORER, name, version, *model, *chosen)


def score(
    config: Config, catalog: Catalog, run: Path, which: Which = "pending", *, offline: bool = False
) -> dict[str, Any]:
    """Grade labels, rank, and return the facts of the stage: those without a grade, failed ones included; or only the
    `failed` ones; or `all`. `offline`: from the journal alone; what it cannot answer is left as it is."""
    key = score_key(config)
    require_labels(config, catalog)
    fingerprint = hex_hash(
        key, config.score.rank_by, str(config.score.control_features), *_labels_state(config, catalog)
    )
    is_done = (
        catalog.stage_fingerprint("score") == fingerprint and catalog.value("SELECT score_key FROM ranking") == key
    )
    if is_done and which == "pending":
        return catalog.stage_facts("score")
    todo = tasks(config, catalog, key, which)
    try:
        if todo:
            audit(catalog, [task.feature_id for task in todo])
            asyncio.run(_score_all(config, catalog, run, key, todo, offline))
    finally:
        write_spending(catalog, journal_folder(run))
    failed = catalog.value("SELECT count(*) FROM simulations WHERE score_key = ? AND status = 'failed'", [key])
    with catalog.transaction():
        facts = write_ranks(config, catalog, key, simulator_name(config), SHUFFLED)
        # A stage with failed simulations stays unfinished, as does one with labels that wait for answers: the next run goes on.
        is_whole = not failed and not tasks(config, catalog, key)
        catalog.finish_stage("score", fingerprint if is_whole else "", config.score.model_dump(), facts)
    return facts


def require_labels(config: Config, catalog: Catalog) -> None:
    """Raise UserError where there is nothing to score."""
    if not _labels_state(config, catalog):
        if not features_to_label(catalog, "", config.explain.include_rare):
            raise UserError(
                "every feature is dead or rare (fires in fewer than 20 documents), so none is labelled; take more of the corpus "
                "(--max-tokens), or --set explain.include_rare=true"
            )
        raise UserError(
            f"no labels by {config.explain.explainer} (model {config.explain.model}) are here; run first: autointerp explain"
        )


def _labels_state(config: Config, catalog: Catalog) -> list[str]:
    key = explainer_key(config, config.explain.explainer)
    return [
        str(row)
        for row in catalog.rows(
            "SELECT status, count(*) FROM explanations WHERE explainer_key = ? GROUP BY ALL ORDER BY ALL", [key]
        )
    ]


def tasks(config: Config, catalog: Catalog, key: str, which: Which = "pending") -> list[Task]:
    """Labels to grade, by feature, each with its control beside it; `which` as in `score`."""
    labels = read_labels(catalog, explainer_key(config, config.explain.explainer))
    baselines = {} if config.explain.explainer == BASELINE else read_labels(catalog, explainer_key(config, BASELINE))
    stand_ins = partners(config, catalog, sorted(labels))
    graded = catalog.rows(
        "SELECT feature_id, control, max(n_failed) FROM scores WHERE score_key = ? GROUP BY ALL", [key]
    )
    failures: dict[tuple[int, str], int] = {(feature, control): count for feature, control, count in graded}
    found = []
    for feature, (explanation, label) in labels.items():
        baseline = baselines.get(feature)
        found.append(Task(feature, explanation, label, "", baseline[1] if baseline else None))
        if feature in stand_ins:
            found.append(Task(feature, *labels[stand_ins[feature]], SHUFFLED, None))
    return [task for task in found if _is_wanted(which, failures.get((task.feature_id, task.control)))]


def _is_wanted(which: Which, n_failed: int | None) -> bool:
    """Whether to grade a label of which so many contexts failed; None: it was not graded."""
    if which == "all":
        return True
    return n_failed != 0 if which == "pending" else bool(n_failed)


def partners(config: Config, catalog: Catalog, labelled: list[int]) -> dict[int, int]:
    """feature → the feature whose label stands in for its own, for the features in the control."""
    if len(labelled) < 2:
        return {}
    density = dict(catalog.rows("SELECT feature_id, density FROM features"))
    found = shuffled_partner(labelled, [density[feature] for feature in labelled], config.seed)
    limit = config.score.control_features
    if limit is None:
        limit = _CONTROLS_OF_A_MODEL if simulators.get(simulator_name(config)).needs_model else len(labelled)
    keys = sample_key(config.seed, stable_hash("control"), np.array(labelled, np.uint64))
    chosen = np.array(labelled)[np.argsort(keys, kind="stable")[:limit]]
    return {int(feature): found[int(feature)] for feature in chosen}


async def _score_all(
    config: Config, catalog: Catalog, run: Path, key: str, todo: Sequence[Task], offline: bool
) -> None:
    name = simulator_name(config)
    simulator = simulators.get(name)
    vocabulary = read_vocabulary(catalog)
    reader = EvidenceReader(catalog, seed=config.seed, silent=config.score.silent)
    draws = read_draws(catalog, STAGE, key)
    options: dict[str, Any] = {"seed": config.seed, "resamples": config.score.resamples}
    async with AsyncExitStack() as stack:
        session: ModelSession | None = None
        if simulator.needs_model:
            opened = open_session(config.simulating(), run, f"simulator {name}", offline=offline)
            session = await stack.enter_async_context(opened)

        async def work(item: tuple[Task, FeatureEvidence]) -> _Graded:
            task, evidence = item
            contexts = [blinded(context) for context in scored_contexts(evidence)]
            ask = drawn(session.broker, draws.get((task.feature_id, task.control), 0)) if session else None

            async def simulate(by: Simulator, label: Label) -> list[Simulated]:
                return await by(label, contexts, evidence.max_activation, ask, vocabulary)

            simulated = await simulate(simulator, task.label)
            rows = score_simulation(evidence, simulated, **options)
            if task.baseline is not None:
                baseline = await simulate(simulators.get(BASELINE), task.baseline)
                rows = [*rows, *difference_rows(evidence, simulated, baseline, **options)]
            return _Graded(task, contexts, simulated, rows)

        await in_rounds(
            "score", "labels", todo, lambda chunk: with_evidence(config, reader, chunk), work,
            lambda finished: _write(catalog, key, name, config, finished), session,
        )  # fmt: skip


def with_evidence(
    config: Config, reader: EvidenceReader, chunk: Sequence[Task]
) -> Iterator[tuple[Task, FeatureEvidence]]:
    """Each task with the test split's evidence of its feature."""
    ids = sorted({task.feature_id for task in chunk})
    evidence = {found.feature_id: found for found in reader.read(ids, ("test",))}
    for task in chunk:
        yield task, _limited(evidence[task.feature_id], config.score.per_band)


def _limited(evidence: FeatureEvidence, per_band: int) -> FeatureEvidence:
    """Only the first `per_band` contexts of each band, in the order of the sampling hash: still a uniform draw."""
    taken: dict[int, int] = {}
    kept = []
    for context in evidence.contexts:
        if context.kind == "band":
            taken[context.band] = taken.get(context.band, 0) + 1
            if taken[context.band] > per_band:
                continue
        kept.append(context)
    return replace(evidence, contexts=kept)


_SCORES = pa.schema(
    [("score_key", pa.string()), ("feature_id", pa.uint32()), ("explanation_id", pa.string()), ("scorer", pa.string()),
     ("simulator", pa.string()), ("metric", pa.string()), ("control", pa.string()), ("value", pa.float64()), ("lo", pa.float64()),
     ("hi", pa.float64()), ("n_ok", pa.uint32()), ("n_failed", pa.uint32()), ("status", pa.string()), ("reason", pa.string())]
)  # fmt: skip
_SIMULATIONS = pa.schema(
    [("score_key", pa.string()), ("feature_id", pa.uint32()), ("explanation_id", pa.string()), ("simulator", pa.string()),
     ("model", pa.string()), ("control", pa.string()), ("window_id", pa.uint64()), ("band", pa.uint8()), ("status", pa.string()),
     ("reason", pa.string()), ("expected", pa.list_(pa.float32()))]
)  # fmt: skip


def _write(catalog: Catalog, key: str, simulator: str, config: Config, finished: list[_Graded]) -> None:
    finished.sort(key=lambda graded: (graded.task.feature_id, graded.task.control))
    model = config.simulating().model if simulators.get(simulator).needs_model else None
    scores, simulations = [], []
    for graded in finished:
        task = graded.task
        common = {"score_key": key, "feature_id": task.feature_id, "explanation_id": task.explanation_id,
                  "simulator": simulator, "control": task.control}  # fmt: skip
        for row in graded.rows:
            fields = ("metric", "value", "lo", "hi", "n_ok", "n_failed", "status", "reason")
            scores.append(common | {"scorer": SCORER} | {field: getattr(row, field) for field in fields})
        bands = {context.window_id: context.band for context in graded.contexts}
        for found in graded.simulated:
            simulations.append(common | {"model": model, "window_id": found.window_id, "band": bands[found.window_id],
                                         "status": found.status, "reason": found.reason, "expected": found.expected})  # fmt: skip
    with catalog.transaction():
        for graded in finished:  # the rows of an earlier try with failures, if there was one
            for table in ("scores", "simulations"):
                catalog.rows(f"DELETE FROM {table} WHERE score_key = ? AND feature_id = ? AND control = ?",
                             [key, graded.task.feature_id, graded.task.control])  # fmt: skip
        catalog.insert("scores", pa.Table.from_pylist(scores, schema=_SCORES))
        catalog.insert("simulations", pa.Table.from_pylist(simulations, schema=_SIMULATIONS))
