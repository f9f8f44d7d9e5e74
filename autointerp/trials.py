"""The run's explainer and scorers on a few features, with answers of the journal or made-up ones: what they ask, scaled up."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from autointerp.catalog.draws import read_draws
from autointerp.catalog.reading import EvidenceReader, read_labels, read_vocabulary
from autointerp.catalog.records import FeatureEvidence, Label
from autointerp.catalog.store import Catalog
from autointerp.config import Config, ModelAccess
from autointerp.explain import stage as explaining
from autointerp.explain.at_hand import rehearsed
from autointerp.explain.experiments import MadeUpBench
from autointerp.explain.supply import with_negatives, with_steered
from autointerp.llm.journal import Journal
from autointerp.llm.types import RequestFailed
from autointerp.projection import Asked, Row, project
from autointerp.score import Means, Scorer
from autointerp.score.controls import StandIn, can_grade, stand_ins
from autointerp.score.failures import Place
from autointerp.score.keys import scorings
from autointerp.score.parts import asking, embedding, part_of, scorers_for, silent_contexts
from autointerp.score.stage import STAGE as SCORE
from autointerp.score.stage import models
from autointerp.score.tasks import for_scorer, settled, with_evidence
from autointerp.score.writing import Task
from autointerp.unsent import Line

Item = TypeVar("Item")


def untiring(config: Config) -> Config:
    """The configuration with which an explainer that goes on while the score rises takes all its steps: the mock's score says
    nothing of where a model's would stop."""
    return config.model_copy(update={"explain": config.explain.model_copy(update={"patience": config.explain.steps})})


class Trial:
    """The run's explainer and scorers, tried on a few of the features that they have still to do.

    `anew`: for so many features that are like them, of which nothing is done and the journal knows no answer; 0: for themselves.
    `only`: the run is to work on these features alone.
    """

    def __init__(
        self, config: Config, catalog: Catalog, out: Path, journal: Journal | None, *, anew: int = 0,
        only: frozenset[int] | None = None,
    ) -> None:  # fmt: skip
        self._config, self._catalog, self._out, self._journal = config, catalog, out, journal
        self._vocabulary = read_vocabulary(catalog)
        self._shown = EvidenceReader(catalog, seed=config.seed, silent=explaining.SILENT)
        self._graded = EvidenceReader(catalog, seed=config.seed, silent=silent_contexts(config))
        self._explainer = rehearsed(explaining.explainer_for(untiring(config), config.explain.explainer))
        key = "" if anew else explaining.explainer_key(config, config.explain.explainer)
        self._only = only
        self._todo = self._wanted(explaining.features_to_label(catalog, key, config.explain.include_rare))
        self._labels: dict[int, Label | None] = {
            feature: label for feature, (_, label) in read_labels(catalog, key).items()
        }
        self._draws = read_draws(catalog, explaining.STAGE, key)
        self._line: Line | None = None
        self._anew = anew
        self._scorings = scorings(config)
        self._settled = frozenset[Place]() if anew else settled(config, catalog, self._scorings, only)
        self._features = sorted({*self._labels, *self._todo})
        self._stand_ins = stand_ins(config, catalog, self._features)
        self._evidence: dict[int, FeatureEvidence] = {}
        self._graded_own: set[tuple[str, int]] = set()

    async def rows(self, sample: int) -> list[Row]:
        """A row for each part and model that has something to ask, tried on up to `sample` features each."""
        config, rows = self._config, []
        if self._explainer.needs_model:
            name = config.explain.explainer
            self._line = self._way(config.explaining(), f"explainer {name}")
            trial = await self._explain(self._sample(self._todo, sample))
            rows.append(project("explain", name, self._line.billing, self._anew or len(self._todo), trial))
        return rows + await self._gradings(sample)

    async def _gradings(self, sample: int) -> list[Row]:
        """A row for each scorer and each model that it asks."""
        config, rows = self._config, []
        parts = scorers_for(_roughly(config))
        lines = {which: self._way(wanted.access, wanted.by) for which, wanted in models(config, parts).items()}
        if not lines:
            return []
        own: dict[int, StandIn] = {feature: feature for feature in self._features}
        for control, members in {"": own, **self._stand_ins}.items():
            begun: set[str] | None = None if control else set()  # the controls' texts are known from the labels
            for name, scorer in {**asking(parts), **embedding(parts)}.items():
                if control and not (scorer.wants.label and can_grade(control, scorer.simulator)):
                    continue
                done = self._done(name, control)
                left = [feature for feature in self._wanted(members) if feature not in done]
                chosen = self._sample(left, _of_control(sample) if control else sample)
                if control:  # what is asked about a feature's texts whatever the label is known from its own label, too
                    new = [feature for feature in chosen if (name, feature) not in self._graded_own]
                    await self._grade(name, scorer, lines, "", [(feature, feature) for feature in new], begun)
                stage, pairs = f"control {control}" if control else "score", [(one, members[one]) for one in chosen]
                for which, trial in (await self._grade(name, scorer, lines, control, pairs, begun)).items():
                    rows.append(
                        project(stage, part_of(name, scorer)[1], lines[which].billing, self._anew or len(left), trial)
                    )
        return rows

    def _way(self, access: ModelAccess, by: str) -> Line:
        return Line(access, self._out, self._journal, by, knows_answers=not self._anew)

    def _wanted(self, features: Iterable[int]) -> list[int]:
        return [feature for feature in features if self._only is None or feature in self._only]

    def _sample(self, features: Sequence[int], count: int) -> list[int]:
        """`count` of the features, first those that are in most controls: they are as uniform a draw as any, and what was asked
        for their own labels is then known."""
        chosen: list[int] = []
        for members in sorted(self._stand_ins.values(), key=len):
            chosen += _evenly([one for one in features if one in members and one not in chosen], count - len(chosen))
        known = set(chosen)
        return sorted(chosen + _evenly([one for one in features if one not in known], count - len(chosen)))

    def _done(self, name: str, control: str) -> set[int]:
        """Features that the scorer has graded, and that a run would leave alone."""
        key = self._scorings[name].key
        return {feature for by, feature, of in self._settled if (by, of) == (key, control)}

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
        draws = {} if self._anew else read_draws(self._catalog, SCORE, self._scorings[name].asked)
        self._read([task for task in tasks if task.feature_id not in self._evidence])
        for task in tasks:
            if not control:
                self._graded_own.add((name, task.feature_id))
            evidence, asks = self._evidence[task.feature_id], {}
            for which in used:
                asked: list[Asked] = []
                trials[which].append(asked)
                asks[which] = lines[which].ask_into(asked, draws.get((task.feature_id, control), 0), begun)
            controlled = any(task.feature_id in members for members in self._stand_ins.values())
            means = Means(
                self._vocabulary, asks.get("model"), asks.get("embedder"), bench=MadeUpBench(), controlled=controlled
            )
            await scorer(task.label, for_scorer(self._config, scorer, evidence), means)
        return trials

    def _read(self, tasks: Sequence[Task]) -> None:
        for task, evidence in with_evidence(self._config, self._graded, tasks) if tasks else ():
            self._evidence[task.feature_id] = evidence


def _of_control(sample: int) -> int:
    """Controls are few beside the features, and their texts are much the same."""
    return max(min(sample, 5), sample // 4)


def _roughly(config: Config) -> Config:
    """The configuration with few resamples: nobody looks at the intervals, and nothing that is asked depends on them."""
    return config.model_copy(update={"score": config.score.model_copy(update={"resamples": 100})})


def _evenly(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of the items."""
    return [items[index * len(items) // count] for index in range(count)] if count < len(items) else list(items)
