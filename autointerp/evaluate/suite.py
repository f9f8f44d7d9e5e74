"""Explainers and simulators on planted features: labels, their scores, a judge's verdicts, and a test of the simulator.

Three phases, each over all features: label them from the explain and rerank splits; simulate the labels, and with a
simulator that asks a model also the true label and the three false ones, on the test split; ask a judge, where a
model is given. Answers are in the journal of the folder: the same command goes on where it was stopped.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, Literal, TypeVar

from autointerp.catalog.records import FeatureEvidence, Label
from autointerp.config import Config, ModelAccess
from autointerp.evaluate.evidence import evidence_of, words_of
from autointerp.evaluate.judge import Judgement, judge
from autointerp.evaluate.planted import FALSEHOODS, Falsehood, PlantedFeature
from autointerp.explain.at_hand import experiments
from autointerp.explain.investigate import FALLBACK
from autointerp.explain.stage import explainer_for
from autointerp.llm.provider import require
from autointerp.llm.rounds import in_rounds
from autointerp.llm.session import open_session, provider_for
from autointerp.llm.types import Ask, RequestFailed
from autointerp.score.metrics import FIRES
from autointerp.score.parts import simulator_for, simulator_name
from autointerp.score.pool import blinded
from autointerp.score.simulation import ScoreRow, score_simulation, scored_contexts

METRIC = "r_balanced"
Which = Literal["label", "true"] | Falsehood  # the explainer's label, the true one, a false one
Value = TypeVar("Value")
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Value]):
    """A value, or the reason why there is none."""

    value: Value | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """r of a label, and the share of the near misses whose simulation fires all the same; None if none was simulated."""

    row: ScoreRow
    false_alarms: float | None


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of one planted feature. What is None was not asked, or its answer is still under way.

    `scores` and `verdicts`: of the explainer's label ("label") and of the planted ones, as far as asked.
    """

    feature: PlantedFeature
    label: Outcome[Label] | None = None
    scores: dict[Which, Outcome[Scored]] = field(default_factory=dict)
    verdicts: dict[Which, Outcome[Judgement]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Findings:
    """One finding a feature, in the suite's order. `scorer_tested`: planted labels were simulated; `judge`: the judge's model."""

    explainer: str
    simulator: str
    model: str | None
    judge: str | None
    scorer_tested: bool
    seed: int
    features: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class _Task:
    feature: PlantedFeature
    which: Which
    label: Label


def evaluate(
    config: Config,
    run: Path,
    suite: Sequence[PlantedFeature],
    *,
    judge_model: str | None = None,
    check_judge: bool = False,
) -> Findings:
    """Label, score and judge the planted features of `suite` with the run's explainer and simulator.

    `run` holds the journal. The judge is `judge_model`, else the model that labels, else nobody; with `check_judge` it
    is asked about the false labels, too. Raises UserError where a model that is needed is not named or cannot be reached.
    """
    return asyncio.run(_Evaluation(config, run, suite, judge_model, check_judge).findings())


class _Evaluation:
    def __init__(
        self, config: Config, run: Path, suite: Sequence[PlantedFeature], judge_model: str | None, check_judge: bool
    ) -> None:
        self._config, self._run, self._suite, self._check_judge = config, run, suite, check_judge
        self._words = words_of(suite)
        self._explainer = explainer_for(config, config.explain.explainer)
        self._simulator = simulator_for(config)
        self._judge_model = judge_model or config.explain.model
        self._findings = {feature.number: Finding(feature) for feature in suite}

    async def findings(self) -> Findings:
        config = self._config
        await self._explain()
        await self._simulate()
        await self._judge()
        asks = self._explainer.needs_model or self._simulator.needs_model
        return Findings(
            self._who_labels(), simulator_name(config), config.explain.model if asks else None,
            self._judge_model, self._simulator.needs_model, config.seed, tuple(self._findings.values()),
        )  # fmt: skip

    def _who_labels(self) -> str:
        """The explainer; of one that wants a subject model, of which planted features have none, who stands in for it."""
        name = self._config.explain.explainer
        return f"{name} (as {FALLBACK}, without a subject model)" if experiments(self._explainer) else name

    async def _explain(self) -> None:
        async def label(feature: PlantedFeature, ask: Ask | None) -> Label:
            evidence = evidence_of(feature, self._words, ("explain", "rerank"))
            return await self._explainer(evidence, ask, self._words.vocabulary)

        def keep(feature: PlantedFeature, outcome: Outcome[Label]) -> None:
            self._findings[feature.number] = replace(self._findings[feature.number], label=outcome)

        access = self._config.explaining() if self._explainer.needs_model else None
        by = f"the explainer {self._config.explain.explainer}"
        await self._phase("explain", by, access, self._explainer.needs, list(self._suite), label, keep)

    async def _simulate(self) -> None:
        async def score(task: _Task, ask: Ask | None) -> Scored:
            evidence = evidence_of(task.feature, self._words, ("test",))
            return await self._score(task.label, evidence, ask)

        def keep(task: _Task, outcome: Outcome[Scored]) -> None:
            self._findings[task.feature.number].scores[task.which] = outcome

        asks = self._simulator.needs_model
        access = self._config.simulating() if asks else None
        by = f"the simulator {simulator_name(self._config)}"
        planted: tuple[Which, ...] = ("true", *FALSEHOODS) if asks else ()
        await self._phase("simulate", by, access, self._simulator.needs, self._tasks(planted), score, keep)

    async def _score(self, label: Label, evidence: FeatureEvidence, ask: Ask | None) -> Scored:
        contexts = [blinded(context) for context in scored_contexts(evidence)]
        vocabulary = self._words.vocabulary
        simulated = await self._simulator(label, contexts, evidence.max_activation, ask, vocabulary)
        settings = self._config.score
        rows = score_simulation(evidence, simulated, seed=self._config.seed, resamples=settings.resamples)
        near = {context.window_id for context in evidence.of("test", ("near",))}
        peaks = [one.expected.max() for one in simulated if one.window_id in near and one.expected is not None]
        alarms = sum(bool(peak >= FIRES) for peak in peaks) / len(peaks) if peaks else None
        return Scored(next(row for row in rows if row.metric == METRIC), alarms)

    async def _judge(self) -> None:
        if self._judge_model is None:
            return
        directory = Path(self._config.explain.prompt_dir) if self._config.explain.prompt_dir else None

        async def verdict(task: _Task, ask: Ask | None) -> Judgement:
            assert ask is not None  # a judge has a session
            return await judge(ask, task.feature.label, task.label, directory)

        def keep(task: _Task, outcome: Outcome[Judgement]) -> None:
            self._findings[task.feature.number].verdicts[task.which] = outcome

        access = replace(self._config.explaining(), model=self._judge_model)
        tasks = self._tasks(FALSEHOODS if self._check_judge else ())
        await self._phase("judge", "the judge", access, ("json_schema",), tasks, verdict, keep)

    def _tasks(self, planted: Sequence[Which]) -> list[_Task]:
        """The label of every feature that has one, and the planted labels of all."""
        tasks = []
        for finding in self._findings.values():
            feature = finding.feature
            if finding.label is not None and finding.label.value is not None:
                tasks.append(_Task(feature, "label", finding.label.value))
            known: dict[Which, Label] = {"true": feature.label}
            known.update(feature.false_labels.items())
            tasks += [_Task(feature, which, known[which]) for which in planted]
        return tasks

    async def _phase(
        self,
        what: str,
        by: str,
        access: ModelAccess | None,
        needs: Sequence[str],
        todo: Sequence[Item],
        work: Callable[[Item, Ask | None], Awaitable[Value]],
        keep: Callable[[Item, Outcome[Value]], None],
    ) -> None:
        """`work` on every item, with a model where `access` says which. What is still under way is not kept."""
        async with AsyncExitStack() as stack:
            session = None
            if access is not None:
                require(provider_for(access, self._run), *needs, by=by)
                session = await stack.enter_async_context(open_session(access, self._run, by))

            async def attempt(item: Item) -> tuple[Item, Outcome[Value]]:
                try:
                    return item, Outcome(await work(item, session.ask if session else None))
                except RequestFailed as failure:
                    return item, Outcome(None, str(failure))

            def write(finished: list[tuple[Item, Outcome[Value]]]) -> None:
                for item, outcome in finished:
                    keep(item, outcome)

            await in_rounds(what, "labels", todo, iter, attempt, write, session)
