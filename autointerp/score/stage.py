"""The stage `score`: labels are graded on the test split by all scorers, controlled and ranked. Graded labels are left alone.

On every run other labels are graded on a sample of features' contexts (`controls`): a score means something only as far as it
is above theirs. Labels that a model wrote are compared with the lexicon's on the same contexts. What the controls come to is
in `gates`.

Every scorer has a key of its own, and so rows of its own: a further one does not touch what the others found.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from autointerp.catalog.draws import read_draws
from autointerp.catalog.reading import EvidenceReader, read_labels, read_vocabulary
from autointerp.catalog.records import FeatureEvidence, Label, Split
from autointerp.catalog.spending import write_spending
from autointerp.catalog.store import Catalog
from autointerp.config import Config, ModelAccess
from autointerp.errors import UserError
from autointerp.explain.at_hand import open_bench
from autointerp.explain.bench import Bench
from autointerp.explain.experiments import NoBench
from autointerp.explain.stage import Which, explainer_key, features_to_label
from autointerp.hashing import hex_hash
from autointerp.llm.rounds import drawn, in_rounds
from autointerp.llm.session import ModelSession, Wanted, journal_folder, open_sessions, provider_for
from autointerp.score import Grade, Means, Scorer
from autointerp.score.adaptive import Adaptive, due, facts_of, first_looks, identity, plan_of
from autointerp.score.controls import SHUFFLED, can_grade, stand_ins
from autointerp.score.evidence_controls import evidence_controls
from autointerp.score.leakage import audit
from autointerp.score.leftovers import forget_other_controls
from autointerp.score.order import write_ranks
from autointerp.score.parts import asking, embedding, names_of, scorers_for, silent_contexts
from autointerp.score.questions import all_asked
from autointerp.score.simulating import BASELINE
from autointerp.score.simulation import SCORER
from autointerp.score.turns import Turns
from autointerp.score.writing import Graded, Scoring, Task, write_grades

STAGE = "score"
Peaks = Mapping[str, float]
"""Texts that the subject model has read, with a feature's maximum over each."""


def score_keys(config: Config) -> dict[str, str]:
    """Of each scorer the identity of its scores: the labels, and every setting that the values depend on."""
    labels = explainer_key(config, config.explain.explainer)
    return {name: _score_key(config, name, scorer, labels) for name, scorer in scorers_for(config).items()}


def _score_key(config: Config, name: str, scorer: Scorer, labels: str) -> str:
    settings, wants = config.score, scorer.wants
    model = _identity(config.simulating()) if wants.model else ("", "")
    embedder = _identity(config.embedding()) if wants.embedder else ()
    chosen = (settings.per_band, silent_contexts(config), settings.resamples, config.seed)
    negatives = config.negatives.identity() if wants.negatives else "0"
    # Where scoring is adaptive a label decides how many contexts there are, also for those who do not look at it.
    by_label = wants.label or config.score.adaptive
    return hex_hash("score", name, labels if by_label else "", scorer.version, *model, *chosen, negatives, *embedder,
                    *identity(config))  # fmt: skip


def _identity(access: ModelAccess) -> tuple[str, str | None]:
    """Whose answers they are."""
    return provider_for(access).name, access.model


def score(
    config: Config, catalog: Catalog, run: Path, which: Which = "pending", *, only: frozenset[int] | None = None,
    offline: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Grade labels, rank, and return the facts of the stage: those without a grade, failed ones included; or only the
    `failed` ones; or `all`; of these those of the features in `only`. `offline`: from the journal alone; what it cannot answer
    is left as it is."""
    found = scorings(config)
    keys = {name: scoring.key for name, scoring in found.items()}
    require_labels(config, catalog)
    fingerprint = hex_hash(
        *(text for item in sorted(keys.items()) for text in item), config.score.rank_by,
        str(config.score.control_features), *config.score.controls, *_labels_state(config, catalog),
    )  # fmt: skip
    is_done = (
        catalog.stage_fingerprint(STAGE) == fingerprint
        and dict(catalog.rows("SELECT scorer, score_key FROM scorings")) == keys
    )
    if is_done and which == "pending":
        return catalog.stage_facts(STAGE)
    forget_other_controls(config, catalog, keys)
    todo = tasks(config, catalog, which, only)
    try:
        if todo:
            audit(catalog, [task.feature_id for task in todo])
            asyncio.run(_score_all(config, catalog, run, found, todo, offline, only))
    finally:
        write_spending(catalog, journal_folder(run))
    failed = catalog.value(
        "SELECT count(*) FROM (SELECT score_key, status FROM simulations UNION ALL SELECT score_key, status FROM judgements "
        "UNION ALL SELECT score_key, status FROM written_texts) "
        "WHERE score_key IN (SELECT unnest(?)) AND status = 'failed'", [list(keys.values())],
    )  # fmt: skip
    with catalog.transaction():
        facts = write_ranks(config, catalog, found, SHUFFLED) | facts_of(config, catalog, found)
        # A stage with failed contexts stays unfinished, as does one with labels that wait for answers: the next run goes on.
        is_whole = not failed and not tasks(config, catalog)
        catalog.finish_stage(STAGE, fingerprint if is_whole else "", config.score.model_dump(), facts)
    return facts


def refresh_controls(config: Config, catalog: Catalog) -> dict[str, Any]:
    """Order, p-values and gates once more from the scores that are there; the facts of the stage, which stays as complete as it
    was."""
    fingerprint = catalog.stage_fingerprint(STAGE) or ""
    with catalog.transaction():
        found = scorings(config)
        facts = write_ranks(config, catalog, found, SHUFFLED) | facts_of(config, catalog, found)
        catalog.finish_stage(STAGE, fingerprint, config.score.model_dump(), facts)
    return facts


def scorings(config: Config) -> dict[str, Scoring]:
    """Of each scorer how its rows are marked."""
    keys = score_keys(config)
    return {
        name: Scoring(name, keys[name], scorer.simulator, _model(config, scorer), scorer.wants.label)
        for name, scorer in scorers_for(config).items()
    }


def _model(config: Config, scorer: Scorer) -> str | None:
    """The model that a scorer's rows are marked with."""
    if scorer.wants.model:
        return config.simulating().model
    return config.embedding().model if scorer.wants.embedder else None


def require_labels(config: Config, catalog: Catalog, only: frozenset[int] | None = None) -> None:
    """Raise UserError where there is nothing to score, for none of the features in `only`."""
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
    if only is not None and only.isdisjoint(read_labels(catalog, explainer_key(config, config.explain.explainer))):
        raise UserError(
            f"none of the {len(only):,} features of --features has a label by {config.explain.explainer} (model "
            f"{config.explain.model}); run first: autointerp explain with the same --features"
        )


def _labels_state(config: Config, catalog: Catalog) -> list[str]:
    key = explainer_key(config, config.explain.explainer)
    return [
        str(row)
        for row in catalog.rows(
            "SELECT status, count(*) FROM explanations WHERE explainer_key = ? GROUP BY ALL ORDER BY ALL", [key]
        )
    ]


def tasks(config: Config, catalog: Catalog, which: Which = "pending", only: frozenset[int] | None = None) -> list[Task]:
    """Labels to grade, by feature, each with its controls beside it, and who is to grade it; `which`, `only` as in `score`."""
    labels = read_labels(catalog, explainer_key(config, config.explain.explainer))
    baselines = {} if config.explain.explainer == BASELINE else read_labels(catalog, explainer_key(config, BASELINE))
    controls = stand_ins(config, catalog, sorted(labels))
    found = scorings(config)
    graded = catalog.rows(
        "SELECT score_key, feature_id, control, max(n_failed) FROM scores WHERE score_key IN (SELECT unnest(?)) GROUP BY ALL",
        [[scoring.key for scoring in found.values()]],
    )
    failures: dict[tuple[str, int, str], int] = {tuple(at): count for *at, count in graded}

    for feature in due(config, catalog, found, only):
        failures.pop((found[SCORER].key, feature, ""), None)  # graded so far, but not to the end

    def wanted(feature: int, control: str) -> tuple[str, ...]:
        return tuple(
            name
            for name, scoring in found.items()
            if (not control or (scoring.of_label and can_grade(control, scoring.simulator)))
            and _is_wanted(which, failures.get((scoring.key, feature, control)))
        )

    todo = []
    for feature, (explanation, label) in labels.items():
        if only is not None and feature not in only:
            continue
        baseline = baselines.get(feature)
        sampled = any(feature in members for members in controls.values())
        todo.append(
            Task(feature, explanation, label, "", baseline[1] if baseline else None, wanted(feature, ""), sampled)
        )
        for control, members in controls.items():
            if feature in members:
                other = members[feature]
                named = (control, other) if isinstance(other, Label) else labels[other]
                todo.append(Task(feature, *named, control, None, wanted(feature, control)))
    return [task for task in todo if task.scorers]


def _is_wanted(which: Which, n_failed: int | None) -> bool:
    """Whether to grade a label of which so many contexts failed; None: it was not graded."""
    if which == "all":
        return True
    return n_failed != 0 if which == "pending" else bool(n_failed)


async def _score_all(
    config: Config, catalog: Catalog, run: Path, found: Mapping[str, Scoring], todo: Sequence[Task], offline: bool,
    only: frozenset[int] | None,
) -> None:  # fmt: skip
    parts = scorers_for(config)
    needed = {name: parts[name] for task in todo for name in task.scorers}
    reader = EvidenceReader(catalog, seed=config.seed, silent=silent_contexts(config))
    draws = {name: read_draws(catalog, STAGE, scoring.key) for name, scoring in found.items()}
    means = Means(read_vocabulary(catalog))
    if any(scorer.wants.bench for scorer in needed.values()):
        means = replace(means, bench=_bench(config, catalog, offline))
    turns, plan = Turns(), plan_of(config)
    adaptive = Adaptive(config, catalog, plan, found[SCORER].key, only) if plan else None
    async with AsyncExitStack() as stack:
        session: ModelSession | None = None
        if wanted := models(config, needed):
            session = await stack.enter_async_context(open_sessions(wanted, run, offline=offline))

        async def grade(name: str, task: Task, evidence: FeatureEvidence, peaks: Peaks, looks: int) -> Grade:
            draw = draws[name].get((task.feature_id, task.control), 0)
            ways = {which: drawn(broker, draw) for which, broker in session.brokers.items()} if session else {}
            ask = turns.of(ways["model"]) if parts[name].wants.model else None
            embed = ways["embedder"] if parts[name].wants.embedder else None
            given = replace(means, ask=ask, embed=embed, baseline=task.baseline, peaks=peaks)
            if adaptive is not None and name == SCORER and not task.control:
                return await adaptive.scorer(parts).looked(task.label, evidence, given, looks)
            return await parts[name](task.label, evidence, given)

        async def turn(todo: Sequence[Task], looks: Mapping[int, int]) -> None:
            async def work(item: tuple[Task, FeatureEvidence, Peaks]) -> Graded:
                task, evidence, peaks = item
                look = looks.get(task.feature_id, 0)
                grades = await all_asked(grade(name, task, evidence, peaks, look) for name in task.scorers)
                return _graded(config, parts, task, evidence, dict(zip(task.scorers, grades, strict=True)))

            def read(chunk: Sequence[Task]) -> Iterator[tuple[Task, FeatureEvidence, Peaks]]:
                peaks = _known_peaks(catalog, chunk) if means.bench else {}
                whole = with_evidence(config, reader, chunk)
                for task, evidence in first_looks(plan, looks, whole) if plan else whole:
                    yield task, evidence, peaks.get(task.feature_id, {})

            await in_rounds(
                "score", "labels", todo, read, work, lambda finished: write_grades(catalog, finished, found), session
            )

        await (turn(todo, {}) if adaptive is None else adaptive.grade(todo, turn))


def _graded(
    config: Config, parts: Mapping[str, Scorer], task: Task, evidence: FeatureEvidence, grades: Mapping[str, Grade]
) -> Graded:
    """The grades with what their controls come to that need no other answers."""
    bands = {context.window_id: context.band for context in evidence.contexts if context.kind in ("band", "silent")}
    controls = {} if task.control else {
        name: evidence_controls(parts[name], evidence, one, seed=config.seed, verdicts=task.sampled)
        for name, one in grades.items()
    }  # fmt: skip
    return Graded(task, grades, bands, controls)


def models(config: Config, needed: Mapping[str, Scorer]) -> dict[str, Wanted]:
    """The models that scorers ask, by what for."""
    wanted = {}
    if by := asking(needed):
        wanted["model"] = Wanted(config.simulating(), names_of(by))
    if by := embedding(needed):
        wanted["embedder"] = Wanted(config.embedding(), names_of(by))
    return wanted


def _bench(config: Config, catalog: Catalog, offline: bool) -> Bench:
    """The subject model. Offline one that cannot be had is no error yet: its readings may all be known."""
    try:
        return open_bench(config, catalog)
    except UserError as error:
        if not offline:
            raise
        return NoBench(str(error))


def _known_peaks(catalog: Catalog, chunk: Sequence[Task]) -> dict[int, dict[str, float]]:
    """Of each feature the texts that the subject model has read, whoever wanted it, with the feature's maximum over each."""
    found: dict[int, dict[str, float]] = {}
    for feature, text, peak in catalog.rows(
        "SELECT feature_id, text, max(peak) FROM written_texts WHERE feature_id IN (SELECT unnest(?)) AND peak IS NOT NULL "
        "GROUP BY ALL", [sorted({task.feature_id for task in chunk})],
    ):  # fmt: skip
        found.setdefault(feature, {})[text] = peak
    return found


def with_evidence(
    config: Config, reader: EvidenceReader, chunk: Sequence[Task]
) -> Iterator[tuple[Task, FeatureEvidence]]:
    """Each task with the test split's evidence of its feature: what any of the scorers wants, of the rerank split, too."""
    wants = [scorer.wants for scorer in scorers_for(config).values()]
    found = reader.read(
        sorted({task.feature_id for task in chunk}), ("test", "rerank") if any(one.rerank for one in wants) else ("test",),
        negatives=config.negatives.per_kind > 0 and any(one.negatives for one in wants),
        random=max(one.random for one in wants),
    )  # fmt: skip
    evidence = {one.feature_id: one for one in found}
    for task in chunk:
        yield task, _limited(evidence[task.feature_id], config.score.per_band)


def _limited(evidence: FeatureEvidence, per_band: int) -> FeatureEvidence:
    """Only the first `per_band` contexts of each split and band, in the order of the sampling hash: still a uniform draw."""
    taken: dict[tuple[Split, int], int] = {}
    kept = []
    for context in evidence.contexts:
        if context.kind == "band":
            place = (context.split, context.band)
            taken[place] = taken.get(place, 0) + 1
            if taken[place] > per_band:
                continue
        kept.append(context)
    return replace(evidence, contexts=kept)
