"""The scorer `generation`: does the feature fire on texts that a model wrote from the label alone?

The clarity of FADE (Puri et al. 2025) and the input-based score of Gur-Arieh et al. 2025: a model that sees the label, and
nothing else, writes texts in which the feature should be active and texts in which it should not; the subject model and the SAE
read them. A label that is too narrow is not punished here, since its author chooses the cases; one that is wrong or too wide is.

The silent texts are written to be near misses. That is harder than random texts, and says whether the label's boundary is right.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from pydantic import BaseModel

from autointerp.catalog.records import FeatureEvidence, Label
from autointerp.explain.marking import quoted
from autointerp.hashing import hex_hash, stable_hash
from autointerp.llm.types import RequestFailed
from autointerp.prompts_loader import template_hash
from autointerp.score import Grade, Means, ScoreRow, Settings, Wants, Written, metrics, scorers
from autointerp.score.weighted_rows import Array, Items, OfWeights, Resamples, mean, share, weighted_row
from autointerp.score.written import (
    Wanted,
    count_faults,
    failed,
    first,
    looked_over,
    peaks_of,
    read_by_subject,
    record_of,
    texts_request,
    texts_schema,
)  # fmt: skip

NAME = "generation"
SCHEMA = texts_schema("active", "silent")


class Texts(BaseModel):
    """A model's answer."""

    active: list[str]
    silent: list[str]


@dataclass(frozen=True, slots=True)
class Generation:
    """See the module. `count`: texts of either kind."""

    wants: ClassVar[Wants] = Wants(model=True, capabilities=("json_schema",), bench=True)
    simulator: ClassVar[str] = ""
    ranks: ClassVar[tuple[str, ...]] = ("auroc", "fires", "strength")

    count: int = 10
    max_tokens: int = 4096
    directory: Path | None = None
    resamples: int = 1000
    seed: int = 0

    def configured(self, settings: Settings) -> Self:
        """The same scorer with a run's settings."""
        return replace(self, directory=settings.directory, resamples=settings.resamples, seed=settings.seed)

    @property
    def version(self) -> str:
        """Changes with everything that the texts and scores depend on, the models apart."""
        return hex_hash("2", self.count, self.max_tokens, template_hash(NAME, directory=self.directory))

    async def __call__(self, label: Label, evidence: FeatureEvidence, means: Means) -> Grade:
        """The texts and what they come to. Raises UserError where there is no model or no subject model."""
        data = f'{{"explanation":{quoted(label.description)}}}'
        request = texts_request(
            NAME, "generate", SCHEMA, data, self.count, max_tokens=self.max_tokens, directory=self.directory
        )  # fmt: skip
        try:
            answer = await record_of(request, Texts, means, NAME, lambda texts: count_faults(self._wanted(texts)))
        except RequestFailed as failure:
            written = failed([True] * self.count + [False] * self.count, failure)
        else:
            written = await read_by_subject(evidence.feature_id, self._wanted(answer), means, NAME)
        rows = score_generation(evidence, written, seed=self.seed, resamples=self.resamples)
        return Grade(rows, written=written)

    def _wanted(self, answer: Texts) -> list[Wanted]:
        active, silent = first(answer.active, self.count, active=True), first(answer.silent, self.count, active=False)
        return looked_over([*active, *silent])


def score_generation(
    evidence: FeatureEvidence, written: list[Written], *, seed: int = 0, resamples: int = 1000
) -> list[ScoreRow]:
    """`auroc` of the texts' peaks (wanted above unwanted ones; below 0.5: the wrong way); `fires`, `false_alarms`: shares of
    the wanted and the unwanted texts on which it fires at all, and `strength`: the mean peak of the wanted ones over the
    feature's maximum in the harvest, 1 at most.
    """
    both, active, silent = (
        [one for one in written if one.wanted in sides] for sides in ((True, False), (True,), (False,))
    )
    none, others = "no text that should be active could be read", "no text that should be silent could be read"
    draws = Resamples(stable_hash(NAME, seed, evidence.feature_id), resamples)
    scale = evidence.max_activation if evidence.max_activation > 0 else np.inf

    def row(name: str, metric: Callable[[Array], OfWeights], of: Sequence[Written], undefined: str) -> ScoreRow:
        ok, left_out = [one for one in of if one.status == "ok"], [one for one in of if one.status == "failed"]
        strata = np.array([one.wanted for one in ok], dtype=np.int64)
        items = Items(np.ones(len(ok)), strata, len(left_out), left_out[0].reason if left_out else None, "texts")
        return weighted_row(name, metric(peaks_of(ok)), items, undefined, draws, [[0], [1]])

    wanted = np.array([one.wanted for one in both if one.status == "ok"], dtype=bool)
    return [
        row("auroc", lambda peaks: partial(metrics.auroc, peaks, wanted), both, others if wanted.any() else none),
        row("fires", _fires, active, none),
        row("false_alarms", _fires, silent, others),
        row("strength", lambda peaks: mean(np.minimum(peaks / scale, 1.0), np.ones(len(peaks), bool)), active, none),
    ]


def _fires(peaks: Array) -> OfWeights:
    return share(peaks > 0, np.ones(len(peaks), bool))


scorers.register(NAME)(Generation())
