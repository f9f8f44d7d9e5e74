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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from autointerp.catalog.records import Context, FeatureEvidence, Label
from autointerp.explain.exemplars import bands_in_turn, distinct
from autointerp.hashing import stable_hash
from autointerp.llm.types import RequestFailed
from autointerp.score import Grade, Judged, Means, ScoreRow, scorers
from autointerp.score.asked import all_asked
from autointerp.score.classifying import Classifying
from autointerp.score.pool import blinded, scored_contexts
from autointerp.score.questions import Question, Verdict, ask_about, verdict
from autointerp.score.verdicts import OF_BOTH, Verdicts, auroc_row, false_alarms, recall, row
from autointerp.score.weighted_rows import Resamples

NEGATIVES = ("silent", "near", "token")  # kinds of contexts in which the feature is silent; the first is the random one


QUESTION = Question("detection", "active", "detect", verdict)


@dataclass(frozen=True, slots=True)
class Detection(Classifying):
    """See the module."""

    question: ClassVar[Question[Verdict]] = QUESTION
    revision: ClassVar[str] = "2"

    async def __call__(self, label: Label, evidence: FeatureEvidence, means: Means) -> Grade:
        """The verdicts and what they come to. Raises UserError where there is no model, or it ends the run."""
        common, further = asked_windows(evidence)
        # Of other questions none is about these groups: where no control asks again, no cache is to be paid for.
        alone = replace(self.form, asked_again=means.controlled)
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


def _judged(context: Context, outcome: Verdict | RequestFailed) -> Judged:
    truth = context.peak > 0
    if isinstance(outcome, RequestFailed):
        return Judged(context.window_id, context.kind, truth, None, "failed", str(outcome))
    return Judged(context.window_id, context.kind, truth, outcome.yes, "ok", probability=outcome.probability)


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

    def of(*kinds: str, band: int | None = None) -> Verdicts:
        placed = [(one, bands[one.window_id, one.kind]) for one in judged if one.kind in kinds]
        found = Verdicts.of((one, at) for one, at in placed if band in (None, at))
        missing = sizes.keys() - set(found.strata.tolist()) if "band" in kinds and band is None else ()
        return replace(found, note=_missing({band: sizes[band] for band in missing}))

    draws = Resamples(stable_hash("detection", seed, evidence.feature_id), resamples)
    rows = [row("recall", recall, of("band"), draws)]
    for kind in NEGATIVES:
        if kind != NEGATIVES[0] and not any(one.kind == kind for one in judged):
            continue
        suffix, both = "" if kind == NEGATIVES[0] else f"_{kind}", of("band", kind)
        rows += [row(name + suffix, metric, both, draws) for name, metric in OF_BOTH]
        rows.append(row("false_alarms" + suffix, false_alarms, of(kind), draws))
        if both.has_probabilities or not suffix:
            rows.append(auroc_row("auroc" + suffix, both, draws))
    present = sorted({bands[one.window_id, one.kind] for one in judged if one.kind == "band"})
    return rows + [row(f"recall_band_{band}", recall, of("band", band=band), draws) for band in present]


def _missing(sizes: Mapping[int, int]) -> str | None:
    """That the other bands stand for those that should count and have no verdict; `sizes`: their windows."""
    missing = [f"{band} ({size} windows)" for band, size in sorted(sizes.items())]
    return f"without a verdict and left out: band {', '.join(missing)}" if missing else None


scorers.register("detection")(Detection())
