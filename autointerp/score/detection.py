"""The scorer `detection`: is the feature active in this text? Asked of a model that knows the label alone.

After Paulo et al. 2024, "Automatically Interpreting Millions of Features in Large Language Models". Ours differs: the contexts
are those that the simulation sees, of the test split and from all bands of the feature's activations, whole and not cut around
the peak; hard negatives, where `autointerp negatives` has found some, are judged as well and reported apart; and each verdict
names the text it is about, so that no verdict can slip to a neighbour and a text left out counts as failed, not as silent.

The contexts of the simulation are asked about in its very groups, which a provider's prompt cache then holds; hard negatives in
groups of their own. A group without an active text might be judged otherwise than the rest, by whoever expects some to be active:
so contexts that are judged already are mixed in, as many as there are active ones among the others, and their second verdicts
dropped.

Bands weigh alike, and so do the two classes: a label that says "always" scores a balanced accuracy of 0.5, whatever the counts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from autointerp.catalog.records import Context, FeatureEvidence, Label
from autointerp.explain.exemplars import bands_in_turn, distinct
from autointerp.hashing import hex_hash, stable_hash
from autointerp.llm.types import RequestFailed
from autointerp.score import Grade, Judged, Means, ScoreRow, Settings, Wants, bootstrap, scorers
from autointerp.score.pool import blinded, scored_contexts
from autointerp.score.questions import Form, MisalignedError, Question, all_asked, ask_about, quoted

NEGATIVES = ("silent", "near", "token")  # kinds of contexts in which the feature is silent; the first is the random one
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Detection:
    """See the module."""

    form: Form = field(default_factory=Form)
    resamples: int = 1000
    seed: int = 0
    wants: ClassVar[Wants] = Wants(model=True, capabilities=("json_schema",), negatives=True)
    simulator: ClassVar[str] = ""

    def configured(self, settings: Settings) -> Self:
        """The same scorer with a run's settings."""
        return replace(self, form=Form.of(settings), resamples=settings.resamples, seed=settings.seed)

    @property
    def version(self) -> str:
        """Changes with everything that the verdicts and scores depend on, the model apart."""
        return hex_hash("2", self.form.version(QUESTION.template))

    async def __call__(self, label: Label, evidence: FeatureEvidence, means: Means) -> Grade:
        """The verdicts and what they come to. Raises UserError where there is no model, or it ends the run."""
        common, further = asked_windows(evidence)
        alone = replace(self.form, asked_again=False)  # nobody else asks about these groups: no cache is to be paid for
        first, then = await all_asked(
            ask_about(QUESTION, form, label, [blinded(one) for one in windows], means.ask, means.vocabulary)
            for form, windows in ((self.form, common), (alone, further))
        )
        # Of the windows that are in both, the verdict among the first counts.
        outcomes = zip((*further, *common), (*then, *first), strict=True)
        verdicts = {context.window_id: outcome for context, outcome in outcomes}
        judged = [_judged(context, verdicts[context.window_id]) for context in judged_contexts(evidence)]
        return Grade(score_detection(evidence, judged, seed=self.seed, resamples=self.resamples), judged=judged)

    def regrade(self, evidence: FeatureEvidence, judged: Sequence[Judged]) -> list[ScoreRow]:
        """The metrics of other verdicts, for the controls."""
        return score_detection(evidence, judged, seed=self.seed, resamples=self.resamples)


def judged_contexts(evidence: FeatureEvidence) -> list[Context]:
    """The contexts that are judged: those that are simulated, and hard negatives. A window may be there for two reasons."""
    return [*scored_contexts(evidence), *evidence.of("test", NEGATIVES[1:])]


def asked_windows(evidence: FeatureEvidence) -> tuple[list[Context], list[Context]]:
    """Those that the simulation asks about, and hard negatives that are not among them, with active ones mixed in.

    Of the active ones so many that their share is that among the first, but not more than hard negatives, from all bands in turn.
    """
    common = scored_contexts(evidence)
    known = {context.window_id for context in common}
    hard = distinct(one for one in evidence.of("test", NEGATIVES[1:]) if one.window_id not in known)
    active = sorted(
        (one for one in common if one.peak > 0), key=lambda context: stable_hash("mixed in", context.window_id)
    )
    share = len(active) / max(1, len(common) - len(active))
    return common, [*hard, *bands_in_turn(active)[: round(len(hard) * min(1, share))]]


def verdict(tokens: Sequence[str], entries: Sequence[Any]) -> bool:
    """Whether the feature is active in a text, from what the answer says after its number. Raises MisalignedError."""
    if len(entries) != 1 or type(entries[0]) is not int or entries[0] not in (0, 1):
        raise MisalignedError(f"expected the text's number and 1 or 0, found {quoted(list(entries))} after the number")
    return bool(entries[0])


def _judged(context: Context, outcome: bool | RequestFailed) -> Judged:
    truth = context.peak > 0
    if isinstance(outcome, RequestFailed):
        return Judged(context.window_id, context.kind, truth, None, "failed", str(outcome))
    return Judged(context.window_id, context.kind, truth, outcome, "ok")


@dataclass(frozen=True, slots=True)
class _Verdicts:
    """Verdicts of some kinds: `said` bool [n], `truth` bool [n], `strata` int [n], and which failed.

    `missing`: windows of each band that should count and has no verdict.
    """

    said: NDArray[np.bool_]
    truth: NDArray[np.bool_]
    strata: NDArray[np.int64]
    failures: Sequence[Judged]
    missing: Mapping[int, int]

    @property
    def note(self) -> str | None:
        """What the other bands stand for."""
        missing = [f"{band} ({size} windows)" for band, size in sorted(self.missing.items())]
        return f"without a verdict and left out: band {', '.join(missing)}" if missing else None

    @property
    def weights(self) -> Array:
        """Of each verdict: 1 for each class, shared alike by its strata, and by the verdicts within one."""
        weights = np.zeros(len(self.said))
        for side in (True, False):
            present = np.unique(self.strata[self.truth == side])
            for stratum in present:
                members = (self.strata == stratum) & (self.truth == side)
                weights[members] = 1 / (len(present) * members.sum())
        return weights


# Of weighted sums [..., 4] over verdicts: true positives, false negatives, false positives, true negatives.
def _recall(sums: Array) -> Array:
    tp, fn, _, _ = np.moveaxis(sums, -1, 0)
    return _ratio(tp, tp + fn)


def _false_alarms(sums: Array) -> Array:
    _, _, fp, tn = np.moveaxis(sums, -1, 0)
    return _ratio(fp, fp + tn)


def _balanced_accuracy(sums: Array) -> Array:
    return (_recall(sums) + 1 - _false_alarms(sums)) / 2


def _precision(sums: Array) -> Array:
    tp, fn, fp, tn = np.moveaxis(sums, -1, 0)
    return np.where((tp + fn > 0) & (fp + tn > 0), _ratio(tp, tp + fp), np.nan)


def _f1(sums: Array) -> Array:
    tp, fn, fp, tn = np.moveaxis(sums, -1, 0)
    return np.where((tp + fn > 0) & (fp + tn > 0), _ratio(2 * tp, 2 * tp + fp + fn), np.nan)


def _ratio(part: Array, whole: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Array = np.where(whole > 0, part / whole, np.nan)
    return ratio


_Metric = Callable[[Array], Array]
_OF_BOTH: tuple[tuple[str, _Metric], ...] = (
    ("balanced_accuracy", _balanced_accuracy), ("precision", _precision), ("f1", _f1))  # fmt: skip
OF_CELLS: Mapping[str, _Metric] = {**dict(_OF_BOTH), "recall": _recall, "false_alarms": _false_alarms}


def score_detection(
    evidence: FeatureEvidence, judged: Sequence[Judged], *, seed: int = 0, resamples: int = 1000
) -> list[ScoreRow]:
    """The metrics of a feature's verdicts: against random silent windows, then against each kind of hard negatives that was
    judged (`…_near`, `…_token`), and the recall of each band.

    Raises ValueError for a verdict on a context that is not to be judged.
    """
    bands = {(context.window_id, context.kind): context.band for context in judged_contexts(evidence)}
    unknown = [one for one in judged if (one.window_id, one.kind) not in bands]
    if unknown:
        raise ValueError(
            f"window {unknown[0].window_id} ({unknown[0].kind}) is no context of feature {evidence.feature_id}"
        )

    sizes = {
        band: size for (split, band), size in evidence.stratum_windows.items() if split == "test" and size and band
    }

    def of(*kinds: str, band: int | None = None) -> _Verdicts:
        chosen = [one for one in judged if one.kind in kinds and band in (None, bands[one.window_id, one.kind])]
        ok = [one for one in chosen if one.answer is not None]
        wanted = sizes if "band" in kinds and band is None else {}
        judged_bands = {bands[one.window_id, one.kind] for one in ok}
        return _Verdicts(
            np.array([one.answer for one in ok], dtype=bool), np.array([one.truth for one in ok], dtype=bool),
            np.array([bands[one.window_id, one.kind] for one in ok], dtype=np.int64),
            [one for one in chosen if one.answer is None],
            {missing: size for missing, size in wanted.items() if missing not in judged_bands},
        )  # fmt: skip

    draw = stable_hash("detection", seed, evidence.feature_id)
    rows = [_row("recall", _recall, of("band"), draw, resamples)]
    for kind in NEGATIVES:
        if kind != NEGATIVES[0] and not any(one.kind == kind for one in judged):
            continue
        suffix = "" if kind == NEGATIVES[0] else f"_{kind}"
        rows += [_row(name + suffix, metric, of("band", kind), draw, resamples) for name, metric in _OF_BOTH]
        rows.append(_row("false_alarms" + suffix, _false_alarms, of(kind), draw, resamples))
    present = sorted({bands[one.window_id, one.kind] for one in judged if one.kind == "band"})
    return rows + [_row(f"recall_band_{band}", _recall, of("band", band=band), draw, resamples) for band in present]


def _row(name: str, metric: _Metric, verdicts: _Verdicts, seed: int, resamples: int) -> ScoreRow:
    n_ok, n_failed = len(verdicts.said), len(verdicts.failures)
    if not n_ok and n_failed:
        reason = f"all {n_failed} contexts failed, for instance: {verdicts.failures[0].reason}"
        return ScoreRow(name, None, None, None, 0, n_failed, "failed", reason)
    cells = [verdicts.truth & verdicts.said, verdicts.truth & ~verdicts.said,
             ~verdicts.truth & verdicts.said, ~verdicts.truth & ~verdicts.said]  # fmt: skip
    sums = np.stack(cells, axis=-1) * verdicts.weights[:, None]
    value = float(metric(sums.sum(axis=0)))
    if np.isnan(value):
        return ScoreRow(name, None, None, None, n_ok, n_failed, "undefined", _why(metric, verdicts))
    resampling = bootstrap.Resampling(verdicts.strata, resamples, seed)
    alone = set(resampling.singletons)
    sides = [set(verdicts.strata[verdicts.truth == side].tolist()) for side in (True, False)]
    if any(side and side <= alone for side in sides):
        interval = bootstrap.Interval(None, None, 0, "no interval: too few contexts to tell how the score varies")
    else:
        interval = resampling.interval(metric, sums, value)
    notes = [verdicts.note, interval.reason]
    if interval.lo is not None and interval.lo == interval.hi:
        notes.append("the verdicts do not vary within strata, so the interval has no width")
    return ScoreRow(name, value, interval.lo, interval.hi, n_ok, n_failed, "ok", "; ".join(filter(None, notes)) or None)


def _why(metric: _Metric, verdicts: _Verdicts) -> str:
    if metric is not _false_alarms and not verdicts.truth.any():
        return "no activating context was judged"
    if metric is not _recall and verdicts.truth.all():
        return "no silent context was judged"
    return "no context was judged active"


QUESTION = Question("detection", "active", "detect", verdict)
scorers.register("detection")(Detection())
