"""The explainer `best_of_k`: several labels by another explainer, of which a cheap score on the rerank split chooses one.

Candidates are different samples of the same question, so the provider's own temperature makes them differ. Each is simulated on a
few contexts of the rerank split, which its author has not seen: the strongest claim of a label is what it says of other texts.
How they are compared is in `trial`. The test split is not touched; the grade in the catalog is that of every other label.
Whoever answers the explainer answers the simulator, too.

A candidate that could not be had because of what was answered (refused, malformed, cut off) is out of the choice. For a reason
that may pass the whole label fails and is tried again, since otherwise the choice would depend on the network.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autointerp.catalog.records import Candidate, FeatureEvidence, Label
from autointerp.errors import UserError
from autointerp.explain import explainers
from autointerp.explain.searching import SearchingExplainer
from autointerp.explain.trial import (
    LASTING,
    NO_CONTEXT,
    Verdict,
    best_of,
    compared_contexts,
    of_splits,
    sampled,
    simulations,
    verdicts_of,
)
from autointerp.hashing import hex_hash
from autointerp.llm.types import Ask, RequestFailed
from autointerp.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class BestOfK(SearchingExplainer):
    """See the module. It has no prompt of its own."""

    name = "best_of_k"

    @property
    def wants_negatives(self) -> bool:
        """Whether the inner explainer does."""
        return self._inner().wants_negatives

    @property
    def template_hash(self) -> str | None:
        """Of the candidates' prompt."""
        return self._inner().template_hash

    @property
    def version(self) -> str:
        """Changes with everything that the choice depends on, the model apart."""
        inner, by = self._inner().version, self._simulator_version()
        return hex_hash("1", self.search.inner, self.search.candidates, inner, self.search.simulator, by)

    async def __call__(self, evidence: FeatureEvidence, ask: Ask | None, vocabulary: Vocabulary) -> Label:
        """The label that was chosen, with all candidates in it.

        Raises RequestFailed where no candidate could be had, or one for a reason that may pass; UserError where `ask` is None.
        """
        if ask is None:
            raise UserError("the explainer best_of_k asks a model, and none is given; name one, or use lexicon")
        outcomes = await self._outcomes(evidence, ask, vocabulary)
        labels = {number: label for number, label in enumerate(outcomes, start=1) if isinstance(label, Label)}
        verdicts = await self._verdicts(list(labels.values()), evidence, ask, vocabulary)
        best = best_of(verdicts)
        remark = f"the first candidate, not chosen by score: {verdicts[0].reason}" if best is None else None
        chosen = list(labels)[best or 0]
        found = dict(zip(labels, verdicts, strict=True))
        candidates = [
            _candidate(number, outcome, found.get(number), chosen) for number, outcome in enumerate(outcomes, start=1)
        ]
        return replace(labels[chosen], candidates=candidates, remark=remark)

    async def _outcomes(
        self, evidence: FeatureEvidence, ask: Ask, vocabulary: Vocabulary
    ) -> list[Label | RequestFailed]:
        """Of each candidate its label, or the failure of its answer. Raises where there is no label at all."""
        inner, shown = self._inner(), of_splits(evidence, ("explain",))
        tries = (inner(shown, sampled(ask, number), vocabulary) for number in range(self.search.candidates))
        # All are asked before any is waited for; one that fails does not stop the others, which are paid for.
        found: list[Label | RequestFailed] = []
        for outcome in await asyncio.gather(*tries, return_exceptions=True):
            if isinstance(outcome, RequestFailed) and outcome.kind in LASTING:
                found.append(outcome)
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                found.append(outcome)
        if not any(isinstance(label, Label) for label in found):
            raise next(label for label in found if isinstance(label, RequestFailed))
        return found

    async def _verdicts(
        self, labels: Sequence[Label], evidence: FeatureEvidence, ask: Ask, vocabulary: Vocabulary
    ) -> list[Verdict]:
        """Of each label its score on the compared contexts. Raises for a failure that may pass."""
        contexts = compared_contexts(evidence)
        if not contexts:
            return [Verdict(None, NO_CONTEXT)] * len(labels)
        by, maximum = self._simulator(), evidence.max_activation
        return verdicts_of(
            contexts, await simulations(by, labels, contexts, maximum, ask, vocabulary, purpose="rerank")
        )


def _candidate(number: int, outcome: Label | RequestFailed, verdict: Verdict | None, chosen: int) -> Candidate:
    if isinstance(outcome, RequestFailed) or verdict is None:
        return Candidate(number, None, None, None, False, str(outcome))
    return Candidate(number, outcome.title, outcome.description, verdict.score, number == chosen, verdict.reason)


explainers.register("best_of_k")(BestOfK())
