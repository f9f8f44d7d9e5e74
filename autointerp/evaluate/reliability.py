"""The reliability study: the same features scored with other contexts, other samples of the explanation and other simulators.

How much of what scores differ by is due to the features, and how much to the luck of each of these? Every label is scored by
every simulator on two disjoint draws of contexts. The sampled run is only read; answers are kept in the journal of the
study's own folder, and the same command goes on there.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from autointerp.catalog.reading import EvidenceReader, read_vocabulary
from autointerp.catalog.records import Context, FeatureEvidence, Label
from autointerp.catalog.store import Catalog
from autointerp.config import Config, ModelAccess
from autointerp.errors import UserError
from autointerp.explain.at_hand import experiments
from autointerp.explain.stage import SILENT, explainer_for, features_to_label
from autointerp.explain.supply import require_supplies, with_negatives, with_steered
from autointerp.hashing import sample_key, stable_hash
from autointerp.llm.provider import require
from autointerp.llm.rounds import in_rounds
from autointerp.llm.session import open_session, provider_for
from autointerp.llm.types import Answer, Ask, Request, RequestFailed
from autointerp.metric_names import USUAL, parse_metric
from autointerp.score import Simulator, simulators
from autointerp.score.parts import IN_WORDS, cannot_read, settings_of, silent_contexts, why_unreadable
from autointerp.score.pool import blinded, scored_contexts
from autointerp.score.simulation import METRICS, score_simulation

DRAWS = 2
_SAMPLES = 1_000_000  # between the samples of an explanation: explainers that draw several themselves stay below
Item = TypeVar("Item")
Value = TypeVar("Value")
Reason = str


@dataclass(frozen=True, slots=True)
class By:
    """A simulator, and the model that it asks; None for one that asks none."""

    simulator: str
    model: str | None

    @property
    def name(self) -> str:
        return f"{self.simulator} {self.model}" if self.model else self.simulator


@dataclass(frozen=True, slots=True)
class Study:
    """`scores` [F, C, E, S]: NaN where there is none; `reasons` says why, with counts; without one answers are under way."""

    explainer: str
    model: str | None
    simulators: tuple[By, ...]
    metric: str
    features: tuple[int, ...]
    scores: NDArray[np.float64]
    reasons: dict[str, int]
    per_band: int
    silent: int

    @property
    def complete(self) -> NDArray[np.bool_]:
        """Which features have all their scores [F]: the analysis needs balance."""
        return np.asarray(np.isfinite(self.scores).all(axis=(1, 2, 3)), dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class _Cell:
    feature: int
    contexts: int
    explanation: int
    simulator: int


def parse_by(text: str, default: str | None) -> By:
    """SIMULATOR or SIMULATOR@MODEL; `default`: the model where none is named."""
    name, _, model = text.partition("@")
    simulator = simulators.get(name)
    if simulator.needs_model and not (model or default):
        raise UserError(f"the simulator {name} asks a model; name it: {name}@MODEL")
    return By(name, (model or default) if simulator.needs_model else None)


def study(
    config: Config, run: Path, out: Path, by: Sequence[By], *, features: int, samples: int, metric: str = USUAL.metric
) -> Study:
    """Run the study on so many features of the sampled `run`, in the folder `out`.

    Raises UserError where a model cannot be had, or an explainer is one that experiments on the subject model.
    """
    if len(set(by)) < len(by):
        raise UserError(f"--by: {', '.join(one.name for one in by)}; expected different ones")
    with Catalog.open(run / "catalog.duckdb") as catalog:
        return asyncio.run(_Study(config, catalog, out, by, features, samples, metric).run())


class _Study:
    def __init__(
        self, config: Config, catalog: Catalog, out: Path, by: Sequence[By], features: int, samples: int, metric: str
    ) -> None:
        self._config, self._catalog, self._out, self._by, self._samples = config, catalog, out, tuple(by), samples
        scorer, self._metric = parse_metric(metric)
        if scorer != USUAL.scorer or self._metric not in METRICS:
            raise UserError(
                f"--metric {metric}: expected one of the scorer {USUAL.scorer}, which grades two draws of contexts: "
                + ", ".join(METRICS)
            )
        self._name = config.explain.explainer
        self._explainer = explainer_for(config, self._name)
        if self._explainer.needs_model:
            self._check_readable()
        if experiments(self._explainer):
            raise UserError(
                f"the explainer {self._name} experiments on the subject model; the study takes none of these"
            )
        require_supplies(config, catalog, self._explainer)
        known = np.array(features_to_label(catalog, "", config.explain.include_rare), np.uint64)
        order = np.argsort(sample_key(config.seed, stable_hash("reliability"), known), kind="stable")
        self._features = sorted(int(feature) for feature in known[order[:features]])
        if len(self._features) < 2:
            raise UserError(
                f"{catalog.path}: {len(self._features)} features can be labelled; the study needs 2 or more"
            )
        self._vocabulary = read_vocabulary(catalog)
        self._labels: dict[tuple[int, int], Label | Reason] = {}
        shape = (len(self._features), DRAWS, samples, len(self._by))
        self._scores = np.full(shape, np.nan)
        self._reasons: dict[str, int] = {}

    def _check_readable(self) -> None:
        """Raise UserError where one of the simulators does not read words: all of its scores would be missing."""
        for by in self._by:
            if (reason := why_unreadable(by.simulator, IN_WORDS)) is not None:
                raise cannot_read(by.simulator, self._name, reason)

    async def run(self) -> Study:
        await self._explain()
        for number, by in enumerate(self._by):
            await self._simulate(number, by)
        model = self._config.explain.model if self._explainer.needs_model else None
        score = self._config.score
        return Study(
            self._name, model, self._by, self._metric, tuple(self._features), self._scores, dict(sorted(self._reasons.items())),
            score.per_band,
            silent_contexts(self._config),
        )  # fmt: skip

    async def _explain(self) -> None:
        reader = EvidenceReader(self._catalog, seed=self._config.seed, silent=SILENT)
        shown = {
            "negatives": with_negatives(self._config, self._explainer),
            "steered": with_steered(self._config, self._explainer),
        }

        async def label(item: tuple[int, int], evidence: FeatureEvidence, ask: Ask | None) -> Label:
            return await self._explainer(evidence, None if ask is None else _sampled(ask, item[1]), self._vocabulary)

        def keep(item: tuple[int, int], outcome: Label | Reason) -> None:
            self._labels[item] = outcome

        access = self._config.explaining() if self._explainer.needs_model else None
        todo = [(feature, sample) for feature in self._features for sample in range(self._samples)]
        await self._phase(
            f"explain {self._name}", access, self._explainer.needs, todo, lambda item: item[0],
            lambda ids: reader.read(ids, self._explainer.splits, **shown), label, keep,
        )  # fmt: skip

    async def _simulate(self, number: int, by: By) -> None:
        config = self._config
        simulator = simulators.get(by.simulator).configured(settings_of(config))
        reader = EvidenceReader(self._catalog, seed=config.seed, silent=DRAWS * silent_contexts(config))
        place = {feature: index for index, feature in enumerate(self._features)}

        async def score(cell: _Cell, evidence: FeatureEvidence, ask: Ask | None) -> float | Reason:
            half = half_of(evidence, cell.contexts, config.score.per_band, silent_contexts(config))
            label = self._labels[cell.feature, cell.explanation]
            assert not isinstance(label, str)
            return await self._score(simulator, label, half, ask)

        def keep(cell: _Cell, outcome: float | Reason) -> None:
            if isinstance(outcome, str):
                self._count(outcome)
            else:
                self._scores[place[cell.feature], cell.contexts, cell.explanation, number] = outcome

        todo = []
        for (feature, sample), label in self._labels.items():
            if isinstance(label, str):
                self._count(f"no label: {label}")
            else:
                todo += [_Cell(feature, draw, sample, number) for draw in range(DRAWS)]
        access = replace(config.simulating(), model=by.model) if simulator.needs_model else None
        await self._phase(
            f"score by {by.name}", access, simulator.needs, todo, lambda cell: cell.feature,
            lambda ids: reader.read(ids, ("test",)), score, keep,
        )  # fmt: skip

    async def _score(
        self, simulator: Simulator, label: Label, half: FeatureEvidence, ask: Ask | None
    ) -> float | Reason:
        contexts = [blinded(context) for context in scored_contexts(half)]
        simulated = await simulator(label, contexts, half.max_activation, ask, self._vocabulary)
        rows = score_simulation(half, simulated, seed=self._config.seed, resamples=2)  # of the interval nothing is used
        row = next(row for row in rows if row.metric == self._metric)
        return row.value if row.value is not None else f"{row.status}: {row.reason}"

    def _count(self, reason: str) -> None:
        self._reasons[reason] = self._reasons.get(reason, 0) + 1

    async def _phase(
        self,
        what: str,
        access: ModelAccess | None,
        needs: Sequence[str],
        todo: Sequence[Item],
        feature_of: Callable[[Item], int],
        read: Callable[[Sequence[int]], Sequence[FeatureEvidence]],
        work: Callable[[Item, FeatureEvidence, Ask | None], Awaitable[Value | Reason]],
        keep: Callable[[Item, Value | Reason], None],
    ) -> None:
        """`work` on every item with its feature's evidence, with a model where `access` says which."""
        async with AsyncExitStack() as stack:
            session = None
            if access is not None:
                require(provider_for(access, self._out), *needs, by=what)
                session = await stack.enter_async_context(open_session(access, self._out, what))

            def prepared(chunk: Sequence[Item]) -> "list[tuple[Item, FeatureEvidence]]":
                evidence = {one.feature_id: one for one in read(sorted({feature_of(item) for item in chunk}))}
                return [(item, evidence[feature_of(item)]) for item in chunk]

            async def attempt(pair: tuple[Item, FeatureEvidence]) -> tuple[Item, Value | Reason]:
                try:
                    return pair[0], await work(*pair, session.ask if session else None)
                except RequestFailed as failure:
                    return pair[0], str(failure)

            def write(finished: list[tuple[Item, Value | Reason]]) -> None:
                for item, outcome in finished:
                    keep(item, outcome)

            await in_rounds(what, "cells", todo, lambda chunk: iter(prepared(chunk)), attempt, write, session)


def half_of(evidence: FeatureEvidence, draw: int, per_band: int, silent: int) -> FeatureEvidence:
    """The contexts of one of `DRAWS` disjoint draws: of each stratum the next in hash order, as many in each draw."""
    strata: dict[int, list[Context]] = {}
    for context in scored_contexts(evidence):
        strata.setdefault(context.band, []).append(context)
    chosen: list[Context] = []
    for band, contexts in strata.items():
        size = min(per_band if band else silent, len(contexts) // DRAWS)
        chosen += contexts[draw * size : (draw + 1) * size]
    return replace(evidence, contexts=chosen)


def _sampled(ask: Ask, sample: int) -> Ask:
    async def ask_sample(request: Request) -> Answer:
        return await ask(replace(request, sample=request.sample + sample * _SAMPLES))

    return ask_sample
