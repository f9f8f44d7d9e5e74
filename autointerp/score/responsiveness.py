"""The scorer `responsiveness`: texts are rated for what the label names, and the feature is compared with the ratings.

After FADE (Puri et al. 2025), which turns detection round: not "does the label foretell the feature?" but "does the feature
follow the concept that the label names?". A model rates natural texts 0 (the concept is not there), 1 (in part) or 2 (clearly
there). *Responsiveness*: how often the feature's maximum is larger on a text rated 2 than on one rated 0 (AUROC). *Purity*:
average precision of the maximum as a classifier of 2 against 0; low where the feature is also active on other things.

The texts are the contexts of the simulation, and the question has the same beginning, so the provider's cache holds them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np

from autointerp.catalog.records import Context, FeatureEvidence, Label
from autointerp.hashing import hex_hash, stable_hash
from autointerp.llm.types import RequestFailed
from autointerp.score import Grade, Judged, Means, ScoreRow, Settings, Wants, metrics, scorers
from autointerp.score.pool import MODES, blinded, context_weights, scored_contexts
from autointerp.score.questions import Form, MisalignedError, Question, ask_about, quoted
from autointerp.score.weighted_rows import Array, Items, Resamples, share, weighted_row

NAME = "responsiveness"
CLEAR = 2  # the rating of a text in which the concept is clearly there


@dataclass(frozen=True, slots=True)
class Responsiveness:
    """See the module."""

    wants: ClassVar[Wants] = Wants(model=True, capabilities=("json_schema",))
    simulator: ClassVar[str] = ""
    ranks: ClassVar[tuple[str, ...]] = (
        "responsiveness_corpus",
        "responsiveness_balanced",
        "purity_corpus",
        "purity_balanced",
    )

    form: Form = field(default_factory=Form)
    resamples: int = 1000
    seed: int = 0

    def configured(self, settings: Settings) -> Self:
        """The same scorer with a run's settings."""
        return replace(self, form=Form.of(settings), resamples=settings.resamples, seed=settings.seed)

    @property
    def version(self) -> str:
        """Changes with everything that the ratings and scores depend on, the model apart."""
        return hex_hash("2", self.form.version(QUESTION.template))

    async def __call__(self, label: Label, evidence: FeatureEvidence, means: Means) -> Grade:
        """The ratings and what they come to. Raises UserError where there is no model, or it ends the run."""
        contexts = scored_contexts(evidence)
        blind = [blinded(context) for context in contexts]
        outcomes = await ask_about(QUESTION, self.form, label, blind, means.ask, means.vocabulary)
        judged = [_judged(context, outcome) for context, outcome in zip(contexts, outcomes, strict=True)]
        return Grade(score_responsiveness(evidence, judged, seed=self.seed, resamples=self.resamples), judged=judged)


def rating(tokens: Sequence[str], entries: Sequence[Any]) -> int:
    """What the answer says after a text's number: 0, 1 or 2. Raises MisalignedError."""
    if len(entries) != 1 or type(entries[0]) is not int or not 0 <= entries[0] <= CLEAR:
        found = quoted(list(entries))
        raise MisalignedError(f"expected the text's number and 0, 1 or 2, found {found} after the number")
    return int(entries[0])


def _judged(context: Context, outcome: int | RequestFailed) -> Judged:
    truth = context.peak > 0
    if isinstance(outcome, RequestFailed):
        return Judged(context.window_id, context.kind, truth, None, "failed", str(outcome))
    return Judged(context.window_id, context.kind, truth, outcome == CLEAR, "ok", value=outcome)


def score_responsiveness(
    evidence: FeatureEvidence, judged: Sequence[Judged], *, seed: int = 0, resamples: int = 1000
) -> list[ScoreRow]:
    """`responsiveness` and `purity`, balanced and corpus weights; `named`, `doubtful`: the shares of all windows that are rated 2
    and 1. Those rated 1 count in neither of the first two: where they are many, these rest on few texts.
    """
    contexts = {context.window_id: context for context in scored_contexts(evidence)}
    ok = [one for one in judged if one.status == "ok"]
    failures = [one for one in judged if one.status == "failed"]
    strata = np.array([contexts[one.window_id].band for one in ok], dtype=np.int64)
    peaks = np.array([contexts[one.window_id].peak for one in ok], dtype=np.float64)
    rated = np.array([one.value for one in ok], dtype=np.float64)
    draws = Resamples(stable_hash(NAME, seed, evidence.feature_id), resamples)
    rows = []
    for mode in MODES:
        weights = context_weights(evidence, strata, mode)
        used = weights.values if weights.values is not None else np.zeros(len(ok))
        row = partial(
            weighted_row, items=Items(used, strata, len(failures), failures[0].reason if failures else None),
            undefined=weights.note if weights.values is None and weights.note else _why(rated), draws=draws,
        )  # fmt: skip
        rows += [
            row(f"responsiveness_{mode}", partial(_auroc, peaks, rated)),
            row(f"purity_{mode}", partial(_purity, peaks, rated)),
        ]
        if mode == "corpus":
            every = np.ones(len(ok), bool)
            rows += [row("named", share(rated == CLEAR, every)), row("doubtful", share(rated == 1, every))]
    return rows


def _auroc(peaks: Array, rated: Array, weights: Array) -> Array:
    return metrics.auroc(peaks, rated == CLEAR, weights * (rated != 1))


def _purity(peaks: Array, rated: Array, weights: Array) -> Array:
    used = weights * (rated != 1)
    some_are_not = (used * (rated == 0)).sum(axis=-1) > 0
    return np.where(some_are_not, metrics.auprc(peaks, rated == CLEAR, used), np.nan)


def _why(rated: Array) -> str:
    if not len(rated):
        return "there are no test contexts to rate"
    return "no text is rated 2" if not (rated == CLEAR).any() else "no text is rated 0"


QUESTION = Question(NAME, "rating", "rate", rating)
scorers.register(NAME)(Responsiveness())
