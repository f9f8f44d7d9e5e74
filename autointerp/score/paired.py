"""The difference between two labels of a feature, or two simulators of a label, on the same contexts. Pure; no model is asked.

Both sides are resampled together, so the luck of the draw cancels; see `simulation.difference_rows`, which this extends to all
metrics that are functions of sums, and to verdicts. The test of "no difference" is Student's t with the jackknife's error: the
smallest probability that a thousand resamples can tell, 0.002, is too large for thousands of features.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autointerp.catalog.records import FeatureEvidence
from autointerp.hashing import stable_hash
from autointerp.score import Judged, Simulated, metrics
from autointerp.score.bootstrap import Resampling, context_sums
from autointerp.score.discretise import LEVELS
from autointerp.score.jackknife import Error, standard_error
from autointerp.score.pool import Mode, Pool, context_weights, pooled

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric as sums per token and a function of them. `scaled`: the truth is on the simulators' scale."""

    mode: Mode
    per_token: Callable[[Array, Array], Array]
    of_sums: Callable[[Array], Array]
    scaled: bool = False


def _confusion(true: Array, predicted: Array) -> Array:
    return metrics.confusion(true > 0, predicted >= metrics.FIRES)


OF_SIMULATIONS: Mapping[str, Measure] = {
    "r_balanced": Measure("balanced", metrics.moments, metrics.correlation),
    "r_corpus": Measure("corpus", metrics.moments, metrics.correlation),
    "r2_uncentred": Measure("balanced", metrics.residuals, metrics.r2_of, scaled=True),
    "absdev_uncentred": Measure("balanced", metrics.residuals, metrics.absdev_of, scaled=True),
    "f1_corpus": Measure("corpus", _confusion, metrics.f1_of),
}


@dataclass(frozen=True, slots=True)
class Sums:
    """What a metric is a function of, by context: `sums` [C, K] weighted, `strata` [C]; `of_sums`: [..., K] to [...]."""

    sums: Array
    strata: NDArray[np.int64]
    of_sums: Callable[[Array], Array]

    @property
    def value(self) -> float:
        """NaN where undefined."""
        return float(self.of_sums(self.sums.sum(axis=0)))


@dataclass(frozen=True, slots=True)
class Difference:
    """first − second on `n` contexts, with the 95 % BCa interval and the probability of so much where there is none.

    None where undefined; `reason` says why.
    """

    value: float | None
    lo: float | None
    hi: float | None
    p: float | None
    n: int
    reason: str | None = None


def simulated_sums(evidence: FeatureEvidence, simulations: Sequence[Sequence[Simulated]], metric: str) -> Sums | str:
    """The sums of one or two simulations, side by side, over the contexts that all of them cover; or why there are none."""
    measure = OF_SIMULATIONS[metric]
    pool = pooled(evidence, *simulations)
    if not pool.lengths:
        return f"no context in common was simulated ({pool.n_failed} failed)"
    weights = context_weights(evidence, pool.strata, measure.mode)
    if weights.values is None:
        return str(weights.note)
    per_token = np.concatenate([measure.per_token(_truth(measure, pool, evidence), side) for side in pool.simulated], 1)
    sums = context_sums(per_token, pool.lengths) * weights.values[:, None]
    return Sums(sums, pool.strata, _difference_of(measure.of_sums) if len(pool.simulated) == 2 else measure.of_sums)


def _truth(measure: Measure, pool: Pool, evidence: FeatureEvidence) -> Array:
    if not measure.scaled:
        return pool.true
    return pool.true * LEVELS / evidence.max_activation if evidence.max_activation > 0 else np.zeros_like(pool.true)


def _difference_of(of_sums: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def difference(sums: Array) -> Array:
        half = sums.shape[-1] // 2
        return of_sums(sums[..., :half]) - of_sums(sums[..., half:])

    return difference


def judged_sums(
    judged: Sequence[Sequence[Judged]], bands: Mapping[tuple[int, str], int], of_cells: Callable[[Array], Array]
) -> Sums | str:
    """The same of verdicts: true and false positives and negatives of each side. Classes weigh alike, and so do their strata.

    Each of `judged` is of one side, in the same order, without failures; `bands`: of contexts by window and kind. Two verdicts on
    one window go together.
    """
    if not judged[0]:
        return "no context in common was judged"
    truth = np.array([one.truth for one in judged[0]], bool)
    strata = np.array([bands.get((one.window_id, one.kind), 0) for one in judged[0]], np.int64)
    cells = []
    for side in judged:
        said = np.array([one.answer for one in side], bool)
        cells += [truth & said, truth & ~said, ~truth & said, ~truth & ~said]
    by_class = strata * 2 + truth  # a stratum holds one class only, unless a scorer puts wrong marks on active windows
    sums = np.stack(cells, axis=-1) * _class_weights(truth, by_class)[:, None]
    windows = np.array([one.window_id for one in judged[0]], np.uint64)
    _, first, unit = np.unique(windows, return_index=True, return_inverse=True)
    together = np.zeros((len(first), sums.shape[1]))
    np.add.at(together, unit, sums)
    return Sums(together, strata[first], _difference_of(of_cells) if len(judged) == 2 else of_cells)


def _class_weights(truth: NDArray[np.bool_], strata: NDArray[np.int64]) -> Array:
    weights = np.zeros(len(truth))
    for side in (True, False):
        present, counts = np.unique(strata[truth == side], return_counts=True)
        for stratum, count in zip(present, counts, strict=True):
            weights[strata == stratum] = 1 / (len(present) * count)
    return weights


def difference(found: Sums | str, feature: int, *, seed: int = 0, resamples: int = 1000) -> Difference:
    """The difference with its interval, from the sums of both sides."""
    if isinstance(found, str):
        return Difference(None, None, None, None, 0, found)
    value, n = found.value, len(found.sums)
    if np.isnan(value):
        return Difference(None, None, None, None, n, "one side has no value on the contexts in common")
    draws = Resampling(found.strata, resamples, stable_hash("compare", seed, feature))
    error = standard_error(found.strata, found.of_sums(draws.leave_one_out(found.sums)))
    if error is None:
        return Difference(value, None, None, None, n, "no interval: too few contexts to tell how the difference varies")
    if _is_nothing(error.value) and not _is_nothing(value):
        return Difference(value, None, None, None, n, "no interval: the difference is the same without any one context")
    interval = draws.interval(found.of_sums, found.sums, value)
    return Difference(value, interval.lo, interval.hi, _probability(value, error), n, interval.reason)


def _is_nothing(value: float) -> bool:
    """Rounding, not a difference."""
    return abs(value) < 1e-9


def _probability(value: float, error: Error) -> float:
    """Of |t| at least so large, two-sided; 1 for sides that never differ."""
    from scipy import stats

    if _is_nothing(error.value):
        return 1.0
    return float(2 * stats.t.sf(abs(value) / error.value, error.freedom))
