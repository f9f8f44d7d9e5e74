"""What a run will ask and cost, before anything is sent: from the real prompts of a sample of its features.

The configured explainer and scorers run on the sample with an `ask` that sends nothing: it answers from the journal, else
as the mock provider does, so that the second stage's prompts are real, too. What they asked is scaled up to the features
that the stages have still to do.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from autointerp.catalog.draws import read_draws
from autointerp.catalog.reading import EvidenceReader, read_labels, read_vocabulary
from autointerp.catalog.records import Label
from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.explain import stage as explaining
from autointerp.explain.at_hand import experiments, rehearsed
from autointerp.explain.experiments import MadeUpBench
from autointerp.explain.supply import with_negatives, with_steered
from autointerp.llm.journal import Journal
from autointerp.llm.price import money_text
from autointerp.llm.prices import price_lines, unknown_price_note
from autointerp.llm.session import journal_folder
from autointerp.llm.types import RequestFailed
from autointerp.projection import CHARS_PER_TOKEN, FEWEST_CHARS_PER_TOKEN, Asked, Row, project
from autointerp.score import Means, Scorer
from autointerp.score.controls import StandIn, can_grade, stand_ins
from autointerp.score.keys import scorings
from autointerp.score.parts import asking, embedding, part_of, scorers_for, silent_contexts
from autointerp.score.stage import STAGE as SCORE
from autointerp.score.stage import models
from autointerp.score.tasks import for_scorer, with_evidence
from autointerp.score.writing import Task
from autointerp.unsent import Line

SAMPLE = 20
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A row for each stage that has something to ask of a model; `notes` are sentences that belong to it."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def money(self) -> float | None:
        """Expected US dollars; None where a price is not known."""
        return _total(row.money.expected if row.money else None for row in self.rows)

    @property
    def money_most(self) -> float | None:
        """US dollars that it costs about at most; None where a price is not known."""
        return _total(row.money.most if row.money else None for row in self.rows)

    def summary(self) -> str:
        """One line, to be said before a run."""
        if not self.rows:
            return "no model has to be asked: it costs nothing"
        requests = sum(row.requests for row in self.rows)
        tokens = " + ".join(f"{sum(part):,.0f}" for part in zip(
            *((row.input.expected, row.output.expected) for row in self.rows), strict=True))  # fmt: skip
        money = f"{money_text(self.money)}, at most about {money_text(self.money_most)}"
        return f"about {requests:,} requests, {tokens} tokens, {'price unknown' if self.money is None else money}"


def _total(amounts: Iterable[float | None]) -> float | None:
    total = 0.0
    for amount in amounts:
        if amount is None:
            return None
        total += amount
    return total


def estimate(config: Config, catalog: Catalog, out: Path, *, sample: int = SAMPLE) -> Estimate:
    """What is left to ask for the run folder `out`, by the prompts of up to `sample` features a stage.

    The sampling must be finished. Raises UserError where the run would: a model is not named, a provider lacks what a part
    needs, the file of prices is wrong.
    """
    explainer = explaining.explainer_for(config, config.explain.explainer)
    parts = [("explainer", config.explain.explainer, explainer.needs_model),
             *((*part_of(name, scorer), scorer.wants.model or scorer.wants.embedder)
               for name, scorer in scorers_for(config).items())]  # fmt: skip
    free = [f"the {kind} {part} asks no model and costs nothing" for kind, part, needs in parts if not needs]
    if len(free) == len(parts):
        return Estimate((), tuple(free))
    with ExitStack() as stack:
        journal = None
        if journal_folder(out).is_dir():
            journal = stack.enter_context(Journal(journal_folder(out), read_only=True))
        rows = asyncio.run(_Trial(config, catalog, out, journal).rows(sample))
    rows = [row for row in rows if row.features]
    early = explaining.explainer_for(_untiring(config), config.explain.explainer).version != explainer.version
    notes = [*free, *_notes(rows)]
    if rows and embedding(scorers_for(config)):
        notes.append(
            "a text that several features share is embedded once; beyond the sample it is counted for each of them"
        )
    if rows and config.score.random_directions:
        notes.append(_of_random_directions(rows, config.score.random_directions))
    if rows and experiments(explainer):
        notes.append(
            f"how many steps {config.explain.explainer} takes is the model's choice: tried with a call of each tool; after "
            f"{config.explain.investigate_tokens:,} tokens (explain.investigate_tokens) it makes no more"
        )
    elif rows and early:
        notes.append(f"with all {config.explain.steps} steps of {config.explain.explainer}, which may end before")
    return Estimate(tuple(rows), tuple(notes))


def _of_random_directions(rows: Sequence[Row], count: int) -> str:
    """What they cost besides: as much as so many features."""
    each = [
        (row.requests / row.features, row.input.expected / row.features)
        for row in rows
        if not row.stage.startswith("control")
    ]
    requests, tokens = (count * sum(part) for part in zip(*each, strict=True))
    return (
        f"{count:,} random directions besides (score.random_directions): about {requests:,.0f} requests, {tokens:,.0f} prompt "
        "tokens"
    )


def _untiring(config: Config) -> Config:
    """The configuration with which an explainer that goes on while the score rises takes all its steps: the mock's score says
    nothing of where a model's would stop."""
    return config.model_copy(update={"explain": config.explain.model_copy(update={"patience": config.explain.steps})})


def _notes(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return ["nothing is left to be asked"]
    sampled = dict.fromkeys(
        f"{row.sampled:,} of {row.features:,} ({row.stage})" for row in rows if row.sampled < row.features
    )
    notes = [f"from the prompts of {', '.join(sampled)}" if sampled else "from all the prompts"]
    if known := sum(row.known for row in rows):
        notes.append(f"about {known:,} further requests are answered by the journal and cost nothing")
    if all(row.calibrated for row in rows):
        notes.append(
            "tokens as in earlier answers of the model in this folder; at most: the 95th percentile of its answers"
        )
    else:
        notes.append(
            f"tokens by rule of thumb, {CHARS_PER_TOKEN:g} characters each, and answers as short as the mock's: a model that "
            f"reasons writes more; at most: {FEWEST_CHARS_PER_TOKEN:g} characters a token, and every answer as long as allowed"
        )
    notes.append(
        "answers that are refused or of no use are asked for once more, which is not counted; --budget is a firm limit"
    )
    unpriced = dict.fromkeys(row.model for row in rows if row.price is None)
    notes += [f"{unknown_price_note(model)}:\n{price_lines(model)}" for model in unpriced]
    sources = dict.fromkeys(
        f"{row.price.source}, read on {row.price.read}" for row in rows if row.price and row.price.read
    )
    return [*notes, *(f"prices are those of {source}" for source in sources)]


class _Trial:
    """The run's explainer and scorers, tried on a few of the features that they have still to do."""

    def __init__(self, config: Config, catalog: Catalog, out: Path, journal: Journal | None) -> None:
        self._config, self._catalog, self._out, self._journal = config, catalog, out, journal
        self._vocabulary = read_vocabulary(catalog)
        self._shown = EvidenceReader(catalog, seed=config.seed, silent=explaining.SILENT)
        self._graded = EvidenceReader(catalog, seed=config.seed, silent=silent_contexts(config))
        self._explainer = rehearsed(explaining.explainer_for(_untiring(config), config.explain.explainer))
        key = explaining.explainer_key(config, config.explain.explainer)
        self._todo = explaining.features_to_label(catalog, key, config.explain.include_rare)
        self._labels: dict[int, Label | None] = {
            feature: label for feature, (_, label) in read_labels(catalog, key).items()
        }
        self._draws = read_draws(catalog, explaining.STAGE, key)
        self._line: Line | None = None
        self._scorings = scorings(config)

    async def rows(self, sample: int) -> list[Row]:
        config, rows = self._config, []
        features = sorted({*self._labels, *self._todo})
        if self._explainer.needs_model:
            name = config.explain.explainer
            self._line = Line(config.explaining(), self._out, self._journal, f"explainer {name}")
            trial = await self._explain(_evenly(self._todo, sample))
            rows.append(project("explain", name, self._line.billing, len(self._todo), trial))
        return rows + await self._gradings(sample, features)

    async def _gradings(self, sample: int, features: Sequence[int]) -> list[Row]:
        """A row for each scorer and each model that it asks."""
        config, rows, parts = self._config, [], scorers_for(self._config)
        lines = {which: Line(wanted.access, self._out, self._journal, wanted.by)
                 for which, wanted in models(config, parts).items()}  # fmt: skip
        if not lines:
            return []
        own: dict[int, StandIn] = {feature: feature for feature in features}
        for control, members in {"": own, **stand_ins(config, self._catalog, list(features))}.items():
            begun: set[str] | None = None if control else set()  # the controls' texts are known from the labels
            for name, scorer in {**asking(parts), **embedding(parts)}.items():
                if control and not (scorer.wants.label and can_grade(control, scorer.simulator)):
                    continue
                done = self._done(name, control)
                left = [pair for pair in members.items() if pair[0] not in done]
                chosen = _evenly(left, sample)
                if control:  # what is asked about a feature's texts whatever the label is known from its own label, too
                    await self._grade(name, scorer, lines, "", [(feature, feature) for feature, _ in chosen], begun)
                stage = f"control {control}" if control else "score"
                for which, trial in (await self._grade(name, scorer, lines, control, chosen, begun)).items():
                    rows.append(project(stage, part_of(name, scorer)[1], lines[which].billing, len(left), trial))
        return rows

    def _done(self, name: str, control: str) -> set[int]:
        """Features that the scorer has graded without a failure."""
        rows = self._catalog.rows(
            "SELECT feature_id FROM scores WHERE score_key = ? AND control = ? GROUP BY ALL HAVING max(n_failed) = 0",
            [self._scorings[name].key, control],
        )
        return {feature for (feature,) in rows}

    async def _explain(self, features: Sequence[int]) -> list[list[Asked]]:
        """Label the features, and return what was asked for each. No label where the explainer has nothing to show."""
        trial = []
        negatives = with_negatives(self._config, self._explainer)
        steered = with_steered(self._config, self._explainer)
        for evidence in self._shown.read(features, self._explainer.splits, negatives=negatives, steered=steered):
            asked: list[Asked] = []
            draw = self._draws.get((evidence.feature_id, ""), 0)
            ask = self._line.ask_into(asked, draw, set()) if self._line else None
            try:
                self._labels[evidence.feature_id] = await self._explainer(evidence, ask, self._vocabulary)
            except RequestFailed:
                self._labels[evidence.feature_id] = None
            trial.append(asked)
        return trial

    async def _grade(
        self,
        name: str,
        scorer: Scorer,
        lines: Mapping[str, Line],
        control: str,
        pairs: Sequence[tuple[int, StandIn]],
        begun: set[str] | None,
    ) -> dict[str, list[list[Asked]]]:
        """Grade each pair's (feature, whose label it is); return what each model was asked for each."""
        wanted = {other for _, other in pairs if not isinstance(other, Label)}
        await self._explain(sorted(wanted - self._labels.keys()))
        labels = [(feature, other if isinstance(other, Label) else self._labels[other]) for feature, other in pairs]
        tasks = [Task(feature, "", label, "", None, (name,)) for feature, label in labels if label is not None]
        used = [which for which, wants in (("model", scorer.wants.model), ("embedder", scorer.wants.embedder)) if wants]
        trials: dict[str, list[list[Asked]]] = {which: [[] for _, label in labels if label is None] for which in used}
        draws = read_draws(self._catalog, SCORE, self._scorings[name].asked)
        for task, evidence in with_evidence(self._config, self._graded, tasks):
            asks = {}
            for which in used:
                asked: list[Asked] = []
                trials[which].append(asked)
                asks[which] = lines[which].ask_into(asked, draws.get((task.feature_id, control), 0), begun)
            means = Means(self._vocabulary, asks.get("model"), asks.get("embedder"), bench=MadeUpBench())
            await scorer(task.label, for_scorer(self._config, scorer, evidence), means)
        return trials


def _evenly(items: Sequence[Item], count: int) -> list[Item]:
    return [items[index * len(items) // count] for index in range(count)] if count < len(items) else list(items)
