"""The scorer `sensitivity`: does the feature fire on new texts that are like those on which it fires?

A model sees contexts of the feature with its active tokens marked, and no label, and writes a text like each of them; the subject
model and the SAE read them. It is a measure of the feature itself: one that fires on a few tokens out of many alike is not
sensitive, however good a label describes what those tokens have in common (Tian, Tian and Hu 2025, "Measuring
Sparse Autoencoder Feature Sensitivity").
So it is the same for all labels, and asked for once a feature. Beside it stands how often the feature fires in any window.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from autointerp.catalog.records import Context, FeatureEvidence, Label
from autointerp.explain.exemplars import Exemplar, bands_in_turn, cut
from autointerp.explain.marking import listed, marked_text, marks_for_exemplars
from autointerp.hashing import hex_hash, stable_hash
from autointerp.llm.types import RequestFailed
from autointerp.prompts_loader import template_hash
from autointerp.score import Grade, Means, ScoreRow, Settings, Wants, Written, scorers
from autointerp.score.weighted_rows import Items, Resamples, mean, share, weighted_row
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

NAME = "sensitivity"
SCHEMA = texts_schema("texts")


class Texts(BaseModel):
    """A model's answer."""

    texts: list[str]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """See the module. `count`: contexts that are shown, and texts that are written; `window`: tokens of each that are shown."""

    wants: ClassVar[Wants] = Wants(model=True, capabilities=("json_schema",), bench=True, label=False)
    simulator: ClassVar[str] = ""
    ranks: ClassVar[tuple[str, ...]] = ("fires", "strength")

    count: int = 10
    window: int = 32
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
        return hex_hash("2", self.count, self.window, self.max_tokens, template_hash(NAME, directory=self.directory))

    async def __call__(self, label: Label, evidence: FeatureEvidence, means: Means) -> Grade:
        """The texts and what they come to; the label is not looked at. Raises UserError as `Generation` does."""
        shown = shown_contexts(evidence, self.count)
        written = await self._written(shown, evidence, means) if shown else []
        rows = score_sensitivity(
            evidence, [context.band for context in shown], written, seed=self.seed, resamples=self.resamples
        )
        return Grade(rows, written=written)

    async def _written(self, shown: Sequence[Context], evidence: FeatureEvidence, means: Means) -> list[Written]:
        cuts = self._cuts(shown, evidence.max_activation)
        marks = marks_for_exemplars(cuts, means.vocabulary)
        texts = [marked_text(exemplar, "marks", marks, means.vocabulary) for exemplar in cuts]
        data = f'{{"marks":{marks.json},{listed("texts", texts)}}}'
        plain = [means.vocabulary.join(exemplar.tokens) for exemplar in cuts]

        def wanted(answer: Texts) -> list[Wanted]:
            # No text that was shown holds the marks, so a model that writes them has taken over ours.
            bare = [text.replace(marks.opening, "").replace(marks.closing, "") for text in answer.texts]
            return looked_over(first(bare, len(shown), active=True), plain)

        request = texts_request(
            NAME, "sensitivity", SCHEMA, data, len(shown), max_tokens=self.max_tokens, directory=self.directory
        )  # fmt: skip
        try:
            answer = await record_of(request, Texts, means, NAME, lambda texts: count_faults(wanted(texts)))
        except RequestFailed as failure:
            return failed([True] * len(shown), failure)
        return await read_by_subject(evidence.feature_id, wanted(answer), means, NAME)

    def _cuts(self, shown: Sequence[Context], maximum: float) -> list[Exemplar]:
        cuts = [cut(context, maximum, self.window) for context in shown]
        # Of a weak context no level is above 0: its peak is marked, or nothing would be.
        return [one if one.levels.any() else replace(one, levels=_only(one.peak, len(one.tokens))) for one in cuts]


def _only(place: int, length: int) -> NDArray[np.int64]:
    levels = np.zeros(length, np.int64)
    levels[place] = 1
    return levels


def shown_contexts(evidence: FeatureEvidence, count: int) -> list[Context]:
    """Contexts of the test split, from all bands in turn."""
    return bands_in_turn(evidence.of("test", ("band",)))[:count]


def score_sensitivity(
    evidence: FeatureEvidence, bands: Sequence[int], written: Sequence[Written], *, seed: int = 0, resamples: int = 1000
) -> list[ScoreRow]:
    """`fires`: the share of the texts on which the feature fires; `strength`: their mean peak over the feature's maximum, 1 at
    most. Bands weigh alike, whatever the number of their texts. `base_rate`: the share of all windows in which it fires, exactly.
    """
    ok = [(one, band) for one, band in zip(written, bands, strict=True) if one.status == "ok"]
    left_out = [one for one in written if one.status == "failed"]
    strata = np.array([band for _, band in ok], dtype=np.int64)
    counts = {band: int((strata == band).sum()) for band in np.unique(strata).tolist()}
    weights = np.array([1 / (counts[band] * len(counts)) for band in strata.tolist()])
    items = Items(weights, strata, len(left_out), left_out[0].reason if left_out else None, "texts")
    peaks, all_of_them = peaks_of([one for one, _ in ok]), np.ones(len(ok), dtype=bool)
    scale = evidence.max_activation if evidence.max_activation > 0 else np.inf
    row = partial(
        weighted_row, items=items, undefined="there are no activating test contexts to write like",
        draws=Resamples(stable_hash(NAME, seed, evidence.feature_id), resamples),
    )  # fmt: skip
    return [
        row("fires", share(peaks > 0, all_of_them)),
        row("strength", mean(np.minimum(peaks / scale, 1.0), all_of_them)),
        _base_rate(evidence),
    ]


def _base_rate(evidence: FeatureEvidence) -> ScoreRow:
    windows = {band: count for (split, band), count in evidence.stratum_windows.items() if split == "test"}
    total = sum(windows.values())
    if not total:
        return ScoreRow("base_rate", None, None, None, 0, 0, "undefined", "the test split has no windows")
    return ScoreRow("base_rate", 1 - windows.get(0, 0) / total, None, None, total, 0, "ok", "of all windows: exact")


scorers.register(NAME)(Sensitivity())
