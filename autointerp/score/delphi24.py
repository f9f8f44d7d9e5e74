"""The published protocols `delphi24_detection` and `delphi24_fuzz`, as delphi 0.1.3 has them.

Paulo et al. 2024, "Automatically Interpreting Millions of Features in Large Language Models". Texts of 32 tokens, cut by a grid;
50 in which the feature is active and 50 in which it is not, as far as there are so many; shuffled, five a request. The answer is
a list of as many 0 and 1. For fuzzing, tokens from 0.3 of the text's own maximum on are marked, and in texts without activation
as many random ones as an activating text has active ones on the average. Every verdict counts once.

Not as published, since there it is a fault: their explanation's examples are among the test's; wrong marks stand at the same
places in all texts; a short last request never parses, and answers that do not parse vanish. See docs/scoring.md.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from autointerp.catalog.records import FeatureEvidence, Label
from autointerp.explain.exemplars import bands_in_turn
from autointerp.explain.marking import marked, marks_for, quoted
from autointerp.explain.parsing import parse_answer
from autointerp.hashing import hex_hash, stable_hash
from autointerp.llm.types import Answer, Ask, Request, RequestFailed
from autointerp.prompts_loader import fenced, render, template_hash
from autointerp.score import Grade, Judged, Means, ScoreRow, Settings, Wants, scorers
from autointerp.score.asked import all_asked, needed
from autointerp.score.cuts import LENGTH, SHARE, Cut, cut_at, long_enough
from autointerp.score.probabilities import ALTERNATIVES, list_places, yes_probabilities
from autointerp.score.questions import MisalignedError, Verdict
from autointerp.score.single import answered
from autointerp.score.verdicts import OF_BOTH, Verdicts, accuracy, auroc_row, false_alarms, recall, row
from autointerp.score.weighted_rows import Resamples
from autointerp.vocabulary import Vocabulary

SHOWN, MOST = 5, 50  # texts a request; of each class
SCHEMA = {
    "type": "object",
    "properties": {"answers": {"type": "array", "items": {"type": "integer", "enum": [0, 1]}}},
    "required": ["answers"],
    "additionalProperties": False,
}


class _Answers(BaseModel):
    answers: list[Literal[0, 1]]


@dataclass(frozen=True, slots=True)
class Example:
    """A text of 32 tokens with the places of its marks, if it has any."""

    cut: Cut
    active: bool
    places: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Delphi24:
    """Either protocol; see the module. `name`: what it is called, and its template."""

    name: str
    marks: bool
    directory: Path | None = None
    max_tokens: int = 8192
    logprobs: bool = False
    resamples: int = 1000
    seed: int = 0
    wants: ClassVar[Wants] = Wants(model=True, capabilities=("json_schema",))
    simulator: ClassVar[str] = ""
    ranks: ClassVar[tuple[str, ...]] = ("balanced_accuracy", "f1", "precision", "accuracy", "auroc")

    def configured(self, settings: Settings) -> Self:
        """The same scorer with a run's settings."""
        return replace(self, directory=settings.directory, logprobs=settings.logprobs, resamples=settings.resamples,
                       seed=settings.seed)  # fmt: skip

    @property
    def version(self) -> str:
        """Changes with everything that the verdicts and scores depend on, the model apart."""
        return hex_hash(
            "1", self.name, self.max_tokens, self.logprobs, template_hash(self.name, directory=self.directory)
        )

    async def __call__(self, label: Label, evidence: FeatureEvidence, means: Means) -> Grade:
        """The verdicts and what they come to. Raises UserError where there is no model, or it ends the run."""
        ask, shown = needed(means.ask, self.name), examples(evidence, self.marks, self.seed)
        batches = [shown[begin : begin + SHOWN] for begin in range(0, len(shown), SHOWN)]
        outcomes = await all_asked(self._asked(label, batch, ask, means.vocabulary) for batch in batches)
        judged = [
            _judged(example, outcome[place] if not isinstance(outcome, RequestFailed) else outcome, number)
            for number, (batch, outcome) in enumerate(zip(batches, outcomes, strict=True))
            for place, example in enumerate(batch)
        ]
        return Grade(score_delphi(evidence, judged, self.name, seed=self.seed, resamples=self.resamples), judged=judged)

    def regrade(self, evidence: FeatureEvidence, judged: Sequence[Judged]) -> list[ScoreRow]:
        """What other verdicts come to, by the metrics whose value for constant answers does not depend on the share of active
        texts."""
        rows = score_delphi(evidence, judged, self.name, seed=self.seed, resamples=self.resamples)
        return [row for row in rows if row.metric in ("balanced_accuracy", "recall", "false_alarms", "auroc")]

    async def _asked(
        self, label: Label, batch: Sequence[Example], ask: Ask, vocabulary: Vocabulary
    ) -> list[Verdict] | RequestFailed:
        marks = marks_for(vocabulary.join(example.cut.tokens) for example in batch)
        texts = [marked(one.cut.tokens, _chosen(one), marks, vocabulary) for one in batch]
        about = f',"marks":{marks.json}' if self.marks else ""
        prompt = render(
            self.name, directory=self.directory,
            texts=fenced("\n".join(f"Example {number}: {text}" for number, text in enumerate(texts))),
            question=fenced(f'{{"question":"{self.name}"{about},"explanation":{quoted(label.description)}}}'),
        )  # fmt: skip
        request = Request(
            prompt.messages, self.max_tokens, json_schema=SCHEMA, schema_name="answers", purpose=self.name,
            template_hash=prompt.template_hash, logprobs=ALTERNATIVES if self.logprobs else None,
        )  # fmt: skip

        def read(answer: Answer) -> list[Verdict]:
            said = parse_answer(answer, _Answers).answers
            if len(said) != len(batch):
                raise MisalignedError(f"{len(said)} answers for {len(batch)} examples")
            known = yes_probabilities(answer.text, list_places(answer.text), answer.logprobs)
            return [Verdict(bool(one), known.get(place)) for place, one in enumerate(said)]

        return await answered(ask, request, read)


def examples(evidence: FeatureEvidence, with_marks: bool, seed: int = 0) -> list[Example]:
    """Those to be asked about, in the order in which they are shown."""
    draw = random.Random(stable_hash("delphi24", seed, evidence.feature_id))
    cuts = [
        cut_at(context, _cell(context.activations))
        for context in bands_in_turn(long_enough(evidence.of("test", ("band",)), LENGTH))[:MOST]
    ]
    found = [Example(cut, True, _above(cut) if with_marks else ()) for cut in cuts]
    firing = sum(int((cut.activations > 0).sum()) for cut in cuts)
    count = ceil(firing / len(cuts)) if cuts and with_marks else 0
    for context in long_enough(evidence.of("test", ("silent",)), LENGTH)[:MOST]:
        cut = cut_at(context, LENGTH * draw.randrange(max(1, len(context.tokens) // LENGTH)))
        found.append(Example(cut, False, sorted(draw.sample(range(len(cut.tokens)), min(count, len(cut.tokens))))))
    draw.shuffle(found)
    return found


def _cell(activations: NDArray[np.float32]) -> int:
    """Where the piece of the grid begins that holds the peak."""
    return int(activations.argmax()) // LENGTH * LENGTH


def _above(cut: Cut) -> list[int]:
    found: list[int] = np.flatnonzero(cut.activations >= SHARE * cut.activations.max()).tolist()
    return found


def _chosen(example: Example) -> NDArray[np.bool_]:
    chosen = np.zeros(len(example.cut.tokens), dtype=bool)
    chosen[list(example.places)] = True
    return chosen


def _judged(example: Example, outcome: Verdict | RequestFailed, batch: int) -> Judged:
    context, places = example.cut.context, example.cut.in_window(example.places) or None
    if isinstance(outcome, RequestFailed):
        return Judged(
            context.window_id, context.kind, example.active, None, "failed", str(outcome), marked=places, item=batch
        )
    return Judged(context.window_id, context.kind, example.active, outcome.yes, "ok", probability=outcome.probability,
                  marked=places, item=batch)  # fmt: skip


def score_delphi(
    evidence: FeatureEvidence, judged: Sequence[Judged], name: str, *, seed: int = 0, resamples: int = 1000
) -> list[ScoreRow]:
    """The metrics as they report them (their "accuracy" is `balanced_accuracy`), and beside them what the best constant answer
    scores."""
    bands = {context.window_id: context.band for context in evidence.of("test", ("band",))}
    verdicts = Verdicts.of(((one, bands[one.window_id] if one.truth else 0) for one in judged), flat=True)
    draws = Resamples(stable_hash(name, seed, evidence.feature_id), resamples)
    of_all = [*OF_BOTH, ("recall", recall), ("false_alarms", false_alarms), ("accuracy", accuracy)]
    rows = [*(row(metric, by, verdicts, draws) for metric, by in of_all), auroc_row("auroc", verdicts, draws)]
    if not len(verdicts.said):
        return rows
    share = float(verdicts.truth.mean())
    chances = {"accuracy_chance": max(share, 1 - share), "f1_chance": 2 * share / (1 + share)}
    count = len(verdicts.said), len(verdicts.failures)
    return rows + [
        ScoreRow(metric, value, None, None, *count, "ok", "always the same answer") for metric, value in chances.items()
    ]


for _name, _marks in (("delphi24_detection", False), ("delphi24_fuzz", True)):
    scorers.register(_name)(Delphi24(_name, _marks))
