"""The stage `score`: labels are graded on the test split by all scorers, controlled and ranked. Graded labels are left alone.

On every run other labels are graded on a sample of features' contexts (`controls`): a score means something only as far as it
is above theirs. Labels that a model wrote are compared with the lexicon's on the same contexts. What the controls come to is
in `gates`.

What is to be graded is in `tasks`; how a scorer's rows are marked, and what they depend on, in `keys`.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from autointerp.catalog.draws import read_draws
from autointerp.catalog.reading import EvidenceReader, read_labels, read_vocabulary
from autointerp.catalog.records import FeatureEvidence
from autointerp.catalog.spending import write_spending
from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.explain.at_hand import open_bench
from autointerp.explain.bench import Bench
from autointerp.explain.experiments import NoBench
from autointerp.explain.stage import explain, explainer_key
from autointerp.hashing import hex_hash
from autointerp.llm.rounds import drawn, in_rounds
from autointerp.llm.session import ModelSession, Wanted, journal_folder, open_sessions
from autointerp.score import Grade, Means, Scorer
from autointerp.score.adaptive import Adaptive, facts_of, first_looks, plan_of
from autointerp.score.evidence_controls import evidence_controls
from autointerp.score.failures import Place
from autointerp.score.keys import has_baseline, scorings
from autointerp.score.leakage import audit
from autointerp.score.leftovers import forget_other_controls
from autointerp.score.order import write_ranks
from autointerp.score.parts import asking, embedding, names_of, scorers_for, silent_contexts, uses_of
from autointerp.score.questions import all_asked
from autointerp.score.simulating import BASELINE
from autointerp.score.simulation import SCORER
from autointerp.score.tasks import Which, for_scorer, labels_state, require_labels, tasks, with_evidence
from autointerp.score.turns import Turns
from autointerp.score.writing import Graded, Scoring, Task, write_grades

STAGE = "score"
Peaks = Mapping[str, float]
"""Texts that the subject model has read, with a feature's maximum over each."""


def score(
    config: Config, catalog: Catalog, run: Path, which: Which = "pending", *, only: frozenset[int] | None = None,
    offline: bool = False, again: Iterable[Place] = (),
) -> dict[str, Any]:  # fmt: skip
    """Grade labels, rank, and return the facts of the stage: those without a grade, those whose failures may pass, and `again`;
    or `all`; of these those of the features in `only`. `offline`: from the journal alone; what it cannot answer is left as it
    is."""
    found = scorings(config)
    keys = {name: scoring.key for name, scoring in found.items()}
    require_labels(config, catalog)
    again = frozenset(again)
    fingerprint = hex_hash(
        *(text for item in sorted(keys.items()) for text in item), config.score.rank_by,
        str(config.score.control_features), *config.score.controls, *labels_state(config, catalog),
    )  # fmt: skip
    is_done = (
        catalog.stage_fingerprint(STAGE) == fingerprint
        and dict(catalog.rows("SELECT scorer, score_key FROM scorings")) == keys
    )
    if is_done and which == "pending" and not again:
        return catalog.stage_facts(STAGE)
    if any(has_baseline(config, scorer) for scorer in scorers_for(config).values()):
        labelled = frozenset(read_labels(catalog, explainer_key(config, config.explain.explainer)))
        explain(
            config, catalog, run, BASELINE, only=labelled if only is None else labelled & only
        )  # where it is missing
    forget_other_controls(config, catalog, keys)
    todo = tasks(config, catalog, which, again, only)
    try:
        if todo:
            audit(catalog, [task.feature_id for task in todo])
            asyncio.run(_score_all(config, catalog, run, found, todo, offline, only))
    finally:
        write_spending(catalog, journal_folder(run))
    with catalog.transaction():
        facts = write_ranks(config, catalog, found) | facts_of(config, catalog, found)
        # With failures that may pass, or labels that wait for answers, the stage stays unfinished: the next run goes on.
        is_whole = not tasks(config, catalog)
        catalog.finish_stage(STAGE, fingerprint if is_whole else "", config.score.model_dump(), facts)
    return facts


def refresh_controls(config: Config, catalog: Catalog) -> dict[str, Any]:
    """Order, p-values and gates once more from the scores that are there; the facts of the stage, which stays as complete as it
    was."""
    fingerprint = catalog.stage_fingerprint(STAGE) or ""
    with catalog.transaction():
        found = scorings(config)
        facts = write_ranks(config, catalog, found) | facts_of(config, catalog, found)
        catalog.finish_stage(STAGE, fingerprint, config.score.model_dump(), facts)
    return facts


async def _score_all(
    config: Config, catalog: Catalog, run: Path, found: Mapping[str, Scoring], todo: Sequence[Task], offline: bool,
    only: frozenset[int] | None,
) -> None:  # fmt: skip
    parts = scorers_for(config)
    needed = {name: parts[name] for task in todo for name in task.scorers}
    reader = EvidenceReader(catalog, seed=config.seed, silent=silent_contexts(config))
    draws = {name: read_draws(catalog, STAGE, scoring.asked) for name, scoring in found.items()}
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
            baseline = task.baseline if parts[name].wants.baseline else None
            given = replace(means, ask=ask, embed=embed, baseline=baseline, peaks=peaks, controlled=task.sampled)
            evidence = for_scorer(config, parts[name], evidence)
            if adaptive is not None and name == SCORER and not task.control:
                return await adaptive.scorer(parts).looked(task.label, evidence, given, looks)
            return await parts[name](task.label, evidence, given)

        async def turn(todo: Sequence[Task], looks: Mapping[int, int]) -> None:
            later = session is not None and (session.answers_later or offline)
            unit, todo = ("grades", _apart(todo)) if later else ("labels", todo)

            async def work(item: tuple[Task, FeatureEvidence, Peaks]) -> Graded:
                task, evidence, peaks = item
                look = looks.get(task.feature_id, 0)
                grades = await all_asked(grade(name, task, evidence, peaks, look) for name in task.scorers)
                return _graded(config, parts, task, evidence, dict(zip(task.scorers, grades, strict=True)))

            def read(chunk: Sequence[Task]) -> Iterator[tuple[Task, FeatureEvidence, Peaks]]:
                peaks = _known_peaks(catalog, chunk) if means.bench else {}
                whole = with_evidence(config, reader, chunk)
                if plan:
                    known = ((task, for_scorer(config, parts[SCORER], evidence)) for task, evidence in whole)
                    whole = first_looks(plan, looks, known)
                for task, evidence in whole:
                    yield task, evidence, peaks.get(task.feature_id, {})

            await in_rounds(
                _what(todo, looks, adaptive),
                unit,
                todo,
                read,
                work,
                lambda finished: write_grades(catalog, finished, found),
                session,
            )

        await (turn(todo, {}) if adaptive is None else adaptive.grade(todo, turn))


def _what(todo: Sequence[Task], looks: Mapping[int, int], adaptive: Adaptive | None) -> str:
    """What is being done, for people: which round it is where all of it is one."""
    rounds = {looks.get(task.feature_id) for task in todo}
    is_one = len(rounds) == 1 and not any(task.control or task.scorers != (SCORER,) for task in todo)
    return f"{STAGE}, round {rounds.pop()} of {adaptive.rounds}" if adaptive is not None and is_one else STAGE


def _apart(todo: Sequence[Task]) -> list[Task]:
    """Each scorer's work by itself: what one waits for keeps no other's back."""
    return [replace(task, scorers=(name,)) for task in todo for name in task.scorers]


def _graded(
    config: Config, parts: Mapping[str, Scorer], task: Task, evidence: FeatureEvidence, grades: Mapping[str, Grade]
) -> Graded:
    """The grades with what their controls come to that need no other answers."""
    bands = {context.window_id: context.band for context in evidence.contexts if context.kind in ("band", "silent")}
    controls = {} if task.control else {
        name: evidence_controls(
            parts[name], for_scorer(config, parts[name], evidence), one, seed=config.seed, verdicts=task.sampled
        )
        for name, one in grades.items()
    }  # fmt: skip
    return Graded(task, grades, bands, controls)


def models(config: Config, needed: Mapping[str, Scorer]) -> dict[str, Wanted]:
    """The models that scorers ask, by what for."""
    wanted = {}
    if by := asking(needed):
        wanted["model"] = Wanted(config.simulating(), names_of(by), uses_of(config, by))
    if by := embedding(needed):
        wanted["embedder"] = Wanted(config.embedding(), names_of(by), uses_of(config, by))
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
