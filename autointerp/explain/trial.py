"""How labels are tried before one is chosen: simulated on contexts that their author has not seen, and compared by r.

The score is Pearson's r over the pooled tokens of the contexts that could be simulated for all labels that are compared, with
silent and activating contexts weighing 1:1. On so few contexts it is rough: it tells a wrong label from a right one, not two good
ones.

A context that could not be simulated because of what was answered (refused, malformed, cut off) is not compared. For a reason
that may pass everything fails and is tried again, since otherwise the choice would depend on the network.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from autointerp.catalog.records import Context, FeatureEvidence, Label, Split
from autointerp.explain.exemplars import distinct, hard_negatives
from autointerp.llm.types import Answer, Ask, FailureKind, Request, RequestFailed
from autointerp.score import Simulated, Simulator, metrics
from autointerp.score.pool import blinded
from autointerp.score.turns import Turns
from autointerp.vocabulary import Vocabulary

NO_CONTEXT = "the feature is active in no context of the rerank split"
LASTING = (FailureKind.REFUSED, FailureKind.MALFORMED, FailureKind.TRUNCATED, FailureKind.REJECTED)
_SILENT = 3
_SAMPLES_A_LABEL = 100  # no explainer repeats a question so often; ten labels stay below a retry's sample numbers

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A label's score, or why it has none."""

    score: float | None
    reason: str | None = None


def sampled(ask: Ask, number: int) -> Ask:
    """`ask` for the label of that number, from 0: other samples, whatever the questions."""

    async def ask_sample(request: Request) -> Answer:
        return await ask(replace(request, sample=request.sample + number * _SAMPLES_A_LABEL))

    return ask_sample


def of_splits(evidence: FeatureEvidence, splits: Sequence[Split]) -> FeatureEvidence:
    """The evidence with the contexts of those splits alone."""
    return replace(evidence, contexts=[context for context in evidence.contexts if context.split in splits])


def compared_contexts(evidence: FeatureEvidence, per_band: int = 1, hard: int = 0) -> list[Context]:
    """Of the rerank split `per_band` contexts of each band, drawn at random where there are such and else top ones; three
    random silent ones, and up to `hard` hard negatives. Empty where the feature is active in no context.
    """
    of_band: dict[int, list[Context]] = {}
    for context in distinct(evidence.of("rerank", ("band",)), evidence.of("rerank", ("top",))):
        of_band.setdefault(context.band, []).append(context)
    active = [context for band in sorted(of_band) for context in of_band[band][:per_band]]
    silent = distinct(evidence.of("rerank", ("silent",))[:_SILENT], hard_negatives(evidence, "rerank")[:hard])
    return [*active, *silent] if active else []


async def simulations(
    simulator: Simulator,
    labels: Sequence[Label],
    contexts: Sequence[Context],
    maximum: float,
    ask: Ask,
    vocabulary: Vocabulary,
    purpose: str,
) -> list[list[Simulated]]:
    """Of each label what the simulator predicts for the contexts, in their order; it does not see their activations.

    `purpose` goes into the journal. Raises a failure that may pass; what lasts is in the simulations.
    """
    unseen = [blinded(context) for context in contexts]
    passing: list[RequestFailed] = []  # a simulator does not raise for them

    async def simulate(request: Request) -> Answer:
        try:
            return await ask(replace(request, purpose=purpose))
        except RequestFailed as failure:
            if failure.kind not in LASTING:
                passing.append(failure)
            raise

    in_turn = Turns().of(simulate)  # all labels are asked about the same texts, which a provider's cache may then hold
    found = await all_of(simulator(label, unseen, maximum, in_turn, vocabulary) for label in labels)
    if passing:
        raise passing[0]
    return found


async def all_of(tries: Iterable[Awaitable[Value]]) -> list[Value]:
    """What all of them return. One that fails does not stop the others, which are paid for; then it is raised."""
    found: list[Value] = []
    for outcome in await asyncio.gather(*tries, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
        found.append(outcome)
    return found


def verdicts_of(contexts: Sequence[Context], simulations: Sequence[Sequence[Simulated]]) -> list[Verdict]:
    """Of each label's simulations of the contexts, in their order, r on those contexts that all labels share.

    A label without any simulation is not compared. The weights: half for the silent contexts, half for the others.
    """
    have = [[one.expected is not None for one in simulated] for simulated in simulations]
    kept = np.all([row for row in have if any(row)], axis=0) if any(map(any, have)) else np.zeros(len(contexts), bool)
    shared = [index for index in range(len(contexts)) if kept[index]]
    verdicts = []
    for simulated, row in zip(simulations, have, strict=True):
        if not any(row):
            verdicts.append(Verdict(None, f"no context could be simulated: {simulated[0].reason}"))
        elif not shared:
            verdicts.append(Verdict(None, "no context could be simulated for all candidates"))
        else:
            r = _pooled_r([contexts[index] for index in shared], [simulated[index] for index in shared])
            verdicts.append(Verdict(r.value, r.reason))
    return verdicts


def best_of(verdicts: Sequence[Verdict]) -> int | None:
    """Index of the best score, of equal ones the first; None where no score is defined."""
    scored = [(verdict.score, -index) for index, verdict in enumerate(verdicts) if verdict.score is not None]
    return -max(scored)[1] if scored else None


def _pooled_r(contexts: Sequence[Context], simulated: Sequence[Simulated]) -> metrics.Metric:
    silent = [context.band == 0 for context in contexts]
    weights = [1 / silent.count(side) for side in silent]
    expected = [one.expected for one in simulated if one.expected is not None]
    return metrics.pearson(
        np.concatenate([context.activations for context in contexts]).astype(np.float64),
        np.concatenate(expected).astype(np.float64),
        np.repeat(weights, [len(context.tokens) for context in contexts]),
    )
