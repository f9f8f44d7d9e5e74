"""The explainer `best_of_k`: several labels by another explainer, of which a cheap score on the rerank split chooses one.

Candidates are different samples of the same question, so the provider's own temperature makes them differ. Each is simulated on a
few contexts of the rerank split, which its author has not seen: the strongest claim of a label is what it says of other texts.
The test split is not touched; the grade in the catalog is that of every other label.

The score is Pearson's r over the pooled tokens of the contexts that could be simulated for all candidates that are compared, with
silent and activating contexts weighing 1:1. On so few contexts it is rough: it tells a wrong label from a right one, not two good
ones. Whoever answers the explainer answers the simulator, too.

A candidate that could not be had because of what was answered (refused, malformed, cut off) is out of the choice, and a context
that could not be simulated for such a reason is not compared. For a reason that may pass the whole label fails and is tried
again, since otherwise the choice would depend on the network.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from autointerp.catalog.records import Candidate, Context, FeatureEvidence, Label, Split
from autointerp.errors import UserError
from autointerp.explain import DEFAULT_SEARCH, Explainer, Search, explainers
from autointerp.explain.exemplars import Selection
from autointerp.hashing import hex_hash
from autointerp.llm.types import Answer, Ask, FailureKind, Request, RequestFailed
from autointerp.score import Simulated, Simulator, metrics, simulators
from autointerp.score.pool import blinded
from autointerp.vocabulary import Vocabulary

_PER_BAND, _SILENT = 1, 3
_SAMPLES_A_CANDIDATE = (
    100  # no explainer repeats a question so often; ten candidates stay below a retry's sample numbers
)
_LASTING = (FailureKind.REFUSED, FailureKind.MALFORMED, FailureKind.TRUNCATED, FailureKind.REJECTED)
_NO_CONTEXT = "the feature is active in no context of the rerank split"


@dataclass(frozen=True, slots=True)
class _Verdict:
    """A candidate's score, or why it has none."""

    score: float | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class BestOfK:
    """See the module. It has no prompt of its own."""

    needs_model: ClassVar[bool] = True
    splits: ClassVar[tuple[Split, ...]] = ("explain", "rerank")

    search: Search = field(default_factory=Search)
    selection: Selection = field(default_factory=Selection)
    directory: Path | None = None

    def configured(self, selection: Selection, directory: Path | None, search: Search = DEFAULT_SEARCH) -> "BestOfK":
        """The same explainer with a run's settings. Raises UserError for an inner explainer that has nothing to choose from."""
        inner = explainers.get(search.inner)
        if isinstance(inner, BestOfK) or not inner.needs_model or inner.splits != ("explain",):
            raise UserError(
                f"explain.inner = {search.inner!r}: best_of_k chooses between samples of a model's labels from the explain split "
                "alone; expected an explainer such as token_activation"
            )
        shown = inner.configured(selection, directory, search).selection
        return BestOfK(search, selection if shown is None else shown, directory)

    @property
    def needs(self) -> tuple[str, ...]:
        """What either of them needs of the provider."""
        return tuple(dict.fromkeys((*self._inner().needs, *self._simulator().needs)))

    @property
    def wants_negatives(self) -> bool:
        """Whether the inner explainer does."""
        return self._inner().wants_negatives

    @property
    def wants_steered(self) -> bool:
        """Whether the inner explainer does."""
        return self._inner().wants_steered

    @property
    def template_hash(self) -> str | None:
        """Of the candidates' prompt."""
        return self._inner().template_hash

    @property
    def version(self) -> str:
        """Changes with everything that the choice depends on, the model apart."""
        by = getattr(self._simulator(), "version", "1")
        return hex_hash(
            "1", self.search.inner, self.search.candidates, self._inner().version, self.search.simulator, by
        )

    def _inner(self) -> Explainer:
        return explainers.get(self.search.inner).configured(self.selection, self.directory, self.search)

    def _simulator(self) -> Simulator:
        return simulators.get(self.search.simulator)

    async def __call__(self, evidence: FeatureEvidence, ask: Ask | None, vocabulary: Vocabulary) -> Label:
        """The label that was chosen, with all candidates in it.

        Raises RequestFailed where no candidate could be had, or one for a reason that may pass; UserError where `ask` is None.
        """
        if ask is None:
            raise UserError("the explainer best_of_k asks a model, and none is given; name one, or use lexicon")
        labels = await self._labels(evidence, ask, vocabulary)
        contexts = compared_contexts(evidence)
        verdicts = await self._verdicts(labels, contexts, evidence.max_activation, ask, vocabulary)
        scored = {number: verdict.score for number, verdict in verdicts.items() if verdict.score is not None}
        best = max(scored, key=lambda number: (scored[number], -number)) if scored else min(verdicts)
        candidates = [
            _candidate(number, label, verdicts.get(number), best) for number, label in enumerate(labels, start=1)
        ]
        chosen = labels[best - 1]
        assert isinstance(chosen, Label)  # only labels have verdicts
        remark = None if scored else f"the first candidate, not chosen by score: {verdicts[best].reason}"
        return replace(chosen, candidates=candidates, remark=remark)

    async def _labels(self, evidence: FeatureEvidence, ask: Ask, vocabulary: Vocabulary) -> list[Label | RequestFailed]:
        """Of each candidate its label, or the failure of its answer. Raises where there is no label at all."""
        inner, shown = self._inner(), _of_splits(evidence, ("explain",))
        tries = (inner(shown, sampled(ask, number), vocabulary) for number in range(self.search.candidates))
        # All are asked before any is waited for; one that fails does not stop the others, which are paid for.
        found: list[Label | RequestFailed] = []
        for outcome in await asyncio.gather(*tries, return_exceptions=True):
            if isinstance(outcome, RequestFailed) and outcome.kind in _LASTING:
                found.append(outcome)
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                found.append(outcome)
        if not any(isinstance(label, Label) for label in found):
            raise next(label for label in found if isinstance(label, RequestFailed))
        return found

    async def _verdicts(
        self,
        labels: Sequence[Label | RequestFailed],
        contexts: Sequence[Context],
        maximum: float,
        ask: Ask,
        vocabulary: Vocabulary,
    ) -> dict[int, _Verdict]:
        """Number of each candidate that is a label → its score on the contexts. Raises for a failure that may pass."""
        numbered = {number: label for number, label in enumerate(labels, start=1) if isinstance(label, Label)}
        if not contexts:
            return dict.fromkeys(numbered, _Verdict(None, _NO_CONTEXT))
        unseen, simulator = [blinded(context) for context in contexts], self._simulator()
        passing: list[RequestFailed] = []  # a simulator does not raise for them

        async def rerank(request: Request) -> Answer:
            try:
                return await ask(replace(request, purpose="rerank"))
            except RequestFailed as failure:
                if failure.kind not in _LASTING:
                    passing.append(failure)
                raise

        tries = (simulator(label, unseen, maximum, rerank, vocabulary) for label in numbered.values())
        found = []
        for outcome in await asyncio.gather(*tries, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
            found.append(outcome)
        if passing:
            raise passing[0]
        return dict(zip(numbered, verdicts_of(contexts, found), strict=True))


def sampled(ask: Ask, number: int) -> Ask:
    """`ask` for the candidate of that number, from 0: the same questions, other samples."""

    async def ask_sample(request: Request) -> Answer:
        return await ask(replace(request, sample=request.sample + number * _SAMPLES_A_CANDIDATE))

    return ask_sample


def compared_contexts(evidence: FeatureEvidence) -> list[Context]:
    """Of the rerank split one context of each band, drawn at random where there is one and else a top one, and silent ones.

    Empty where the feature is active in none.
    """
    of_band: dict[int, list[Context]] = {}
    for kind in ("band", "top"):
        for context in evidence.of("rerank", (kind,)):
            of_band.setdefault(context.band, []).append(context)
    active = [context for band in sorted(of_band) for context in of_band[band][:_PER_BAND]]
    return [*active, *evidence.of("rerank", ("silent",))[:_SILENT]] if active else []


def verdicts_of(contexts: Sequence[Context], simulations: Sequence[Sequence[Simulated]]) -> list[_Verdict]:
    """Of each candidate's simulations of the contexts, in their order, r on those contexts that all candidates share.

    A candidate without any simulation is not compared. The weights: half for the silent contexts, half for the others.
    """
    have = [[one.expected is not None for one in simulated] for simulated in simulations]
    kept = np.all([row for row in have if any(row)], axis=0) if any(map(any, have)) else np.zeros(len(contexts), bool)
    shared = [index for index in range(len(contexts)) if kept[index]]
    verdicts = []
    for simulated, row in zip(simulations, have, strict=True):
        if not any(row):
            verdicts.append(_Verdict(None, f"no context could be simulated: {simulated[0].reason}"))
        elif not shared:
            verdicts.append(_Verdict(None, "no context could be simulated for all candidates"))
        else:
            r = _pooled_r([contexts[index] for index in shared], [simulated[index] for index in shared])
            verdicts.append(_Verdict(r.value, r.reason))
    return verdicts


def _pooled_r(contexts: Sequence[Context], simulated: Sequence[Simulated]) -> metrics.Metric:
    silent = [context.band == 0 for context in contexts]
    weights = [1 / silent.count(side) for side in silent]
    expected = [one.expected for one in simulated if one.expected is not None]
    return metrics.pearson(
        np.concatenate([context.activations for context in contexts]).astype(np.float64),
        np.concatenate(expected).astype(np.float64),
        np.repeat(weights, [len(context.tokens) for context in contexts]),
    )


def _of_splits(evidence: FeatureEvidence, splits: Sequence[Split]) -> FeatureEvidence:
    return replace(evidence, contexts=[context for context in evidence.contexts if context.split in splits])


def _candidate(number: int, label: Label | RequestFailed, verdict: _Verdict | None, best: int) -> Candidate:
    if isinstance(label, RequestFailed) or verdict is None:
        return Candidate(number, None, None, None, False, str(label))
    return Candidate(number, label.title, label.description, verdict.score, number == best, verdict.reason)


explainers.register("best_of_k")(BestOfK())
