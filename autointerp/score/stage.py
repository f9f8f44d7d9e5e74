"""The stage `score`: labels are graded on the test split by all scorers, controlled and ranked. Graded labels are left alone.

On every run another feature's label is graded on a feature's contexts (the shuffled control): a score means something only if
that control's is what chance gives. Labels that a model wrote are compared with the lexicon's on the same contexts.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autointerp.catalog.draws import read_draws
from autointerp.catalog.reading import EvidenceReader, read_labels, read_vocabulary
from autointerp.catalog.records import FeatureEvidence
from autointerp.catalog.spending import write_spending
from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.explain.stage import Which, explainer_key, features_to_label
from autointerp.hashing import hex_hash, sample_key, stable_hash
from autointerp.llm.rounds import drawn, in_rounds
from autointerp.llm.session import ModelSession, journal_folder, open_session, provider_for
from autointerp.score import Scorer
from autointerp.score.leakage import audit
from autointerp.score.order import write_ranks
from autointerp.score.parts import part_of, scorers_for, simulator_name
from autointerp.score.pool import scored_contexts
from autointerp.score.questions import all_asked
from autointerp.score.simulating import BASELINE
from autointerp.score.simulation import shuffled_partner
from autointerp.score.turns import Turns
from autointerp.score.writing import Graded, Task, write_grades

SHUFFLED = "shuffled"
STAGE = "score"
_CONTROLS_OF_A_MODEL = 50  # features in the control where every simulation costs money


def score_key(config: Config) -> str:
    """Identity of the scores: the labels, the scorers and every setting that the values depend on."""
    parts = scorers_for(config)
    settings, access = config.score, config.simulating()
    model = (provider_for(access).name, access.model) if _asking(parts) else ("", "")
    versions = [text for name, scorer in sorted(parts.items()) for text in (name, scorer.version)]
    chosen = (settings.per_band, settings.silent, settings.resamples, config.seed)
    negatives = config.negatives.per_kind if _want_negatives(parts) else 0
    labels = explainer_key(config, config.explain.explainer)
    return hex_hash("score", labels, *versions, *model, *chosen, negatives)


def _asking(parts: Mapping[str, Scorer]) -> dict[str, Scorer]:
    return {name: scorer for name, scorer in parts.items() if scorer.needs_model}


def _want_negatives(parts: Mapping[str, Scorer]) -> bool:
    return any(scorer.wants_negatives for scorer in parts.values())


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
    failed = catalog.value(
        "SELECT count(*) FROM (SELECT score_key, status FROM simulations UNION ALL SELECT score_key, status FROM judgements) "
        "WHERE score_key = ? AND status = 'failed'", [key],
    )  # fmt: skip
    with catalog.transaction():
        facts = write_ranks(config, catalog, key, simulator_name(config), SHUFFLED)
        # A stage with failed contexts stays unfinished, as does one with labels that wait for answers: the next run goes on.
        is_whole = not failed and not tasks(config, catalog, key)
        catalog.finish_stage("score", fingerprint if is_whole else "", config.score.model_dump(), facts)
    return facts


def require_labels(config: Config, catalog: Catalog) -> None:
    """Raise UserError where there is nothing to score."""
    if not _labels_state(config, catalog):
        if not features_to_label(catalog, "", config.explain.include_rare):
            n = catalog.value("SELECT count(*) FROM documents")
            few = f": the part of the corpus that was sampled has {n:,}" if n < 20 else ""
            raise UserError(
                f"every feature is dead or rare (fires in fewer than 20 documents{few}), so none is labelled; take more of the "
                "corpus (--max-tokens), or --set explain.include_rare=true"
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
        limit = _CONTROLS_OF_A_MODEL if _asking(scorers_for(config)) else len(labelled)
    keys = sample_key(config.seed, stable_hash("control"), np.array(labelled, np.uint64))
    chosen = np.array(labelled)[np.argsort(keys, kind="stable")[:limit]]
    return {int(feature): found[int(feature)] for feature in chosen}


async def _score_all(
    config: Config, catalog: Catalog, run: Path, key: str, todo: Sequence[Task], offline: bool
) -> None:
    parts, access = scorers_for(config), config.simulating()
    asking = _asking(parts)
    vocabulary = read_vocabulary(catalog)
    reader = EvidenceReader(catalog, seed=config.seed, silent=config.score.silent)
    draws, turns = read_draws(catalog, STAGE, key), Turns()
    async with AsyncExitStack() as stack:
        session: ModelSession | None = None
        if asking:
            by = ", ".join(" ".join(part_of(*item)) for item in asking.items())
            session = await stack.enter_async_context(open_session(access, run, by, offline=offline))

        async def work(item: tuple[Task, FeatureEvidence]) -> Graded:
            task, evidence = item
            draw = draws.get((task.feature_id, task.control), 0)
            ask = turns.of(drawn(session.broker, draw)) if session else None
            grades = await all_asked(
                scorer(task.label, evidence, ask, vocabulary, task.baseline) for scorer in parts.values()
            )
            bands = {context.window_id: context.band for context in scored_contexts(evidence)}
            return Graded(task, dict(zip(parts, grades, strict=True)), bands)

        simulators = {name: scorer.simulator for name, scorer in parts.items()}
        models = {name: access.model if name in asking else None for name in parts}
        await in_rounds(
            "score", "labels", todo, lambda chunk: with_evidence(config, reader, chunk), work,
            lambda finished: write_grades(catalog, key, finished, simulators, models), session,
        )  # fmt: skip


def with_evidence(
    config: Config, reader: EvidenceReader, chunk: Sequence[Task]
) -> Iterator[tuple[Task, FeatureEvidence]]:
    """Each task with the test split's evidence of its feature."""
    ids, negatives = sorted({task.feature_id for task in chunk}), _want_negatives(scorers_for(config))
    evidence = {found.feature_id: found for found in reader.read(ids, ("test",), negatives=negatives)}
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
