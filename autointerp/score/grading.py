"""Grading: each label by every scorer that is wanted, with the means that the scorer needs; rows are written as they come."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from autointerp.catalog.reading import EvidenceReader, read_vocabulary
from autointerp.catalog.records import FeatureEvidence
from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.explain.bench import Bench
from autointerp.llm.rounds import drawn, in_rounds
from autointerp.llm.session import ModelSession
from autointerp.score import Grade, Means, Scorer
from autointerp.score.adaptive import Adaptive, first_looks, plan_of
from autointerp.score.asked import all_asked
from autointerp.score.evidence_controls import evidence_controls
from autointerp.score.parts import scorers_for, silent_contexts
from autointerp.score.simulation import SCORER
from autointerp.score.tasks import for_scorer, with_evidence
from autointerp.score.turns import Turns
from autointerp.score.writing import Graded, Scoring, Task, write_grades

Peaks = Mapping[str, float]
"""Texts that the subject model has read, with a feature's maximum over each."""
Item = tuple[Task, FeatureEvidence, Peaks]


class Grading:
    """The scorers of a configuration at work on a catalog.

    `draws`: of each scorer which answers are wanted, by feature and control, where not the first; `session`: the models, None
    where none is asked; `bench`: the subject model, where a scorer runs it; `later`: what has no answer yet is left as it is.
    """

    def __init__(
        self, config: Config, catalog: Catalog, found: Mapping[str, Scoring],
        draws: Mapping[str, Mapping[tuple[int, str], int]], session: ModelSession | None, bench: Bench | None,
        adaptive: Adaptive | None, *, later: bool,
    ) -> None:  # fmt: skip
        self._config, self._catalog, self._found, self._draws = config, catalog, found, draws
        self._session, self._adaptive = session, adaptive
        self._later = session is not None and (session.answers_later or later)
        self._parts = scorers_for(config)
        self._reader = EvidenceReader(catalog, seed=config.seed, silent=silent_contexts(config))
        self._means = Means(read_vocabulary(catalog), bench=bench)
        self._turns = Turns()

    async def grade(self, todo: Sequence[Task], looks: Mapping[int, int]) -> None:
        """Grade the tasks and write what they come to. `looks`: of features that are graded in rounds, which one it is."""
        unit, todo = ("grades", _apart(todo)) if self._later else ("labels", todo)

        async def work(item: Item) -> Graded:
            return await self._graded(*item, looks)

        await in_rounds(
            self._what(todo, looks), unit, todo, lambda chunk: self._read(chunk, looks), work,
            lambda finished: write_grades(self._catalog, finished, self._found), self._session,
        )  # fmt: skip

    def _what(self, todo: Sequence[Task], looks: Mapping[int, int]) -> str:
        """What is being done, for people: which round it is where all of it is one."""
        rounds = {looks.get(task.feature_id) for task in todo}
        is_one = len(rounds) == 1 and not any(task.control or task.scorers != (SCORER,) for task in todo)
        return (
            f"score, round {rounds.pop()} of {self._adaptive.rounds}"
            if self._adaptive is not None and is_one
            else "score"
        )

    def _read(self, chunk: Sequence[Task], looks: Mapping[int, int]) -> Iterator[Item]:
        peaks = _known_peaks(self._catalog, chunk) if self._means.bench else {}
        whole = with_evidence(self._config, self._reader, chunk)
        if plan := plan_of(self._config):
            known = ((task, for_scorer(self._config, self._parts[SCORER], evidence)) for task, evidence in whole)
            whole = first_looks(plan, looks, known)
        for task, evidence in whole:
            yield task, evidence, peaks.get(task.feature_id, {})

    async def _graded(self, task: Task, evidence: FeatureEvidence, peaks: Peaks, looks: Mapping[int, int]) -> Graded:
        """The grades with what their controls come to that need no other answers."""
        look = looks.get(task.feature_id, 0)
        found = await all_asked(self._by(name, task, evidence, peaks, look) for name in task.scorers)
        grades = dict(zip(task.scorers, found, strict=True))
        bands = {context.window_id: context.band for context in evidence.contexts if context.kind in ("band", "silent")}
        controls = {} if task.control else {
            name: evidence_controls(
                self._parts[name], for_scorer(self._config, self._parts[name], evidence), one, seed=self._config.seed,
                verdicts=task.sampled,
            )
            for name, one in grades.items()
        }  # fmt: skip
        return Graded(task, grades, bands, controls)

    async def _by(self, name: str, task: Task, evidence: FeatureEvidence, peaks: Peaks, look: int) -> Grade:
        scorer = self._parts[name]
        given = self._given(name, scorer, task, peaks)
        evidence = for_scorer(self._config, scorer, evidence)
        if self._adaptive is not None and name == SCORER and not task.control:
            return await self._adaptive.scorer(self._parts).looked(task.label, evidence, given, look)
        return await scorer(task.label, evidence, given)

    def _given(self, name: str, scorer: Scorer, task: Task, peaks: Peaks) -> Means:
        """Of what there is, what the scorer wants."""
        draw = self._draws[name].get((task.feature_id, task.control), 0)
        ways = {which: drawn(one, draw) for which, one in self._session.brokers.items()} if self._session else {}
        return replace(
            self._means, ask=self._turns.of(ways["model"]) if scorer.wants.model else None,
            embed=ways["embedder"] if scorer.wants.embedder else None,
            baseline=task.baseline if scorer.wants.baseline else None, peaks=peaks, controlled=task.sampled,
        )  # fmt: skip


def _apart(todo: Sequence[Task]) -> list[Task]:
    """Each scorer's work by itself: what one waits for keeps no other's back."""
    return [replace(task, scorers=(name,)) for task in todo for name in task.scorers]


def _known_peaks(catalog: Catalog, chunk: Sequence[Task]) -> dict[int, dict[str, float]]:
    """Of each feature the texts that the subject model has read, whoever wanted it, with the feature's maximum over each."""
    found: dict[int, dict[str, float]] = {}
    for feature, text, peak in catalog.rows(
        "SELECT feature_id, text, max(peak) FROM written_texts WHERE feature_id IN (SELECT unnest(?)) AND peak IS NOT NULL "
        "GROUP BY ALL", [sorted({task.feature_id for task in chunk})],
    ):  # fmt: skip
        found.setdefault(feature, {})[text] = peak
    return found
