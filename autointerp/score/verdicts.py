"""What yes-or-no verdicts on contexts come to: balanced accuracy, precision, recall, F1; AUROC where there are probabilities.

The classes weigh alike, whatever their counts, and within a class its strata do; published protocols that count every verdict
once are `flat`. What is resampled for intervals are windows: two verdicts on one go together. Pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from autointerp.score import Judged, ScoreRow, metrics
from autointerp.score.weighted_rows import Array, OfSums, Outcome, Resamples, row_of_sums

NO_PROBABILITIES = (
    "no probabilities of the verdicts: they were not asked for (score.logprobs), or the answer came without them"
)


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Verdicts of some kinds: `said` bool [n], `truth` bool [n], `strata` int [n], `windows` [n], `probability` of a yes [n],
    NaN where it is not known; and those that failed. `flat`: all weigh alike. Verdicts on one window have one stratum.
    `note`: what is to be remarked on every value."""

    said: NDArray[np.bool_]
    truth: NDArray[np.bool_]
    strata: NDArray[np.int64]
    windows: NDArray[np.uint64]
    probability: Array
    failures: Sequence[Judged]
    flat: bool = False
    note: str | None = None

    @classmethod
    def of(cls, judged: Iterable[tuple[Judged, int]], *, flat: bool = False) -> "Verdicts":
        """Of verdicts with their strata."""
        found = list(judged)
        ok = [(one, stratum) for one, stratum in found if one.answer is not None]
        return cls(
            np.array([one.answer for one, _ in ok], dtype=bool), np.array([one.truth for one, _ in ok], dtype=bool),
            np.array([stratum for _, stratum in ok], dtype=np.int64), np.array([one.window_id for one, _ in ok], dtype=np.uint64),
            np.array([np.nan if one.probability is None else one.probability for one, _ in ok], dtype=np.float64),
            [one for one, _ in found if one.answer is None], flat,
        )  # fmt: skip

    @property
    def has_probabilities(self) -> bool:
        """Whether any verdict has one."""
        return bool((~np.isnan(self.probability)).any())

    @property
    def weights(self) -> Array:
        """Of each verdict: 1 for each class, shared alike by its strata, and by the verdicts within one."""
        return np.ones(len(self.said)) if self.flat else metrics.class_weights(self.truth, self.strata)


# Of weighted sums [..., 4] over verdicts: true positives, false negatives, false positives, true negatives.
def recall(sums: Array) -> Array:
    """TP / (TP + FN)."""
    tp, fn, _, _ = np.moveaxis(sums, -1, 0)
    return _ratio(tp, tp + fn)


def false_alarms(sums: Array) -> Array:
    """FP / (FP + TN)."""
    _, _, fp, tn = np.moveaxis(sums, -1, 0)
    return _ratio(fp, fp + tn)


def balanced_accuracy(sums: Array) -> Array:
    """(TPR + TNR) / 2."""
    return (recall(sums) + 1 - false_alarms(sums)) / 2


def accuracy(sums: Array) -> Array:
    """(TP + TN) / all."""
    tp, fn, fp, tn = np.moveaxis(sums, -1, 0)
    return _ratio(tp + tn, tp + fn + fp + tn)


def precision(sums: Array) -> Array:
    """TP / (TP + FP); NaN unless both classes are there."""
    tp, fn, fp, tn = np.moveaxis(sums, -1, 0)
    return np.where((tp + fn > 0) & (fp + tn > 0), _ratio(tp, tp + fp), np.nan)


def f1(sums: Array) -> Array:
    """2TP / (2TP + FP + FN); NaN unless both classes are there."""
    tp, fn, fp, tn = np.moveaxis(sums, -1, 0)
    return np.where((tp + fn > 0) & (fp + tn > 0), _ratio(2 * tp, 2 * tp + fp + fn), np.nan)


def _ratio(part: Array, whole: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Array = np.where(whole > 0, part / whole, np.nan)
    return ratio


OF_BOTH: tuple[tuple[str, OfSums], ...] = (
    ("balanced_accuracy", balanced_accuracy),
    ("precision", precision),
    ("f1", f1),
)


OF_CELLS: Mapping[str, OfSums] = {**dict(OF_BOTH), "recall": recall, "false_alarms": false_alarms}


def row(name: str, metric: OfSums, verdicts: Verdicts, draws: Resamples) -> ScoreRow:
    """One metric of verdicts, with its interval."""
    truth, said = verdicts.truth, verdicts.said
    cells = np.stack([truth & said, truth & ~said, ~truth & said, ~truth & ~said], axis=-1)
    return _row(name, metric, verdicts, cells * verdicts.weights[:, None], draws)


def auroc_row(name: str, verdicts: Verdicts, draws: Resamples) -> ScoreRow:
    """How often the probability of a yes is higher where yes is right; undefined unless every verdict has one."""
    if len(verdicts.said) and np.isnan(verdicts.probability).any():
        known = int((~np.isnan(verdicts.probability)).sum())
        reason = f"{known} of {len(verdicts.said)} verdicts have a probability" if known else NO_PROBABILITIES
        return ScoreRow(name, None, None, None, len(verdicts.said), len(verdicts.failures), "undefined", reason)
    area = partial(metrics.auroc, verdicts.probability, verdicts.truth)
    return _row(name, area, verdicts, np.diag(verdicts.weights), draws)


def _row(name: str, metric: OfSums, verdicts: Verdicts, sums: Array, draws: Resamples) -> ScoreRow:
    failures = verdicts.failures
    outcome = Outcome(len(verdicts.said), len(failures), failures[0].reason if failures else None)
    _, first, unit = np.unique(verdicts.windows, return_index=True, return_inverse=True)
    together = np.zeros((len(first), sums.shape[1]))
    np.add.at(together, unit, sums)
    return row_of_sums(
        name, metric, together, verdicts.strata[first], outcome, _why(metric, verdicts), draws, _sides(verdicts), verdicts.note
    )  # fmt: skip


def _sides(verdicts: Verdicts) -> list[set[int]]:
    return [set(verdicts.strata[verdicts.truth == side].tolist()) for side in (True, False)]


def _why(metric: OfSums, verdicts: Verdicts) -> str:
    if metric is not false_alarms and not verdicts.truth.any():
        return "no activating context was judged"
    if metric is not recall and verdicts.truth.all():
        return "no silent context was judged"
    return "no context was judged active"
