"""What yes-or-no verdicts on contexts come to: balanced accuracy, precision, recall, F1; AUROC where there are probabilities.

The classes weigh alike, whatever their counts, and within a class its strata do; published protocols that count every verdict
once are `flat`. What is resampled for intervals are windows: two verdicts on one go together. Pure.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from autointerp.score import Judged, ScoreRow, bootstrap, metrics

Array = NDArray[np.float64]
Metric = Callable[[Array], Array]
NO_WIDTH = "the verdicts do not vary within strata, so the interval has no width"
_ROUNDING = 1e-9
NO_PROBABILITIES = (
    "no probabilities of the verdicts: they were not asked for (score.logprobs), or the answer came without them"
)


@dataclass(frozen=True, slots=True)
class Resamples:
    """How intervals are drawn. `seed` is the feature's own."""

    seed: int
    count: int = 1000


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
        weights = np.ones(len(self.said)) if self.flat else np.zeros(len(self.said))
        for side in () if self.flat else (True, False):
            present = np.unique(self.strata[self.truth == side])
            for stratum in present:
                members = (self.strata == stratum) & (self.truth == side)
                weights[members] = 1 / (len(present) * members.sum())
        return weights


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


OF_BOTH: tuple[tuple[str, Metric], ...] = (
    ("balanced_accuracy", balanced_accuracy),
    ("precision", precision),
    ("f1", f1),
)


OF_CELLS: Mapping[str, Metric] = {**dict(OF_BOTH), "recall": recall, "false_alarms": false_alarms}


def row(name: str, metric: Metric, verdicts: Verdicts, draws: Resamples) -> ScoreRow:
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


def _row(name: str, metric: Metric, verdicts: Verdicts, sums: Array, draws: Resamples) -> ScoreRow:
    n_ok, n_failed = len(verdicts.said), len(verdicts.failures)
    if not n_ok and n_failed:
        return failed_row(name, n_failed, verdicts.failures[0].reason)
    value = float(metric(sums.sum(axis=0)))
    if np.isnan(value):
        return ScoreRow(name, None, None, None, n_ok, n_failed, "undefined", _why(metric, verdicts))
    _, first, unit = np.unique(verdicts.windows, return_index=True, return_inverse=True)
    together = np.zeros((len(first), sums.shape[1]))
    np.add.at(together, unit, sums)
    interval = interval_of(metric, verdicts.strata[first], together, value, draws, _sides(verdicts))
    remark = "; ".join(filter(None, (verdicts.note, interval.reason))) or None
    return ScoreRow(name, value, interval.lo, interval.hi, n_ok, n_failed, "ok", remark)


def failed_row(name: str, n_failed: int, reason: str | None, things: str = "contexts") -> ScoreRow:
    """Where nothing was answered."""
    return ScoreRow(
        name, None, None, None, 0, n_failed, "failed", f"all {n_failed} {things} failed, for instance: {reason}"
    )


def interval_of(
    metric: Metric, strata: NDArray[np.int64], sums: Array, value: float, draws: Resamples,
    sides: Sequence[set[int]] = (),
) -> bootstrap.Interval:  # fmt: skip
    """The interval of `metric` around `value`, with what there is to remark; none where all strata of a side hold one item each.

    `sides`: strata by class; without, all are one side.
    """
    resampling = bootstrap.Resampling(strata, draws.count, draws.seed)
    alone = set(resampling.singletons)
    if any(side and side <= alone for side in sides or (set(strata.tolist()),)):
        return bootstrap.Interval(None, None, 0, "no interval: too few contexts to tell how the score varies")
    interval = resampling.interval(metric, sums, value)
    notes = [interval.reason]
    if interval.lo is not None and interval.hi is not None and interval.hi - interval.lo < _ROUNDING:
        notes.append(NO_WIDTH)
    return bootstrap.Interval(
        interval.lo, interval.hi, interval.undefined, "; ".join(note for note in notes if note) or None
    )


def _sides(verdicts: Verdicts) -> list[set[int]]:
    return [set(verdicts.strata[verdicts.truth == side].tolist()) for side in (True, False)]


def _why(metric: Metric, verdicts: Verdicts) -> str:
    if metric is not false_alarms and not verdicts.truth.any():
        return "no activating context was judged"
    if metric is not recall and verdicts.truth.all():
        return "no silent context was judged"
    return "no context was judged active"
