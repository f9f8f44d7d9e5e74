"""The scorer `specificity`: how well an explanation fits the tokens on which the feature is active, rated 0 to 3.

After Templeton et al. 2024, "Scaling Monosemanticity", whose rubric it is in our words. Texts of all bands of the feature's
activations are rated, so that one sees where a label begins to fit: many say what the strongest texts have in common, and nothing
of weaker ones. There is no right answer, and so no chance value; the shuffled control shows what a wrong label gets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from autointerp.catalog.records import Context, FeatureEvidence, Label
from autointerp.hashing import hex_hash, stable_hash
from autointerp.llm.types import RequestFailed
from autointerp.score import Grade, Judged, Means, ScoreRow, Settings, Wants, scorers
from autointerp.score.cuts import SHARE, Cut, cut_at
from autointerp.score.questions import Form, MisalignedError, Question, Text, ask_in_groups, in_groups, quoted
from autointerp.score.weighted_rows import Array, Items, Resamples, mean, weighted_row

LENGTH, BEFORE = 64, 48  # tokens of a text, and of those before its peak
BEST = 3
NOTHING = "there are no activating test contexts to rate"


@dataclass(frozen=True, slots=True)
class Specificity:
    """See the module."""

    form: Form = field(default_factory=lambda: Form(asked_again=False))
    resamples: int = 1000
    seed: int = 0
    wants: ClassVar[Wants] = Wants(model=True, capabilities=("json_schema",))
    simulator: ClassVar[str] = ""
    ranks: ClassVar[tuple[str, ...]] = ("rating_by_mass", "rating", "share_of_3")

    def configured(self, settings: Settings) -> Self:
        """The same scorer with a run's settings."""
        form = replace(Form.of(settings), asked_again=False)
        return replace(self, form=form, resamples=settings.resamples, seed=settings.seed)

    @property
    def version(self) -> str:
        """Changes with everything that the ratings and scores depend on, the model apart."""
        return hex_hash("1", self.form.version(QUESTION.template))

    async def __call__(self, label: Label, evidence: FeatureEvidence, means: Means) -> Grade:
        """The ratings and what they come to. Raises UserError where there is no model, or it ends the run."""
        contexts = evidence.of("test", ("band",))
        order = sorted(contexts, key=lambda context: stable_hash("mixed", self.seed, context.window_id))
        groups = in_groups([_cut(context) for context in order], self.form.texts_per_request)
        texts = [[Text([int(token) for token in cut.tokens], _places(cut)) for cut in group] for group in groups]
        form = replace(self.form, asked_again=means.controlled)  # no other question is about these cuts
        outcomes = await ask_in_groups(QUESTION, form, label, texts, means.ask, means.vocabulary)
        judged = [
            _judged(cut, outcome)
            for group, some in zip(groups, outcomes, strict=True)
            for cut, outcome in zip(group, some, strict=True)
        ]
        return Grade(score_specificity(evidence, judged, seed=self.seed, resamples=self.resamples), judged=judged)


def rating(tokens: Sequence[str], entries: Sequence[Any]) -> int:
    """What the answer says after a text's number. Raises MisalignedError."""
    if len(entries) != 1 or type(entries[0]) is not int or not 0 <= entries[0] <= BEST:
        raise MisalignedError(
            f"expected the text's number and 0 to {BEST}, found {quoted(list(entries))} after the number"
        )
    return entries[0]


def _cut(context: Context) -> Cut:
    return cut_at(context, int(context.activations.argmax()) - BEFORE, LENGTH)


def _places(cut: Cut) -> list[int]:
    found: list[int] = np.flatnonzero(cut.activations >= SHARE * cut.activations.max()).tolist()
    return found


def _judged(cut: Cut, outcome: int | RequestFailed) -> Judged:
    context, places = cut.context, cut.in_window(_places(cut))
    if isinstance(outcome, RequestFailed):
        return Judged(context.window_id, context.kind, True, None, "failed", str(outcome), marked=places)
    return Judged(context.window_id, context.kind, True, None, "ok", value=outcome, marked=places)


def score_specificity(
    evidence: FeatureEvidence, judged: Sequence[Judged], *, seed: int = 0, resamples: int = 1000
) -> list[ScoreRow]:
    """The mean rating weighted by firing mass and with bands alike, the share of 3s with bands alike, and the mean of each band.

    A context's firing mass is the sum of its activations times the windows that it stands for.
    """
    contexts = {context.window_id: context for context in evidence.of("test", ("band",))}
    ok = [one for one in judged if one.value is not None]
    failures = [one for one in judged if one.value is None]
    given = np.array([one.value for one in ok], dtype=np.float64)
    band = np.array([contexts[one.window_id].band for one in ok], dtype=np.int64)
    draws = Resamples(stable_hash("specificity", seed, evidence.feature_id), resamples)

    def row(name: str, values: Array, weights: Array, chosen: NDArray[np.bool_], failed: Sequence[Judged]) -> ScoreRow:
        items = Items(weights[chosen], band[chosen], len(failed), failed[0].reason if failed else None)
        return weighted_row(name, mean(values[chosen], chosen[chosen]), items, NOTHING, draws)

    numbers, at, size = np.unique(band, return_inverse=True, return_counts=True)
    alike, everything = 1.0 / size[at], np.ones(len(ok), dtype=bool)
    windows = np.array([evidence.stratum_windows[("test", int(number))] for number in numbers], dtype=np.float64)
    mass = np.array([float(contexts[one.window_id].activations.sum()) for one in ok]) * (windows / size)[at]
    return [
        row("rating_by_mass", given, mass, everything, failures),
        row("rating", given, alike, everything, failures),
        row("share_of_3", (given == BEST).astype(np.float64), alike, everything, failures),
        *(
            row(f"rating_band_{number}", given, alike, band == number, _of_band(failures, contexts, int(number)))
            for number in sorted({context.band for context in contexts.values()})
        ),
    ]


def _of_band(failures: Sequence[Judged], contexts: "dict[int, Context]", band: int) -> list[Judged]:
    return [one for one in failures if contexts[one.window_id].band == band]


QUESTION = Question("specificity", "fit", "specificity", rating, about_marks=True)
scorers.register("specificity")(Specificity())
