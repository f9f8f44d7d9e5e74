"""The scorer `fuzzing`: tokens of a text are marked, and the question is whether they are those on which the feature is active.

After Paulo et al. 2024, "Automatically Interpreting Millions of Features in Large Language Models". Right marks are on the tokens
from 0.3 of the text's own maximum on, so that weak activations are asked about, too. What ours changes is that nothing but the
explanation can tell right marks from wrong ones:
- Wrong marks are as many, in runs as long, as the right marks of some text. With other counts the count gives the class away.
- They are on silent tokens of a copy of the same text, so that it does not help to know what the texts are about. The two copies
  are never in one request, where they could be compared.
- The peak is at any place of a cut, not always at the same.
Marks on texts in which the feature is silent, which is what was published, and on hard negatives (over the neighbour's peak, or
the feature's own top token) are judged among them and reported apart.
"""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np

from autointerp.catalog.records import Context, FeatureEvidence, Label
from autointerp.hashing import stable_hash
from autointerp.llm.types import RequestFailed
from autointerp.score import Grade, Judged, Means, ScoreRow, scorers
from autointerp.score.classifying import Classifying
from autointerp.score.cuts import SHARE, Cut, cut_anywhere, long_enough, placed, runs_of
from autointerp.score.questions import Question, Text, Verdict, ask_in_groups, verdict
from autointerp.score.verdicts import OF_BOTH, Verdicts, auroc_row, false_alarms, recall, row
from autointerp.score.weighted_rows import Resamples

MOVED, KINDS = "moved", ("silent", "near", "token")
NO_TEXT = "there is no test context of a band: the feature is active in none"


@dataclass(frozen=True, slots=True)
class Marked:
    """A cut with marks at `places` of it, and whether they are right."""

    cut: Cut
    places: Sequence[int]
    right: bool


QUESTION = Question("fuzzing", "marks", "fuzz", verdict, about_marks=True)


@dataclass(frozen=True, slots=True)
class Fuzzing(Classifying):
    """See the module."""

    question: ClassVar[Question[Verdict]] = QUESTION
    revision: ClassVar[str] = "2"

    async def __call__(self, label: Label, evidence: FeatureEvidence, means: Means) -> Grade:
        """The verdicts and what they come to. Raises UserError where there is no model, or it ends the run."""
        groups = grouped(marked_cuts(evidence, self.seed), self.form.texts_per_request, self.seed)
        texts = [[Text([int(token) for token in one.cut.tokens], one.places) for one in group] for group in groups]
        # These cuts are in no other question; where no control asks again, no cache is to be paid for.
        form = replace(self.form, asked_again=means.controlled)
        outcomes = await ask_in_groups(QUESTION, form, label, texts, means.ask, means.vocabulary)
        judged = [
            _judged(one, outcome, number)
            for number, (group, some) in enumerate(zip(groups, outcomes, strict=True))
            for one, outcome in zip(group, some, strict=True)
        ]
        return Grade(self.regrade(evidence, judged), judged=judged)

    def regrade(self, evidence: FeatureEvidence, judged: Sequence[Judged]) -> list[ScoreRow]:
        """What verdicts on a feature's marks come to."""
        return score_fuzzing(evidence, judged, seed=self.seed, resamples=self.resamples)


def marked_cuts(evidence: FeatureEvidence, seed: int = 0) -> list[Marked]:
    """Right marks in the contexts of bands, and wrong ones: in a copy of each, in as many silent ones, and in hard negatives.

    A copy for which there is no room for the wrong marks is left out.
    """
    draw = random.Random(stable_hash("fuzzing", seed, evidence.feature_id))
    right = [_right(context, draw) for context in evidence.of("test", ("band",))]
    if not right:
        return []
    moved = (_wrong(one.cut, one, one.cut.activations <= 0, draw) for one in right)
    least = min(len(one.cut.tokens) for one in right)
    others = [
        *long_enough(evidence.of("test", KINDS[:1]), least)[: len(right)],
        *long_enough(evidence.of("test", KINDS[1:]), least),
    ]
    cuts = [cut_anywhere(context, draw) for context in others]
    patterns = (right[number % len(right)] for number in range(len(cuts)))
    free = (np.ones(len(cut.tokens), dtype=bool) for cut in cuts)
    wrong = (_wrong(cut, like, room, draw) for cut, like, room in zip(cuts, patterns, free, strict=True))
    return [*right, *(one for one in (*moved, *wrong) if one is not None)]


def _right(context: Context, draw: random.Random) -> Marked:
    cut = cut_anywhere(context, draw)  # it holds the peak
    return Marked(cut, np.flatnonzero(cut.activations >= SHARE * context.peak).tolist(), True)


def _wrong(
    cut: Cut, like: Marked, free: "np.ndarray[tuple[int], np.dtype[np.bool_]]", draw: random.Random
) -> Marked | None:
    places = placed(runs_of(like.places), free, draw, cut.place)
    return None if places is None else Marked(cut, places, False)


def grouped(cuts: Sequence[Marked], most: int, seed: int = 0) -> list[list[Marked]]:
    """About equal groups, of at most `most` where a window is there once or twice: no window is in one group twice."""
    if not cuts:
        return []
    copies = Counter(one.cut.context.window_id for one in cuts)
    groups: list[dict[int, Marked]] = [{} for _ in range(max(-(-len(cuts) // most), *copies.values()))]  # by window
    sides: list[Counter[bool]] = [Counter() for _ in groups]
    for one in cuts:
        window = one.cut.context.window_id
        free = (number for number, group in enumerate(groups) if window not in group)
        chosen = min(free, key=lambda number: (sides[number][one.right], len(groups[number])))
        groups[chosen][window] = one
        sides[chosen][one.right] += 1
    return [[group[window] for window in sorted(group, key=partial(stable_hash, "mixed", seed))] for group in groups]


def _judged(one: Marked, outcome: Verdict | RequestFailed, group: int) -> Judged:
    context, places = one.cut.context, one.cut.in_window(one.places)
    if isinstance(outcome, RequestFailed):
        return Judged(
            context.window_id, context.kind, one.right, None, "failed", str(outcome), marked=places, item=group
        )
    return Judged(context.window_id, context.kind, one.right, outcome.yes, "ok", probability=outcome.probability,
                  marked=places, item=group)  # fmt: skip


def score_fuzzing(
    evidence: FeatureEvidence, judged: Sequence[Judged], *, seed: int = 0, resamples: int = 1000
) -> list[ScoreRow]:
    """The metrics of a feature's verdicts: against marks moved within the same texts, then against marks on other texts
    (`…_silent`, `…_near`, `…_token`), and the recall of each band."""
    bands = {context.window_id: context.band for context in evidence.of("test", ("band",))}
    placed_at = [(one, bands[one.window_id] if one.kind == "band" else 0) for one in judged]
    right = [(one, at) for one, at in placed_at if one.truth]
    if not right:
        names = ("recall", "balanced_accuracy", "precision", "f1", "false_alarms", "auroc")
        return [ScoreRow(name, None, None, None, 0, 0, "undefined", NO_TEXT) for name in names]
    draws = Resamples(stable_hash("fuzzing", seed, evidence.feature_id), resamples)
    rows = [row("recall", recall, Verdicts.of(right), draws)]
    for kind in (MOVED, *KINDS):
        wrong = [
            (one, at) for one, at in placed_at if not one.truth and one.kind == ("band" if kind == MOVED else kind)
        ]
        if wrong or kind == MOVED:
            rows += _against(wrong, right, "" if kind == MOVED else f"_{kind}", draws)
    present = sorted({at for _, at in right})
    return rows + [row(f"recall_band_{band}", recall, _of_band(right, band), draws) for band in present]


def _against(
    wrong: Sequence[tuple[Judged, int]], right: Sequence[tuple[Judged, int]], suffix: str, draws: Resamples
) -> Iterable[ScoreRow]:
    both = Verdicts.of([*right, *wrong])
    yield from (row(name + suffix, metric, both, draws) for name, metric in OF_BOTH)
    yield row("false_alarms" + suffix, false_alarms, Verdicts.of(wrong), draws)
    if both.has_probabilities or not suffix:
        yield auroc_row("auroc" + suffix, both, draws)


def _of_band(right: Sequence[tuple[Judged, int]], band: int) -> Verdicts:
    return Verdicts.of((one, at) for one, at in right if at == band)


scorers.register("fuzzing")(Fuzzing())
