"""Recovery: do the intervals hold the true score as often as they say, and is `r_corpus` unbiased?

Planted features and an oracle of known noise: it overlooks some windows, is inexact in strength, and raises false alarms
in others. Its answer for every window of the corpus is known, hence the score that infinitely many contexts would give.
Samples are then drawn and scored exactly as the catalog's are, again and again.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autointerp.evaluate.concepts import Corpus, Unit
from autointerp.evaluate.sanity import MAXIMUM, Planted, bands_of, evidence_of, planted
from autointerp.hashing import stable_hash
from autointerp.score import Simulated, metrics
from autointerp.score.discretise import LEVELS
from autointerp.score.simulation import score_simulation

Array = NDArray[np.float64]
SCORED = ("r_balanced", "r_corpus")


@dataclass(frozen=True, slots=True)
class Noise:
    """An oracle's faults.

    `overlooked`: share of the active windows in which nothing is predicted. `blur`: standard deviation of the strength, in
    levels. `alarms`: share of all windows with false alarms, at one to four words.
    """

    name: str
    overlooked: float
    blur: float
    alarms: float


NOISES = (Noise("careful", 0.1, 1.0, 0.1), Noise("middling", 0.3, 1.5, 0.2), Noise("careless", 0.6, 2.0, 0.3))


@dataclass(frozen=True, slots=True)
class Recovery:
    """Of one metric and design over all trials: how often the interval lay around the truth, or missed it on either side.

    `bias`: mean of value − truth, with its standard error. `without`: trials that had no interval; the shares are of the others.
    """

    metric: str
    noise: str
    per_band: int
    silent: int
    trials: int
    without: int
    covered: float
    too_high: float
    too_low: float
    width: float
    bias: float
    bias_error: float


def recovery(
    corpus: Corpus, found: Iterable[Unit], noise: Noise, *, trials: int, per_band: int, silent: int, seed: int
) -> list[Recovery]:
    """`trials` samples of each unit. Units without silent windows, of which nothing can be balanced, are left out."""
    outcomes: dict[str, list[tuple[float, float, float | None, float | None]]] = {name: [] for name in SCORED}
    for unit in found:
        one = planted(unit, corpus, seed)
        expected = noisy(one, noise)
        truths = population(one, expected)
        if truths is None:
            continue
        for trial in range(trials):
            for name, value, lo, hi in _scored(one, expected, trial, per_band, silent):
                outcomes[name].append((truths[name], value, lo, hi))
    return [_recovery(name, noise, per_band, silent, outcomes[name]) for name in SCORED]


def noisy(one: Planted, noise: Noise) -> Array:
    """What the oracle predicts for every word [W, T], on the scale of simulators."""
    generator = np.random.default_rng(stable_hash("noise", one.seed, noise.name, one.unit.name))
    shape = one.activations.shape
    level = one.activations * LEVELS / MAXIMUM + generator.normal(0, noise.blur, shape)
    noticed = generator.random((shape[0], 1)) >= noise.overlooked
    seen = noticed & one.unit.truth
    expected = np.where(seen, np.clip(level, 0, LEVELS), 0.0)
    alarmed = np.flatnonzero(generator.random(shape[0]) < noise.alarms)
    for row in alarmed:
        places = generator.integers(0, shape[1], generator.integers(1, 5))
        expected[row, places] = generator.uniform(2, LEVELS, len(places))
    return expected.astype(np.float32).astype(np.float64)


def population(one: Planted, expected: Array) -> dict[str, float] | None:
    """The scores over all windows; None where one of them is undefined."""
    strata = bands_of(one.activations)
    sizes = np.bincount(strata)
    if sizes[0] == 0 or len(sizes) < 2:
        return None
    present = int((sizes[1:] > 0).sum())
    share = np.where(np.arange(len(sizes)) == 0, 1.0, 1 / present) / np.maximum(sizes, 1)
    width = one.activations.shape[1]
    true, predicted = one.activations.ravel(), expected.ravel()
    found = {
        "r_balanced": metrics.pearson(true, predicted, np.repeat(share[strata], width)).value,
        "r_corpus": metrics.pearson(true, predicted).value,
    }
    defined = {name: value for name, value in found.items() if value is not None}
    return defined if len(defined) == len(found) else None


def _scored(
    one: Planted, expected: Array, trial: int, per_band: int, silent: int
) -> Iterator[tuple[str, float, float | None, float | None]]:
    evidence = evidence_of(one, per_band, silent, one.generator(f"recovery {trial} {per_band} {silent}"))
    simulated = [
        Simulated(context.window_id, expected[context.window_id].astype(np.float32), "ok")
        for context in evidence.contexts
    ]
    for row in score_simulation(evidence, simulated, seed=trial):
        if row.metric in SCORED:
            yield row.metric, np.nan if row.value is None else row.value, row.lo, row.hi


def _recovery(
    metric: str,
    noise: Noise,
    per_band: int,
    silent: int,
    outcomes: Sequence[tuple[float, float, float | None, float | None]],
) -> Recovery:
    truth, value, lo, hi = np.array(outcomes, dtype=np.float64).T
    has = ~np.isnan(lo)
    error = (value - truth)[~np.isnan(value)]
    return Recovery(
        metric, noise.name, per_band, silent, len(truth), int((~has).sum()),
        covered=float(((lo <= truth) & (truth <= hi))[has].mean()), too_high=float((truth < lo)[has].mean()),
        too_low=float((truth > hi)[has].mean()), width=float((hi - lo)[has].mean()),
        bias=float(error.mean()), bias_error=float(error.std(ddof=1) / np.sqrt(len(error))),
    )  # fmt: skip
