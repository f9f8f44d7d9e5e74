"""Adaptive scoring: the scorer `simulation` in rounds, each feature until enough is known of it; see `sequential`,
and `halving`.

What was found at every look is a row of `scores` (`r_corpus_look_1`, …), beside those of the protocol, which are of all contexts
so far. Who is done is worked out from these rows alone, so a run that is stopped goes on as if it had not been. The simulator is
asked for the contexts of one look at a time, in the same portions whenever it is asked again: the journal has the answers.

Other scorers, and the controls, come once at the end, on the contexts that the feature's simulation has used.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from autointerp.catalog.records import Context, FeatureEvidence, Label
from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.explain.stage import explainer_key
from autointerp.llm.types import Ask
from autointerp.score import Grade, Means, Scorer, ScoreRow, Settings, Simulated, Simulator, halving
from autointerp.score.parts import scorers_for, silent_contexts
from autointerp.score.pool import scored_contexts
from autointerp.score.sequential import ERROR, METRICS, Look, Plan, State, by_look, decide, look_at
from autointerp.score.simulating import Simulation
from autointerp.score.simulation import SCORER
from autointerp.score.writing import Scoring, Task
from autointerp.vocabulary import Vocabulary

_WIDTH = 0.3  # of an interval that is narrow enough, where nothing says otherwise


def plan_of(config: Config) -> Plan | None:
    """The configured plan; None where scoring is not adaptive. Raises UserError for a metric that cannot be looked at."""
    given = config.score
    if not given.adaptive:
        return None
    scorer, metric = given.ranked()
    if scorer != SCORER or metric not in METRICS:
        raise UserError(f"score.rank_by is {given.rank_by}; adaptive scoring looks at {' or '.join(METRICS)}")
    silent = silent_contexts(config, scorers_for(config)[SCORER])
    plan = Plan(given.rounds, given.per_band, silent, top=given.top_k)
    if given.adaptive == "halving":
        return replace(plan, halving=True)
    is_for_a_goal = given.top_k is not None or given.threshold is not None
    width = given.target_width if given.target_width is not None else 0.0 if is_for_a_goal else _WIDTH
    return replace(plan, target_width=width, threshold=given.threshold)


def require_whole(config: Config, only: Collection[int] | None) -> None:
    """Raise UserError where only some features are to be worked on, and the plan compares all of them."""
    plan = plan_of(config)
    if only is not None and plan is not None and plan.compares:
        what = "--halving" if plan.halving else f"--top-k {plan.top}"
        raise UserError(f"{what} compares all features of the run with each other; leave out --features, or score these with "
                        "--no-adaptive")  # fmt: skip


def identity(config: Config) -> list[str]:
    """What adaptively scored rows depend on besides; nothing where scoring is not adaptive, so that other keys stay."""
    plan = plan_of(config)
    if plan is None:
        return []
    return [repr(plan), config.score.rank_by, "halving" if plan.halving else str(ERROR)]


@dataclass(frozen=True, slots=True)
class InPortions:
    """A simulator that asks another one for the contexts of one look after the other."""

    inner: Simulator
    plan: Plan

    @property
    def needs_model(self) -> bool:
        return self.inner.needs_model

    @property
    def needs(self) -> tuple[str, ...]:
        return self.inner.needs

    @property
    def version(self) -> str:
        return self.inner.version

    def configured(self, settings: Settings) -> Self:
        """The same simulator with a run's settings."""
        return replace(self, inner=self.inner.configured(settings))

    async def __call__(
        self, label: Label, contexts: Sequence[Context], max_activation: float, ask: Ask | None, vocabulary: Vocabulary
    ) -> list[Simulated]:
        """One result a context, in their order."""
        found: dict[int, Simulated] = {}
        for portion in by_look(self.plan, contexts):
            if portion:
                answers = await self.inner(label, portion, max_activation, ask, vocabulary)
                found |= {one.window_id: one for one in answers}
        return [found[context.window_id] for context in contexts]


@dataclass(frozen=True, slots=True)
class AdaptiveSimulation(Simulation):
    """The scorer `simulation` on as many looks as it is given contexts for, with a row for each look."""

    plan: Plan = field(default_factory=lambda: Plan(1, 1, 1))
    metric: str = METRICS[0]

    def configured(self, settings: Settings) -> Self:
        """The same scorer with a run's settings."""
        return replace(self, settings=settings)

    def _by(self) -> Simulator:
        return InPortions(Simulation._by(self), self.plan)  # a slotted dataclass has no super()

    async def looked(self, label: Label, evidence: FeatureEvidence, means: Means, looks: int) -> Grade:
        """The grade on all contexts of `evidence`, which are those of the first `looks`."""
        grade = await Simulation.__call__(self, label, evidence, means)
        rows = [replace(row, reason=self._covers(row, looks)) for row in grade.rows]
        return replace(grade, rows=[*rows, *self._rows(evidence, grade.simulated, looks)])

    def _covers(self, row: ScoreRow, looks: int) -> str | None:
        """What is to be known of an interval where its feature went no further because others had better scores."""
        if not self.plan.halving or looks == self.plan.looks or row.lo is None:
            return row.reason
        note = (f"stopped by halving after round {looks} of {self.plan.looks}: the interval is of these contexts as if their "
                "number had been fixed, and says nothing of the choice between features")  # fmt: skip
        return "; ".join(filter(None, [row.reason, note]))

    def _rows(self, evidence: FeatureEvidence, simulated: Sequence[Simulated], looks: int) -> list[ScoreRow]:
        rows, answers = [], {one.window_id: one for one in simulated}
        contexts: list[Context] = []
        for number, portion in enumerate(by_look(self.plan, scored_contexts(evidence))[:looks], start=1):
            contexts += portion
            of = [answers[context.window_id] for context in contexts]
            look = look_at(replace(evidence, contexts=contexts), of, self.metric, ERROR / self.plan.looks)
            n_failed = sum(one.status == "failed" for one in of)
            row = ScoreRow(
                _metric(self.metric, number), look.value, look.lo, look.hi, look.n, n_failed, _status(look), look.reason
            )
            rows.append(row)
        return rows


def _status(look: Look) -> Literal["ok", "undefined", "failed"]:
    return "ok" if look.value is not None else "undefined" if look.n else "failed"


def _metric(metric: str, look: int) -> str:
    return f"{metric}_look_{look}"


def read_looks(catalog: Catalog, explainer: str, score_key: str, metric: str) -> dict[int, list[Look]]:
    """feature → its looks so far, in their order, of all features that have a label by the explainer of that key."""
    labelled = "SELECT feature_id FROM explanations WHERE status = 'ok' AND explainer_key = ?"
    found: dict[int, list[Look]] = {feature: [] for (feature,) in catalog.rows(labelled, [explainer])}
    prefix = _metric(metric, 0)[:-1]
    for feature, *fields in catalog.rows(
        "SELECT feature_id, value, lo, hi, n_ok, reason FROM scores WHERE score_key = $key AND control = '' "
        "AND starts_with(metric, $prefix) ORDER BY feature_id, substr(metric, len($prefix) + 1)::INTEGER",
        {"key": score_key, "prefix": prefix},
    ):
        if feature in found:
            found[feature].append(Look(*fields))
    return found


def _decide(plan: Plan, looks: Mapping[int, Sequence[Look]]) -> State:
    return halving.decide(plan, looks) if plan.halving else decide(plan, looks)


Turn = Callable[[Sequence[Task], Mapping[int, int]], Awaitable[None]]


class Adaptive:
    """The order in which labels are graded where scoring is adaptive. `score_key`: of the scorer `simulation`. `only`: of these
    features alone; no rule of the plan then compares features."""

    def __init__(
        self, config: Config, catalog: Catalog, plan: Plan, score_key: str, only: Collection[int] | None = None
    ) -> None:
        self._catalog, self._plan, self._key, self._only = catalog, plan, score_key, only
        self._explainer = explainer_key(config, config.explain.explainer)
        self._metric = config.score.ranked()[1]

    @property
    def rounds(self) -> int:
        """At most, of a feature."""
        return self._plan.looks

    def scorer(self, parts: Mapping[str, Scorer]) -> AdaptiveSimulation:
        """What stands in for the scorer `simulation`."""
        inner = parts[SCORER]
        assert isinstance(inner, Simulation)
        return AdaptiveSimulation(inner.settings, self._plan, self._metric)

    def state(self) -> State:
        """Who is done, and who is due what, as the catalog has it."""
        looks = read_looks(self._catalog, self._explainer, self._key, self._metric)
        return _decide(
            self._plan, {one: found for one, found in looks.items() if self._only is None or one in self._only}
        )

    async def grade(self, todo: Sequence[Task], turn: Turn) -> None:
        """Grade the labels of `todo`: `turn` grades tasks, each on the contexts of so many looks by feature.

        Where a look could not be made of all features (answers are under way, or the run is being ended) no other begins.
        """
        own = {task.feature_id: task for task in todo if SCORER in task.scorers and not task.control}
        before = state = self.state()
        while due := [replace(own[feature], scorers=(SCORER,)) for feature in state.due if feature in own]:
            look = state.look
            await turn(due, {task.feature_id: look for task in due})
            state = self.state()
            if state.look == look and any(task.feature_id in state.due for task in due):
                break
        used = {feature: stop.look for feature, stop in state.stopped.items()}
        await turn([task for task in _rest(todo, before) if task.feature_id in used], used)


def _rest(todo: Sequence[Task], before: State) -> list[Task]:
    """What is left once a feature is done: other scorers, controls, and the simulation where it was done `before`."""
    rest = []
    for task in todo:
        is_done = task.control or task.feature_id in before.stopped
        names = tuple(name for name in task.scorers if name != SCORER or is_done)
        if names:
            rest.append(replace(task, scorers=names))
    return rest


def first_looks(
    plan: Plan, looks: Mapping[int, int], items: Iterable[tuple[Task, FeatureEvidence]]
) -> Iterator[tuple[Task, FeatureEvidence]]:
    """Each task with the contexts of its feature's first looks only; hard negatives and other splits stay."""
    for task, evidence in items:
        portions = by_look(plan, scored_contexts(evidence))
        later = {id(context) for portion in portions[looks[task.feature_id] :] for context in portion}
        kept = [context for context in evidence.contexts if id(context) not in later]
        yield task, replace(evidence, contexts=kept)


def due(
    config: Config, catalog: Catalog, scorings: Mapping[str, Scoring], only: Collection[int] | None = None
) -> frozenset[int]:
    """Features that are due a look; none where scoring is not adaptive."""
    plan = plan_of(config)
    return frozenset(Adaptive(config, catalog, plan, scorings[SCORER].key, only).state().due if plan else ())


def facts_of(config: Config, catalog: Catalog, scorings: Mapping[str, Scoring]) -> dict[str, Any]:
    """For people: why features stopped, and how many contexts were simulated; nothing where not adaptive."""
    plan = plan_of(config)
    if plan is None:
        return {}
    score_key = scorings[SCORER].key
    looks = read_looks(catalog, explainer_key(config, config.explain.explainer), score_key, config.score.ranked()[1])
    if not plan.compares:  # those that nobody has looked at keep no other waiting
        looks = {feature: found for feature, found in looks.items() if found}
    why = Counter(stop.why for stop in _decide(plan, looks).stopped.values())
    n = catalog.value(
        "SELECT count(*) FROM simulations JOIN windows USING (window_id) WHERE score_key = ? AND control = '' AND split = 'test'",
        [score_key],
    )
    return {"adaptive": {"stopped": dict(sorted(why.items())), "contexts": int(n)}}
