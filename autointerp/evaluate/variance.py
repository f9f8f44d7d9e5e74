"""Variance components of a balanced crossed study: which share of the scores' variance is due to the features. Pure numpy.

Scores y[f, c, e, s] of features f, by draws of contexts c, samples of the explanation e and simulators s. Draws and samples are a
feature's own (nested in it), simulators are the same for all. The model has these variances, all effects random:

    y = μ + feature + simulator + feature:simulator + contexts(feature) + explanation(feature) + contexts:explanation(feature)
        + contexts:simulator(feature) + explanation:simulator(feature) + rest

Estimated by the analysis of variance: mean squares are set equal to their expectations (Searle, Casella and McCulloch, 1992,
"Variance Components", chapter 4). In a balanced design this is unbiased and, where no estimate is negative, equal to REML.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from math import prod

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
FACTORS = "fces"

# Each source by the factors it varies with. Those of c and e vary with the feature, too, being nested in it.
SOURCES: Mapping[str, str] = {
    "feature": "f",
    "simulator": "s",
    "feature x simulator": "fs",
    "contexts": "fc",
    "explanation": "fe",
    "contexts x explanation": "fce",
    "contexts x simulator": "fcs",
    "explanation x simulator": "fes",
    "rest": "fces",
}
_PER_BATCH = 100


@dataclass(frozen=True, slots=True)
class Component:
    """A source's variance, and its share of all but the simulators' own: they move all features alike, and so no rank.

    `variance` is unbiased and may be negative; in shares that counts as 0. None for what the design cannot tell: a factor of
    one level, whose part is in what is left. Intervals: 95 %, features resampled.
    """

    variance: float | None
    share: float | None
    lo: float | None = None
    hi: float | None = None


@dataclass(frozen=True, slots=True)
class Reliability:
    """`components` by source. `icc`: the features' share for one cell; `icc_mean`: of the mean over all cells."""

    levels: tuple[int, int, int, int]
    components: Mapping[str, Component]
    icc: Component
    icc_mean: Component


def reliability(scores: Array, *, seed: int = 0, resamples: int = 2000) -> Reliability:
    """Of scores [F, C, E, S] without gaps, F ≥ 2. Raises ValueError otherwise."""
    if scores.ndim != 4 or len(scores) < 2 or not np.isfinite(scores).all():
        raise ValueError(f"scores of shape {scores.shape}: expected [F ≥ 2, C, E, S], all defined")
    levels = scores.shape[1:]
    one = components(scores[None])
    generator = np.random.default_rng(seed)
    drawn = []
    for begin in range(0, resamples, _PER_BATCH):
        rows = generator.integers(0, len(scores), (min(_PER_BATCH, resamples - begin), len(scores)))
        drawn.append(components(scores[rows]))
    many = {source: np.concatenate([part[source] for part in drawn]) for source in one}
    shares, of_draws = _shares(one), _shares(many)
    found = {
        source: _component(one[source], shares[source], of_draws[source])
        if source in shares
        else Component(float(one[source][0]) if source in one else None, None)
        for source in SOURCES
    }
    means = _shares(_of_mean(one, levels)), _shares(_of_mean(many, levels))
    icc_mean = _component(one["feature"], means[0]["feature"], means[1]["feature"])
    sizes = (len(scores), *levels)
    return Reliability(sizes, found, found["feature"], icc_mean)


def components(scores: Array) -> dict[str, Array]:
    """The estimates [B] of B data sets [B, F, C, E, S], of all sources that the design can tell."""
    levels = dict(zip(FACTORS, scores.shape[1:], strict=True))
    crossed = _sums_of_squares(scores)
    squares: dict[str, Array] = {}
    for source, factors in SOURCES.items():
        parts = _pooled(factors)
        freedom = sum(prod(levels[factor] - 1 for factor in part) for part in parts)
        if freedom > 0:
            squares[source] = np.sum([crossed[part] for part in parts], axis=0) / freedom
    found: dict[str, Array] = {}
    for source in sorted(squares, key=lambda one: -len(SOURCES[one])):
        # E(mean square) = Σ over the sources that contain this one: (levels of the factors they lack) · variance
        further = [other for other in found if set(SOURCES[other]) > set(SOURCES[source])]
        rest = sum((found[other] * _times(other, levels) for other in further), np.zeros(len(scores)))
        found[source] = (squares[source] - rest) / _times(source, levels)
    return {source: found[source] for source in SOURCES if source in found}


def _times(source: str, levels: Mapping[str, int]) -> int:
    return prod(size for factor, size in levels.items() if factor not in SOURCES[source])


def _pooled(factors: str) -> list[str]:
    """The effects of the fully crossed analysis that make up a nested one: contexts(feature) = c + f·c."""
    nested = set(factors) & set("ce")
    return [factors] if not nested else [factors.replace("f", ""), factors]


def _sums_of_squares(scores: Array) -> dict[str, Array]:
    """Of all effects of the fully crossed analysis: subset of factors → [B]."""
    axes = {factor: number for number, factor in enumerate(FACTORS, start=1)}
    subsets = ["".join(part) for size in range(len(FACTORS) + 1) for part in combinations(FACTORS, size)]
    means = {
        subset: scores.mean(axis=tuple(axes[factor] for factor in FACTORS if factor not in subset), keepdims=True)
        for subset in subsets
    }
    found = {}
    for subset in subsets[1:]:
        inner = [part for part in subsets if set(part) <= set(subset)]
        effect = sum(means[part] * (-1) ** (len(subset) - len(part)) for part in inner)
        repeats = prod(scores.shape[axes[factor]] for factor in FACTORS if factor not in subset)
        found[subset] = np.sum(np.square(effect), axis=(1, 2, 3, 4)) * repeats
    return found


def _shares(found: Mapping[str, Array]) -> dict[str, Array]:
    positive = {source: np.maximum(values, 0.0) for source, values in found.items() if source != "simulator"}
    total = np.sum(list(positive.values()), axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {source: np.where(total > 0, values / total, np.nan) for source, values in positive.items()}


def _of_mean(found: Mapping[str, Array], levels: tuple[int, ...]) -> dict[str, Array]:
    """The variances that are left in the mean over all cells of a feature."""
    sizes = {"f": 1} | dict(zip(FACTORS[1:], levels, strict=True))
    return {source: values / prod(sizes[factor] for factor in SOURCES[source]) for source, values in found.items()}


def _component(variance: Array, share: Array, drawn: Array) -> Component:
    if np.isnan(share[0]):
        return Component(float(variance[0]), None)
    lo, hi = np.nanquantile(drawn, (0.025, 0.975))
    return Component(float(variance[0]), float(share[0]), float(lo), float(hi))
