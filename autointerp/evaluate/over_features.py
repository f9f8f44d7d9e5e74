"""Statistics over features: differences summed up and tested, ranks compared. Pure; scipy does the work."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autointerp.score.ranking import resampled

Array = NDArray[np.float64]
_RESAMPLES = 2000
_RANKED, _RANKINGS = 2000, 500  # features and resamples for rank correlations, each of which is a sort of them
_UNDEFINED = 0.025  # of the resamples; with more an end of the interval would be one of those


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval; None where undefined, and the ends alone where the features do not vary."""

    value: float | None
    lo: float | None = None
    hi: float | None = None


@dataclass(frozen=True, slots=True)
class Paired:
    """Differences first − second over `n` features. `positive`, `negative`: of so many; the others are 0.

    `sign_p`, `wilcoxon_p`: two-sided probabilities of no difference; None where no feature differs.
    """

    n: int
    mean: Estimate
    median: Estimate
    positive: int
    negative: int
    sign_p: float | None
    wilcoxon_p: float | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """Rank correlations of both sides' values over `n` features; tied ranks shared (Kendall's τ-b)."""

    n: int
    spearman: Estimate
    kendall: Estimate


@dataclass(frozen=True, slots=True)
class Unpaired:
    """Two groups of features that are not the same ones. `above`: P(first > second) + P(equal)/2; 0.5 says no difference."""

    n: tuple[int, int]
    median: tuple[float, float]
    difference: Estimate
    above: float
    mann_whitney_p: float


def paired(differences: Array, seed: int) -> Paired:
    """Sum up and test differences of n ≥ 1 features."""
    from scipy import stats

    positive, negative = int((differences > 0).sum()), int((differences < 0).sum())
    moved = positive + negative
    sign_p = float(stats.binomtest(positive, moved).pvalue) if moved else None
    wilcoxon_p = float(stats.wilcoxon(differences).pvalue) if moved else None
    of_mean, of_median = (_interval(of, differences, seed) for of in (np.mean, np.median))
    return Paired(len(differences), of_mean, of_median, positive, negative, sign_p, wilcoxon_p)


def agreement(first: Array, second: Array, seed: int) -> Agreement:
    """Spearman's and Kendall's correlations of n features; without a value where fewer than 3 or a side is constant, without an
    interval where a side is in too many resamples: those that are left would be another population's."""
    from scipy import stats

    n = len(first)
    if n < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return Agreement(n, Estimate(None), Estimate(None))
    rho, tau = float(stats.spearmanr(first, second).statistic), float(stats.kendalltau(first, second).statistic)
    draws = _rank_correlations(first, second, seed)
    if len(draws) < _RANKINGS * (1 - _UNDEFINED):
        return Agreement(n, Estimate(rho), Estimate(tau))
    lo, hi = _ends(np.array([rho, tau]), draws, n)
    return Agreement(n, Estimate(rho, float(lo[0]), float(hi[0])), Estimate(tau, float(lo[1]), float(hi[1])))


def _rank_correlations(first: Array, second: Array, seed: int) -> Array:
    """Of resamples of `_RANKED` features at most: [resamples, 2]. Those in which a side is constant are left out."""
    from scipy import stats

    generator, drawn = np.random.default_rng(seed), min(len(first), _RANKED)
    found = []
    for _ in range(_RANKINGS):
        rows = generator.integers(0, len(first), drawn)
        a, b = first[rows], second[rows]
        if np.ptp(a) and np.ptp(b):
            found.append((stats.spearmanr(a, b).statistic, stats.kendalltau(a, b).statistic))
    return np.array(found).reshape(-1, 2)


def _ends(values: Array, draws: Array, n: int) -> tuple[Array, Array]:
    """Of the 95 % intervals around `values` [k]: percentiles of resamples of m of n features (Bickel, Götze and van Zwet 1997).

    They stray √(n/m) times as far from the value as those of n would. Of 100,000 features it takes a second, not a minute."""
    lo, hi = np.quantile(draws, (0.025, 0.975), axis=0)
    scale = (min(n, _RANKED) / n) ** 0.5
    return values + scale * (lo - values), values + scale * (hi - values)


def unpaired(first: Array, second: Array, seed: int) -> Unpaired:
    """Compare two groups of features by their medians and ranks; each side is resampled by itself."""
    from scipy import stats

    test = stats.mannwhitneyu(first, second, alternative="two-sided")
    draws = [
        resampled(np.median, side, generator, _RESAMPLES)
        for side, generator in zip((first, second), np.random.default_rng(seed).spawn(2), strict=True)
    ]
    lo, hi = np.quantile(draws[0] - draws[1], (0.025, 0.975))
    medians = float(np.median(first)), float(np.median(second))
    above = float(test.statistic) / (len(first) * len(second))
    sizes = len(first), len(second)
    return Unpaired(sizes, medians, Estimate(medians[0] - medians[1], float(lo), float(hi)), above, float(test.pvalue))


def false_discoveries(p: Array) -> Array:
    """q-values by Benjamini and Hochberg (1995): of all with q ≤ 0.05 at most 5 % are expected to be no differences."""
    from scipy import stats

    return np.asarray(stats.false_discovery_control(p), dtype=np.float64) if len(p) else p


def _interval(of: Callable[..., Array], values: Array, seed: int) -> Estimate:
    """Percentiles of resampled features; no interval for fewer than 3."""
    value = float(of(values))
    if len(values) < 3:
        return Estimate(value)
    draws = resampled(of, values, np.random.default_rng(seed), _RESAMPLES)
    lo, hi = np.quantile(draws, (0.025, 0.975))
    return Estimate(value, float(lo), float(hi))
