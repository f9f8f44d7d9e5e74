"""Metric sanity: does a score fall when a label misses a part of the truth, or claims something unrelated besides?

After NeuronEval (Oikarinen, Yan and Weng 2025): a metric is fit to rank labels by only if it falls in 90 % of the units in
both tests. Here each metric is tested with the contexts that it is computed from in practice, since a fault of a label that no
sampled context shows cannot lower any score: all windows, a uniform sample, the strongest and random ones (Bills et al. 2023),
and the stratified sample of the protocol `simulation`. A score that falls by less than a hundredth, or has no value, has not
fallen: in the noise of a real simulator nobody would see it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autointerp.catalog.records import Context, FeatureEvidence
from autointerp.evaluate.concepts import Corpus, Unit
from autointerp.hashing import stable_hash
from autointerp.score import Simulated, metrics
from autointerp.score.simulation import score_simulation

Array = NDArray[np.float64]
MAXIMUM = 10.0
_SAYS = 8.0  # what the oracle predicts where a label is active
_BANDS = 5
_WEAKEST = 0.2  # of the maximum: the true activations are uniform from there to 1
MARGIN = 0.01
FIT = 0.9


@dataclass(frozen=True, slots=True)
class Design:
    """Which windows a metric sees, and how it is called in the table."""

    name: str
    scores: Callable[["Planted"], Mapping[str, Sequence[float | None]]]


@dataclass(frozen=True, slots=True)
class Planted:
    """One unit, its true activations [W, T], and what the oracle predicts for the true, the missing and the extra label."""

    unit: Unit
    corpus: Corpus
    activations: Array
    predicted: Sequence[Array]
    seed: int

    def generator(self, what: str) -> np.random.Generator:
        return np.random.default_rng(stable_hash("sanity", self.seed, what, self.unit.name))


@dataclass(frozen=True, slots=True)
class Falls:
    """Of one metric and unit: whether it fell for each wrong label."""

    design: str
    metric: str
    family: str
    density: float
    missing: bool
    extra: bool


def planted(unit: Unit, corpus: Corpus, seed: int) -> Planted:
    """Activations uniform from a fifth of the maximum to the maximum wherever the unit is true; the oracle has no noise."""
    generator = np.random.default_rng(stable_hash("activations", seed, unit.name))
    levels = generator.uniform(_WEAKEST * MAXIMUM, MAXIMUM, unit.truth.shape)
    predicted = [np.where(mask, _SAYS, 0.0) for mask in (unit.truth, unit.missing, unit.extra)]
    return Planted(unit, corpus, np.where(unit.truth, levels, 0.0), predicted, seed)


def check(found: Iterable[Planted], designs: Sequence[Design]) -> list[Falls]:
    """What every metric of every design does on every unit."""
    return [
        _falls(one.unit, design.name, metric, values)
        for one in found
        for design in designs
        for metric, values in design.scores(one).items()
    ]


def _falls(unit: Unit, design: str, metric: str, values: Sequence[float | None]) -> Falls:
    true, *wrong = values
    fell = [true is not None and value is not None and value <= true - MARGIN for value in wrong]
    return Falls(design, metric, unit.family, unit.density, *fell)


def everything(one: Planted) -> dict[str, list[float | None]]:
    """Metrics over all tokens of all windows."""
    true = one.activations.ravel()
    return {name: [measure(true, side.ravel()) for side in one.predicted] for name, measure in _MEASURES.items()}


def uniform(one: Planted, windows: int = 50) -> dict[str, list[float | None]]:
    """The same over a uniform sample of the windows."""
    rows = one.generator("uniform").choice(len(one.activations), windows, replace=False)
    return _of_rows(one, rows)


def top_random(one: Planted, each: int = 5) -> dict[str, list[float | None]]:
    """The strongest windows and random ones in equal number: `bills23_top_random`."""
    top = np.argsort(-one.activations.max(axis=1), kind="stable")[:each]
    rows = one.generator("random").choice(len(one.activations), each, replace=False)
    return _of_rows(one, np.concatenate([top, rows]))


def _of_rows(one: Planted, rows: NDArray[np.integer]) -> dict[str, list[float | None]]:
    true = one.activations[rows].ravel()
    return {name: [measure(true, side[rows].ravel()) for side in one.predicted] for name, measure in _MEASURES.items()}


def stratified(one: Planted, per_band: int = 5, silent: int = 25) -> dict[str, list[float | None]]:
    """The metrics of the protocol `simulation` as the catalog has them, on its own kind of sample."""
    evidence = evidence_of(one, per_band, silent, one.generator(f"stratified {per_band} {silent}"))
    found: dict[str, list[float | None]] = {}
    for side in one.predicted:
        simulated = [
            Simulated(context.window_id, side[context.window_id].astype(np.float32), "ok")
            for context in evidence.contexts
        ]
        for row in score_simulation(evidence, simulated, resamples=100):
            found.setdefault(row.metric, []).append(row.value)
    return {name: found[name] for name in _OF_SIMULATION}


_OF_SIMULATION = ("r_balanced", "r_corpus", "r2_uncentred", "absdev_uncentred", "f1_corpus", "auprc_corpus")


def evidence_of(one: Planted, per_band: int, silent: int, generator: np.random.Generator) -> FeatureEvidence:
    """A stratified sample of the windows, drawn as the harvest draws: bands are quantiles of the peaks of active windows."""
    strata = bands_of(one.activations)
    chosen = [
        int(row)
        for band in range(_BANDS + 1)
        for row in _drawn(np.flatnonzero(strata == band), per_band if band else silent, generator)
    ]
    contexts = [
        Context(
            window_id=row, split="test", kind="band" if strata[row] else "silent", band=int(strata[row]),
            tokens=one.corpus.words[row], activations=one.activations[row].astype(np.float32),
        )
        for row in chosen
    ]  # fmt: skip
    sizes = {("test", band): int((strata == band).sum()) for band in range(_BANDS + 1)}
    return FeatureEvidence(0, MAXIMUM, one.unit.density, contexts, sizes)


def bands_of(activations: Array) -> NDArray[np.int64]:
    """0 for a silent window, else 1 (weakest) to 5 by the quantiles of the peaks: [W, T] to [W]."""
    peaks = activations.max(axis=1)
    active = np.flatnonzero(peaks > 0)
    strata = np.zeros(len(peaks), np.int64)
    strata[active[np.argsort(peaks[active], kind="stable")]] = 1 + np.arange(len(active)) * _BANDS // max(
        1, len(active)
    )
    return strata


def _drawn(rows: NDArray[np.intp], count: int, generator: np.random.Generator) -> NDArray[np.intp]:
    return generator.choice(rows, min(count, len(rows)), replace=False)


def _balanced_accuracy(true: Array, predicted: Array) -> float | None:
    """(TPR + TNR) / 2, tokens being the cases. For a prediction of two values it is the AUROC, too."""
    firing, said = true > 0, predicted >= metrics.FIRES
    if firing.all() or not firing.any():
        return None
    return float((said[firing].mean() + (~said[~firing]).mean()) / 2)


_MEASURES: Mapping[str, Callable[[Array, Array], float | None]] = {
    "r": lambda true, predicted: metrics.pearson(true, predicted).value,
    "r2_uncentred": lambda true, predicted: metrics.r2_uncentred(true, predicted).value,
    "f1": lambda true, predicted: metrics.f1(true, predicted).value,
    "auprc": lambda true, predicted: metrics.average_precision(true, predicted).value,
    "balanced accuracy": _balanced_accuracy,
}

DESIGNS = (
    Design("all windows", everything),
    Design("50 uniform windows", uniform),
    Design("5 strongest + 5 random (bills23)", top_random),
    Design("5 bands × 5 + 25 silent", stratified),
    Design("5 bands × 5 + 50 silent (default of models)", lambda one: stratified(one, 5, 50)),
    Design("5 bands × 5 + 75 silent", lambda one: stratified(one, 5, 75)),
    Design("5 bands × 5 + 100 silent (default)", lambda one: stratified(one, 5, 100)),
    Design("5 bands × 5 + 250 silent", lambda one: stratified(one, 5, 250)),
)
