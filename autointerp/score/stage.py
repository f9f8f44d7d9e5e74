"""The stage `score`: labels are graded on the test split by all scorers, controlled and ranked. Graded labels are left alone.

On every run other labels are graded on a sample of features' contexts (`controls`): a score means something only as far as it
is above theirs. Labels that a model wrote are compared with the lexicon's on the same contexts. What the controls come to is
in `gates`.

What is to be graded is in `tasks`, the grading itself in `grading`; how a scorer's rows are marked, and what they depend on, in
`keys`.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from autointerp.catalog.draws import read_draws
from autointerp.catalog.reading import read_labels
from autointerp.catalog.spending import write_spending
from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.explain.at_hand import open_bench
from autointerp.explain.bench import Bench
from autointerp.explain.experiments import NoBench
from autointerp.explain.stage import explain, explainer_key
from autointerp.hashing import hex_hash
from autointerp.llm.session import ModelSession, Wanted, journal_folder, open_sessions
from autointerp.score import Scorer
from autointerp.score.adaptive import Adaptive, facts_of, plan_of
from autointerp.score.failures import Place
from autointerp.score.grading import Grading
from autointerp.score.keys import has_baseline, scorings
from autointerp.score.leakage import audit
from autointerp.score.leftovers import forget_other_controls
from autointerp.score.order import write_ranks
from autointerp.score.parts import asking, embedding, names_of, scorers_for, uses_of
from autointerp.score.simulating import BASELINE
from autointerp.score.simulation import SCORER
from autointerp.score.tasks import Which, labels_state, require_labels, tasks
from autointerp.score.writing import Scoring, Task

STAGE = "score"


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
            asyncio.run(_grade(config, catalog, run, found, todo, offline, only))
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


async def _grade(
    config: Config, catalog: Catalog, run: Path, found: Mapping[str, Scoring], todo: Sequence[Task], offline: bool,
    only: frozenset[int] | None,
) -> None:  # fmt: skip
    parts = scorers_for(config)
    needed = {name: parts[name] for task in todo for name in task.scorers}
    bench = _bench(config, catalog, offline) if any(scorer.wants.bench for scorer in needed.values()) else None
    async with AsyncExitStack() as stack:
        session: ModelSession | None = None
        if wanted := models(config, needed):
            session = await stack.enter_async_context(open_sessions(wanted, run, offline=offline))
        draws = {name: read_draws(catalog, STAGE, scoring.asked) for name, scoring in found.items()}
        plan = plan_of(config)
        adaptive = Adaptive(config, catalog, plan, found[SCORER].key, only) if plan else None
        grading = Grading(config, catalog, found, draws, session, bench, adaptive, later=offline)
        await (grading.grade(todo, {}) if adaptive is None else adaptive.grade(todo, grading.grade))


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
