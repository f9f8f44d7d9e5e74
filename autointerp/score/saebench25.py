"""The published protocol `saebench25`: in which of 14 short texts is the feature active? Accuracy.

Karvonen et al. 2025, "SAEBench", its automated interpretability. Texts of 21 tokens, ten on either side of a place, shuffled into
one request: 2 around peaks of the strongest windows, 2 around tokens that are drawn in proportion to their activation among the
weaker ones, and 10 around tokens drawn anywhere, which count as silent whatever the feature does in them. Whoever answers "none"
is right in 10 of 14; beside the accuracy stands what is left above that.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Self

import numpy as np
from pydantic import BaseModel, Field

from autointerp.catalog.records import Context, FeatureEvidence, Label
from autointerp.explain.marking import quoted
from autointerp.explain.parsing import parse_answer
from autointerp.hashing import hex_hash, stable_hash
from autointerp.llm.types import Answer, Request, RequestFailed
from autointerp.prompts_loader import fenced, render, template_hash
from autointerp.score import Grade, Judged, Means, ScoreRow, Settings, Wants, scorers
from autointerp.score.asked import needed
from autointerp.score.cuts import Cut, cut_at, long_enough
from autointerp.score.single import answered
from autointerp.score.verdicts import Verdicts, accuracy, balanced_accuracy, false_alarms, recall, row
from autointerp.score.weighted_rows import OfSums, Resamples
from autointerp.vocabulary import Vocabulary

NAME = "saebench25"
TOP, WEIGHTED, RANDOM = 2, 2, 10
AMONG, BESIDE = 12, 10  # strongest windows that two are drawn of; tokens on either side
LENGTH = 2 * BESIDE + 1
SHOWN = TOP + WEIGHTED + RANDOM
SCHEMA = {
    "type": "object",
    "properties": {"active": {"type": "array", "items": {"type": "integer", "enum": list(range(1, SHOWN + 1))}}},
    "required": ["active"],
    "additionalProperties": False,
}


class _Active(BaseModel):
    active: list[Annotated[int, Field(ge=1, le=SHOWN)]]


@dataclass(frozen=True, slots=True)
class Saebench25:
    """See the module."""

    directory: Path | None = None
    max_tokens: int = 8192
    resamples: int = 1000
    seed: int = 0
    # Some of the random windows may be short, or there for another reason.
    wants: ClassVar[Wants] = Wants(model=True, capabilities=("json_schema",), random=2 * RANDOM)
    simulator: ClassVar[str] = ""
    ranks: ClassVar[tuple[str, ...]] = ("balanced_accuracy", "accuracy", "accuracy_corrected")

    def configured(self, settings: Settings) -> Self:
        """The same scorer with a run's settings."""
        return replace(self, directory=settings.directory, resamples=settings.resamples, seed=settings.seed)

    @property
    def version(self) -> str:
        """Changes with everything that the verdicts and scores depend on, the model apart."""
        return hex_hash("2", self.max_tokens, template_hash(NAME, directory=self.directory))

    async def __call__(self, label: Label, evidence: FeatureEvidence, means: Means) -> Grade:
        """The verdicts and what they come to. Raises UserError where there is no model, or it ends the run."""
        ask, shown = needed(means.ask, NAME), windows(evidence, self.seed)
        judged: list[Judged] = []
        if len(shown) == SHOWN:
            draw = random.Random(stable_hash("example", self.seed, evidence.feature_id))
            example = sorted(draw.sample(range(1, SHOWN + 1), TOP + WEIGHTED))
            request = self._request(label, shown, example, means.vocabulary)
            outcome = await answered(ask, request, lambda answer: set(_read(answer)))
            judged = [_judged(cut.context, outcome, number) for number, cut in enumerate(shown, start=1)]
        return Grade(score_saebench(evidence, judged, seed=self.seed, resamples=self.resamples), judged=judged)

    def regrade(self, evidence: FeatureEvidence, judged: Sequence[Judged]) -> list[ScoreRow]:
        """What other verdicts come to, by the metrics whose value for answers without knowledge does not depend on how many
        they call active."""
        rows = score_saebench(evidence, judged, seed=self.seed, resamples=self.resamples)
        return [row for row in rows if row.metric in ("balanced_accuracy", "recall", "false_alarms")]

    def _request(self, label: Label, shown: Sequence[Cut], example: list[int], vocabulary: Vocabulary) -> Request:
        lines = (f"{number}|{quoted(vocabulary.join(cut.tokens))}" for number, cut in enumerate(shown, start=1))
        prompt = render(
            NAME, directory=self.directory, texts=fenced("\n".join(lines)), count=SHOWN, example=example,
            question=fenced(f'{{"question":"{NAME}","explanation":{quoted(label.description)}}}'),
        )  # fmt: skip
        return Request(
            prompt.messages, self.max_tokens, json_schema=SCHEMA, schema_name=NAME, purpose=NAME,
            template_hash=prompt.template_hash,
        )  # fmt: skip


def _read(answer: Answer) -> Sequence[int]:
    return parse_answer(answer, _Active).active


def windows(evidence: FeatureEvidence, seed: int = 0) -> list[Cut]:
    """The 14 in the order in which they are shown; fewer, where there are not so many."""
    draw = random.Random(stable_hash(NAME, seed, evidence.feature_id))
    strongest = sorted(long_enough(evidence.of("test", ("top",)), LENGTH), key=lambda context: -context.peak)[:AMONG]
    top = draw.sample(strongest, min(TOP, len(strongest)))
    cuts = [_around(context, int(context.activations.argmax())) for context in top]
    below = min((context.peak for context in strongest), default=0.0)
    cuts += _weighted(evidence, below, {context.window_id for context in top}, draw)
    used = {cut.context.window_id for cut in cuts}
    # Where another scorer wants more of them, these are still the same.
    drawn = long_enough(evidence.of("test", ("random",))[: 2 * RANDOM], LENGTH)
    free = [context for context in drawn if context.window_id not in used][:RANDOM]
    cuts += [_around(context, draw.randrange(len(context.tokens))) for context in free]
    draw.shuffle(cuts)
    return cuts


def _around(context: Context, place: int) -> Cut:
    return cut_at(context, place - BESIDE, LENGTH)


def _weighted(evidence: FeatureEvidence, below: float, used: set[int], draw: random.Random) -> list[Cut]:
    """Tokens of band contexts, weaker than `below`, with a chance in proportion to their activation in the corpus.

    None of the windows `used`: no text is shown twice."""
    contexts = long_enough(evidence.of("test", ("band",)), LENGTH)
    counts = {context.band: sum(other.band == context.band for other in contexts) for context in contexts}
    masses = {}
    for context in contexts:
        weaker = np.where(context.activations < below, context.activations, 0.0).astype(np.float64)
        masses[context.window_id] = weaker * evidence.stratum_windows[("test", context.band)] / counts[context.band]
    left = {one.window_id: one for one in contexts if masses[one.window_id].sum() > 0 and one.window_id not in used}
    found: list[Cut] = []
    while left and len(found) < WEIGHTED:
        window = draw.choices(list(left), [float(masses[window].sum()) for window in left])[0]
        context = left.pop(window)
        found.append(_around(context, draw.choices(range(len(context.tokens)), masses[window].tolist())[0]))
    return found


def _judged(context: Context, outcome: set[int] | RequestFailed, number: int) -> Judged:
    truth = context.kind != "random"
    if isinstance(outcome, RequestFailed):
        return Judged(context.window_id, context.kind, truth, None, "failed", str(outcome))
    return Judged(context.window_id, context.kind, truth, number in outcome, "ok")


def score_saebench(
    evidence: FeatureEvidence, judged: Sequence[Judged], *, seed: int = 0, resamples: int = 1000
) -> list[ScoreRow]:
    """The accuracy, what is left of it above the answer "none", and that answer's own; ours beside it: balanced accuracy."""
    names = ("accuracy", "accuracy_corrected", "balanced_accuracy", "recall", "false_alarms")
    if not judged:
        reason = (
            f"there are no {SHOWN} windows: {TOP} strong, {WEIGHTED} weaker and {RANDOM} random ones of the test split"
        )
        return [ScoreRow(name, None, None, None, 0, 0, "undefined", reason) for name in names]
    strata = {"top": 1, "band": 2, "random": 0}
    verdicts = Verdicts.of(((one, strata[one.kind]) for one in judged), flat=True)
    draws = Resamples(stable_hash(NAME, seed, evidence.feature_id), resamples)
    none = 1 - sum(one.truth for one in judged) / len(judged)
    corrected: OfSums = lambda sums: (accuracy(sums) - none) / (1 - none)  # noqa: E731
    metrics = (accuracy, corrected, balanced_accuracy, recall, false_alarms)
    rows = [row(name, metric, verdicts, draws) for name, metric in zip(names, metrics, strict=True)]
    count = rows[0].n_ok, rows[0].n_failed
    return [*rows, ScoreRow("chance", none, None, None, *count, "ok", 'the answer "none"')]


scorers.register(NAME)(Saebench25())
