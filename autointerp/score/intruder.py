"""The scorer `intruder`: in four of five texts the feature is active, in one it is silent; which one is it?

No explanation is shown: it says of the feature whether what it is active on can be seen at all, and not how good a label is. The
four are of one band of the feature's activations, so that weak ones are asked about, too. Nothing is marked, and all five are of
one length. Who guesses is right in one of five. Each question is a request of its own: from one about the same feature the next
could be answered.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from autointerp.catalog.records import Context, FeatureEvidence, Label
from autointerp.explain.marking import quoted
from autointerp.explain.parsing import parse_answer
from autointerp.hashing import hex_hash, stable_hash
from autointerp.llm.types import Answer, Ask, Request, RequestFailed
from autointerp.prompts_loader import fenced, render, template_hash
from autointerp.score import Grade, Judged, Means, ScoreRow, Settings, Wants, scorers
from autointerp.score.asked import all_asked, needed
from autointerp.score.cuts import LENGTH, Cut, cut_anywhere, long_enough
from autointerp.score.single import answered
from autointerp.score.weighted_rows import Array, Items, Resamples, mean, weighted_row
from autointerp.vocabulary import Vocabulary

TEXTS, QUESTIONS = 5, 4  # texts of a question; questions a band
NAME = "intruder"
SCHEMA = {
    "type": "object",
    "properties": {"shared": {"type": "string"}, "odd": {"type": "integer", "enum": list(range(1, TEXTS + 1))}},
    "required": ["shared", "odd"],
    "additionalProperties": False,
}


class _Odd(BaseModel):
    odd: Literal[1, 2, 3, 4, 5]


@dataclass(frozen=True, slots=True)
class Question:
    """Texts in the order in which they are shown; `odd`: which of them is the intruder, from 0."""

    cuts: Sequence[Cut]
    odd: int


@dataclass(frozen=True, slots=True)
class Intruder:
    """See the module."""

    directory: Path | None = None
    max_tokens: int = 8192
    resamples: int = 1000
    seed: int = 0
    wants: ClassVar[Wants] = Wants(model=True, capabilities=("json_schema",), label=False)
    simulator: ClassVar[str] = ""
    ranks: ClassVar[tuple[str, ...]] = ("accuracy", "accuracy_corrected")

    def configured(self, settings: Settings) -> Self:
        """The same scorer with a run's settings."""
        return replace(self, directory=settings.directory, resamples=settings.resamples, seed=settings.seed)

    @property
    def version(self) -> str:
        """Changes with everything that the verdicts and scores depend on, the model apart."""
        return hex_hash("2", QUESTIONS, self.max_tokens, template_hash(NAME, directory=self.directory))

    async def __call__(self, label: Label, evidence: FeatureEvidence, means: Means) -> Grade:
        """What was picked and what it comes to; the label is not looked at. Raises UserError where there is no model."""
        ask, asked = needed(means.ask, NAME), questions(evidence, self.seed)
        picked = await all_asked(self._picked(one, ask, means.vocabulary) for one in asked)
        judged = [
            _judged(cut.context, place == question.odd, outcome, place, number)
            for number, (question, outcome) in enumerate(zip(asked, picked, strict=True))
            for place, cut in enumerate(question.cuts)
        ]
        return Grade(score_intruder(evidence, judged, seed=self.seed, resamples=self.resamples), judged=judged)

    async def _picked(self, question: Question, ask: Ask, vocabulary: Vocabulary) -> int | RequestFailed:
        texts = (f"{number}|{quoted(vocabulary.join(cut.tokens))}" for number, cut in enumerate(question.cuts, start=1))
        prompt = render(NAME, directory=self.directory, texts=fenced("\n".join(texts)))
        request = Request(
            prompt.messages, self.max_tokens, json_schema=SCHEMA, schema_name=NAME, purpose=NAME,
            template_hash=prompt.template_hash,
        )  # fmt: skip

        def read(answer: Answer) -> int:
            return parse_answer(answer, _Odd).odd - 1

        return await answered(ask, request, read)


def questions(evidence: FeatureEvidence, seed: int = 0) -> list[Question]:
    """Four a band, as far as it has four contexts, and the intruders last: each is asked about once."""
    draw = random.Random(stable_hash(NAME, seed, evidence.feature_id))
    by_band: dict[int, list[Context]] = {}
    for context in evidence.of("test", ("band",)):
        by_band.setdefault(context.band, []).append(context)
    bands = [_whole(by_band[band]) for band in sorted(by_band) if len(by_band[band]) >= TEXTS - 1]
    silent = list(evidence.of("test", ("silent",)))
    found = []
    # In turn, so that all bands have as many questions where intruders are few.
    for contexts in (contexts for _ in range(QUESTIONS) for contexts in bands):
        if not silent:
            break
        odd, shown = draw.randrange(TEXTS), draw.sample(contexts, TEXTS - 1)
        intruder = long_enough(silent, min(LENGTH, *(len(context.tokens) for context in shown)))[0]
        silent.remove(intruder)
        found.append(_question([*shown[:odd], intruder, *shown[odd:]], odd, draw))
    return found


def _whole(contexts: list[Context]) -> list[Context]:
    """Those of which a cut of full length can be had, if they are enough for a question: else one short text cuts them all."""
    long = [context for context in contexts if len(context.tokens) >= LENGTH]
    return long if len(long) >= TEXTS - 1 else contexts


def _question(contexts: Sequence[Context], odd: int, draw: random.Random) -> Question:
    """All are cut to the length of the shortest: else the odd one could be the one of another length."""
    length = min(LENGTH, *(len(context.tokens) for context in contexts))
    return Question([cut_anywhere(context, draw, length) for context in contexts], odd)


def _judged(context: Context, truth: bool, outcome: int | RequestFailed, place: int, number: int) -> Judged:
    if isinstance(outcome, RequestFailed):
        return Judged(context.window_id, context.kind, truth, None, "failed", str(outcome), item=number)
    return Judged(context.window_id, context.kind, truth, outcome == place, "ok", item=number)


def score_intruder(
    evidence: FeatureEvidence, judged: Sequence[Judged], *, seed: int = 0, resamples: int = 1000
) -> list[ScoreRow]:
    """The share of intruders that were found: over all bands, which weigh alike, with what is left above chance; and of each."""
    bands = {context.window_id: context.band for context in evidence.of("test", ("band",))}
    by_question: dict[int | None, list[Judged]] = {}
    for one in judged:
        by_question.setdefault(one.item, []).append(one)
    band = np.array([next(bands[one.window_id] for one in some if not one.truth) for some in by_question.values()])
    right = np.array([_is_right(some) for some in by_question.values()])
    failure = next((one.reason for one in judged if one.status == "failed"), None)
    draws = Resamples(stable_hash(NAME, seed, evidence.feature_id), resamples)
    chance = 1 / TEXTS

    def rows(names: Sequence[tuple[str, float]], chosen: NDArray[np.bool_]) -> list[ScoreRow]:
        known = chosen & ~np.isnan(right)
        n_failed = int((chosen & ~known).sum())
        return [_row(name, guessed, right[known], band[known], n_failed, failure, draws) for name, guessed in names]

    whole = rows([("accuracy", 0.0), ("accuracy_corrected", chance)], np.ones(len(band), dtype=bool))
    count = whole[0].n_ok, whole[0].n_failed
    return [
        *whole, ScoreRow("chance", chance, None, None, *count, "ok", f"one of {TEXTS}"),
        *(row for number in np.unique(band) for row in rows([(f"accuracy_band_{number}", 0.0)], band == number)),
    ]  # fmt: skip


def _is_right(some: Sequence[Judged]) -> float:
    """1 or 0; NaN where the question failed."""
    if any(one.status == "failed" for one in some):
        return float("nan")
    return float(all(one.answer == one.truth for one in some))


def _row(
    name: str,
    chance: float,
    right: Array,
    band: NDArray[np.int64],
    n_failed: int,
    failure: str | None,
    draws: Resamples,
) -> ScoreRow:
    """The mean of `right` [q], bands alike, less chance and in parts of what is left above it."""
    _, at, size = np.unique(band, return_inverse=True, return_counts=True)
    items = Items(1 / (len(size) * size[at]), band, n_failed, failure, "questions")
    found = mean(right, np.ones(len(right), dtype=bool))
    undefined = f"no band has {TEXTS - 1} test contexts, and a silent one beside them"
    return weighted_row(name, lambda weights: (found(weights) - chance) / (1 - chance), items, undefined, draws)


scorers.register(NAME)(Intruder())
