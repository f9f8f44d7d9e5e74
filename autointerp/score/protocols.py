"""What the published simulation protocols share: windows of 64 tokens, the strongest and random ones, one pooled correlation.

Unlike our `simulation` they weigh nothing: every token of every window counts once, whatever it stands for. So a correlation is
high as soon as the few windows in which the feature is strongest are told from random ones, and values cannot be compared across
corpora or numbers of windows; see docs/scoring.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from autointerp.catalog.records import Context, FeatureEvidence, Label
from autointerp.hashing import hex_hash, stable_hash
from autointerp.score import (
    Grade,
    Means,
    ScoreRow,
    Settings,
    Simulated,
    Simulator,
    Wants,
    bootstrap,
    metrics,
    simulators,
)
from autointerp.score.bootstrap import Resampling
from autointerp.score.discretise import discretise, shown_maximum
from autointerp.score.metrics import Array
from autointerp.score.pool import blinded, mass_note

LENGTH = 64


@dataclass(frozen=True, slots=True)
class Cut:
    """A window, or `LENGTH` tokens of one that is longer, of which `start` is the first."""

    context: Context
    start: int


@dataclass(frozen=True, slots=True)
class Published:
    """One protocol: `top` windows, the strongest of the test split, and `random` ones, drawn uniformly.

    `absolute`: the correlation's magnitude is the score, because a line was fitted on the scored data.
    """

    name: str
    top: int
    random: int
    absolute: bool = False
    settings: Settings = field(default_factory=Settings)

    def configured(self, settings: Settings) -> Self:
        """The same scorer with a run's settings."""
        return replace(self, settings=settings)

    @property
    def wants(self) -> Wants:
        """More random windows than are used: those that are among the strongest, too, are left out."""
        by = self._by()
        return Wants(model=by.needs_model, capabilities=by.needs, random=self.top + self.random)

    @property
    def simulator(self) -> str:
        return self.settings.simulator

    @property
    def ranks(self) -> tuple[str, ...]:
        return self.metrics[:1]

    @property
    def version(self) -> str:
        """Changes with everything that the simulations depend on, the model apart."""
        return hex_hash("1", self.name, self.top, self.random, LENGTH, self.simulator, self._by().version)

    def _by(self) -> Simulator:
        return simulators.get(self.settings.simulator).configured(self.settings)

    async def __call__(self, label: Label, evidence: FeatureEvidence, means: Means) -> Grade:
        """The simulations and their correlation. Nothing is asked where the feature fires in none of the windows."""
        cuts = self.cuts(evidence)
        if not any(cut.context.peak > 0 for cut in cuts):
            return Grade([self._empty(name, len(cuts)) for name in self.metrics])
        maximum = shown_maximum([cut.context.activations for cut in cuts])
        contexts = [blinded(cut.context) for cut in cuts]
        simulated = await self._by()(label, contexts, maximum, means.ask, means.vocabulary)
        simulated = [replace(one, start=cut.start) for one, cut in zip(simulated, cuts, strict=True)]
        return Grade(self.rows(evidence.feature_id, cuts, simulated), simulated=simulated)

    @property
    def metrics(self) -> tuple[str, str]:
        """The names of its rows: the score, and what the discretised truth would get."""
        return ("abs_r" if self.absolute else "r", "quantisation_ceiling")

    def cuts(self, evidence: FeatureEvidence) -> list[Cut]:
        """The windows that are scored: the strongest so cut that they hold their peak, the others anywhere."""
        top = evidence.of("test", ("top",))[: self.top]
        taken = {context.window_id for context in top}
        others = [one for one in evidence.of("test", ("random",)) if one.window_id not in taken][: self.random]
        found = [Cut(one, _around_peak(one)) for one in top]
        found += [Cut(one, _anywhere(one, self.settings.seed, evidence.feature_id)) for one in others]
        return [Cut(_part(cut.context, cut.start), cut.start) for cut in found]

    def rows(self, feature: int, cuts: Sequence[Cut], simulated: Sequence[Simulated]) -> list[ScoreRow]:
        """The score and its ceiling, from the simulations of `cuts`, in their order. The ceiling's scale is that of the
        records shown: M is the maximum over the windows that are scored, as in Bills et al. 2023."""
        kept = [(cut.context, one) for cut, one in zip(cuts, simulated, strict=True) if one.expected is not None]
        failed = [one for one in simulated if one.expected is None]
        if not kept:
            reason = f"all {len(failed)} contexts failed, for instance: {failed[0].reason}"
            return [ScoreRow(name, None, None, None, 0, len(failed), "failed", reason) for name in self.metrics]
        maximum = shown_maximum([cut.context.activations for cut in cuts])
        truth = [context.activations.astype(np.float64) for context, _ in kept]
        expected = [_checked(context, one) for context, one in kept]
        ceiling = [discretise(values, maximum).astype(np.float64) for values in truth]
        strata = np.array([int(context.kind == "top") for context, _ in kept])
        draws = Resampling(strata, self.settings.resamples, stable_hash(self.name, self.settings.seed, feature))
        notes = [self._too_few(cuts), mass_note([one for _, one in kept])]
        return [
            self._row(name, truth, predicted, draws, len(failed), notes)
            for name, predicted in zip(self.metrics, (expected, ceiling), strict=True)
        ]

    def _row(
        self, name: str, truth: Sequence[Array], predicted: Sequence[Array], draws: Resampling, n_failed: int,
        notes: Sequence[str | None],
    ) -> ScoreRow:  # fmt: skip
        true, side = np.concatenate(truth), np.concatenate(predicted)
        point = metrics.pearson(true, side)
        if point.value is None:
            reason = "; ".join(note for note in (point.reason, *notes) if note)
            return ScoreRow(name, None, None, None, len(truth), n_failed, "undefined", reason)
        value = abs(point.value) if self.absolute else point.value
        sums = bootstrap.context_sums(metrics.moments(true, side), [len(one) for one in truth])
        if draws.singletons:
            interval = bootstrap.Interval(None, None, 0, "no interval: too few windows to tell how the score varies")
        else:
            interval = draws.interval(lambda found: self._signed(metrics.correlation(found)), sums, value)
        reason = "; ".join(note for note in (*notes, interval.reason) if note)
        return ScoreRow(name, value, interval.lo, interval.hi, len(truth), n_failed, "ok", reason or None)

    def _signed(self, values: Array) -> Array:
        return np.abs(values) if self.absolute else values

    def _too_few(self, cuts: Sequence[Cut]) -> str | None:
        top = sum(cut.context.kind == "top" for cut in cuts)
        missing = [
            f"{found} of {wanted} {kind} windows"
            for kind, found, wanted in (("top", top, self.top), ("random", len(cuts) - top, self.random))
            if found < wanted
        ]
        return f"{' and '.join(missing)}: no more were sampled in the test split" if missing else None

    def _empty(self, name: str, count: int) -> ScoreRow:
        reason = f"the feature fires in none of the {count} windows; nothing was simulated"
        return ScoreRow(name, None, None, None, 0, 0, "undefined", reason)


def _part(context: Context, start: int) -> Context:
    end = start + LENGTH
    return replace(context, tokens=context.tokens[start:end], activations=context.activations[start:end])


def _around_peak(context: Context) -> int:
    """The first token of a cut with the peak in its middle, as far as the window's ends allow."""
    middle = int(context.activations.argmax()) - LENGTH // 2
    return max(0, min(middle, len(context.tokens) - LENGTH))


def _anywhere(context: Context, seed: int, feature: int) -> int:
    """A first token by hash, each as likely as the others; 0 where nothing is to be cut off."""
    return stable_hash("cut", seed, feature, context.window_id) % max(1, len(context.tokens) - LENGTH + 1)


def _checked(context: Context, simulation: Simulated) -> Array:
    expected = simulation.expected
    if expected is None or simulation.window_id != context.window_id or expected.shape != context.activations.shape:
        raise ValueError(
            f"the simulation of window {simulation.window_id} is not of the tokens of window {context.window_id}"
        )
    return expected.astype(np.float64)
