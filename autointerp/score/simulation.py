"""The `simulation` protocol: how well activations simulated from a label alone agree with the true ones.

After Bills et al. 2023, "Language models can explain neurons in language models": the tokens of all scored contexts are
pooled and correlated once. The contexts are ours: uniform draws from bands of the feature's activating windows and from
its silent ones, of the test split. Two weightings of the same simulations (see `pool`) make two correlations:
`r_balanced`, in which silent and activating windows weigh 1:1, and `r_corpus`, an estimate of the correlation over the
whole corpus.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autointerp.catalog.records import FeatureEvidence
from autointerp.hashing import stable_hash
from autointerp.score import ScoreRow, Simulated, bootstrap, metrics
from autointerp.score.bootstrap import Resampling
from autointerp.score.calibration import NOT_ASKED_FOR, Line, NoLine
from autointerp.score.discretise import LEVELS, discretise
from autointerp.score.pool import MODES, Array, Mode, Pool, Weights, context_weights, pooled, scored_contexts

__all__ = [
    "METRICS",
    "SCORER",
    "ScoreRow",
    "difference_rows",
    "score_simulation",
    "scored_contexts",
    "shuffled_partner",
]

SCORER = "simulation"


@dataclass(frozen=True, slots=True)
class _Measure:
    """A metric as sums per token and a function of them; and the same on pooled vectors, which knows why it is undefined."""

    per_token: Callable[[Array, Array], Array]
    of_sums: Callable[[Array], Array]
    metric: Callable[[Array, Array, Array], metrics.Metric]

    def on(self, pool: Pool, true: Array, predicted: Array) -> "_Measured":
        """Its sums over each context."""
        return _Measured(self, true, predicted, bootstrap.context_sums(self.per_token(true, predicted), pool.lengths))


@dataclass(frozen=True, slots=True)
class _Measured:
    """A measure of two sides, with its sums over each context [C, K]: they serve both weightings."""

    measure: _Measure
    true: Array
    predicted: Array
    sums: Array


_PEARSON = _Measure(metrics.moments, metrics.correlation, metrics.pearson)
_R2 = _Measure(metrics.residuals, metrics.r2_of, metrics.r2_uncentred)
_ABSDEV = _Measure(metrics.residuals, metrics.absdev_of, metrics.absdev_uncentred)
_F1 = _Measure(lambda a, s: metrics.confusion(a > 0, s >= metrics.FIRES), metrics.f1_of, metrics.f1)

METRICS = (
    "r_balanced",
    "r_corpus",
    "quantisation_ceiling",
    "quantisation_ceiling_corpus",
    "r2_uncentred",
    "absdev_uncentred",
    "r2_calibrated",
    "absdev_calibrated",
    "auroc_balanced",
    "f1_corpus",
    "auprc_corpus",
    "ess_corpus",
)


def score_simulation(
    evidence: FeatureEvidence,
    simulated: Sequence[Simulated],
    *,
    seed: int = 0,
    resamples: int = 1000,
    calibration: Line | NoLine = NOT_ASKED_FOR,
) -> list[ScoreRow]:
    """One row for each of `METRICS`, from the simulations of the feature's scored contexts.

    `calibration`: from the simulated to the true activations on the scale 0..10, learnt elsewhere. A scored context without a
    simulation counts as failed. Raises ValueError for simulations that do not fit the contexts (shape, range, unknown or repeated
    windows) and for contexts of a stratum whose size is not known.
    """
    pool = pooled(evidence, simulated)
    if not pool.lengths:
        return [_empty_row(name, pool) for name in METRICS]
    draws = _resampling(pool, seed, resamples)
    weights = {mode: context_weights(evidence, pool.strata, mode) for mode in MODES}
    truth, expected = pool.true, pool.simulated[0]
    ceiling = discretise(truth, evidence.max_activation).astype(np.float64)
    scaled = truth * LEVELS / evidence.max_activation if evidence.max_activation > 0 else np.zeros_like(truth)

    r, of_truth = _PEARSON.on(pool, truth, expected), _PEARSON.on(pool, truth, ceiling)

    def row(name: str, mode: Mode, measured: _Measured) -> ScoreRow:
        return _row(name, pool, draws, weights[mode], measured)

    def calibrated(name: str, measure: _Measure) -> ScoreRow:
        if isinstance(calibration, NoLine):
            return _undefined_row(name, pool, calibration.reason)
        line = calibration.slope * expected + calibration.intercept
        found = row(name, "balanced", measure.on(pool, scaled, line))
        return replace(found, reason="; ".join(note for note in (found.reason, calibration.note) if note))

    return [
        row("r_balanced", "balanced", r),
        row("r_corpus", "corpus", r),
        row("quantisation_ceiling", "balanced", of_truth),
        row("quantisation_ceiling_corpus", "corpus", of_truth),
        row("r2_uncentred", "balanced", _R2.on(pool, scaled, expected)),
        row("absdev_uncentred", "balanced", _ABSDEV.on(pool, scaled, expected)),
        calibrated("r2_calibrated", _R2),
        calibrated("absdev_calibrated", _ABSDEV),
        _order_row("auroc_balanced", metrics.token_auroc, pool, weights["balanced"]),
        row("f1_corpus", "corpus", _F1.on(pool, truth, expected)),
        _order_row("auprc_corpus", metrics.average_precision, pool, weights["corpus"]),
        _ess_row(pool, weights["corpus"]),
    ]


def difference_rows(
    evidence: FeatureEvidence,
    simulated: Sequence[Simulated],
    baseline: Sequence[Simulated],
    *,
    name: str = "lexical_gain",
    seed: int = 0,
    resamples: int = 1000,
) -> list[ScoreRow]:
    """r(simulated) − r(baseline) on the same contexts, as `{name}_balanced` and `{name}_corpus`: paired bootstrap.

    Both sides see the same resamples of the contexts that both of them cover, so the luck of the draw cancels. With the
    token lexicon as baseline it is the lexical gain; with another feature's label, true − shuffled.
    """
    pool = pooled(evidence, simulated, baseline)
    names = {mode: f"{name}_{mode}" for mode in MODES}
    if not pool.lengths:
        return [_empty_row(names[mode], pool) for mode in MODES]
    draws = _resampling(pool, seed, resamples)
    return [_difference_row(names[mode], pool, draws, context_weights(evidence, pool.strata, mode)) for mode in MODES]


def shuffled_partner(
    feature_ids: Sequence[int], density: Sequence[float], seed: int, band_size: int = 16
) -> dict[int, int]:
    """For each feature another one whose label is scored in its place: the shuffled-label control.

    Features are cut into bands of `band_size` or somewhat more by density, so that a partner fires about as often, and
    each band is one random cycle: never a feature's own label. The result depends on the seed and on the set of
    features with their densities, not on their order. Raises ValueError for fewer than two features or repeated ids.
    """
    count = len(feature_ids)
    if count < 2 or len(set(feature_ids)) != count or len(density) != count:
        raise ValueError(f"a shuffled control needs two or more different features with densities; got {count}")
    ordered = [feature for _, feature in sorted(zip(density, feature_ids, strict=True))]
    bands = max(1, count // max(2, band_size))
    partner: dict[int, int] = {}
    for band in range(bands):
        members = ordered[band * count // bands : (band + 1) * count // bands]
        members.sort(key=lambda feature: (stable_hash("shuffled", seed, feature), feature))
        partner.update(zip(members, members[1:] + members[:1], strict=True))
    return partner


def _resampling(pool: Pool, seed: int, resamples: int) -> Resampling:
    """The same draws for all features whose contexts have the same strata: an interval needs its own no more than they do."""
    return Resampling(pool.strata, resamples, stable_hash("bootstrap", seed))


def _row(name: str, pool: Pool, draws: Resampling, weights: Weights, measured: _Measured) -> ScoreRow:
    if weights.values is None:
        return _undefined_row(name, pool, weights.note)
    sums = measured.sums * weights.values[:, None]
    value = float(measured.measure.of_sums(sums.sum(axis=0)))
    if np.isnan(value):
        point = measured.measure.metric(measured.true, measured.predicted, np.repeat(weights.values, pool.lengths))
        return _undefined_row(name, pool, point.reason, weights.note)
    interval = _interval(pool, draws, measured.measure.of_sums, sums, value)
    return _ok_row(name, pool, value, interval, weights.note, _singleton_note(draws), interval.reason)


def _order_row(
    name: str, metric: Callable[[Array, Array, Array], metrics.Metric], pool: Pool, weights: Weights
) -> ScoreRow:
    """Of a metric that looks at the order of the tokens alone: it is no function of sums, and has no interval."""
    if weights.values is None:
        return _undefined_row(name, pool, weights.note)
    point = metric(pool.true, pool.simulated[0], np.repeat(weights.values, pool.lengths))
    if point.value is None:
        return _undefined_row(name, pool, point.reason, weights.note)
    return _ok_row(name, pool, point.value, bootstrap.Interval(None, None), weights.note)


def _difference_row(name: str, pool: Pool, draws: Resampling, weights: Weights) -> ScoreRow:
    if weights.values is None:
        return _undefined_row(name, pool, weights.note)
    by_token = np.repeat(weights.values, pool.lengths)
    points = [metrics.pearson(pool.true, side, by_token) for side in pool.simulated]
    values = [point.value for point in points if point.value is not None]
    if len(values) < 2:
        sides = zip(("label", "baseline"), points, strict=True)
        reasons = [f"{side}: {point.reason}" for side, point in sides if point.value is None]
        return _undefined_row(name, pool, *reasons, weights.note)
    per_token = np.concatenate([metrics.moments(pool.true, side) for side in pool.simulated], axis=1)
    sums = bootstrap.context_sums(per_token, pool.lengths) * weights.values[:, None]
    difference = values[0] - values[1]
    interval = _interval(pool, draws, metrics.difference_of_correlations, sums, difference)
    notes = (weights.note, _singleton_note(draws), interval.reason)
    return _ok_row(name, pool, difference, interval, *notes)


def _ess_row(pool: Pool, weights: Weights) -> ScoreRow:
    if weights.values is None:
        return _undefined_row("ess_corpus", pool, weights.note)
    size = metrics.effective_sample_size(weights.values).value
    assert size is not None  # weights of sampled strata are positive
    return _ok_row("ess_corpus", pool, size, bootstrap.Interval(None, None), weights.note)


def _interval(
    pool: Pool, draws: Resampling, of_sums: Callable[[Array], Array], sums: Array, value: float
) -> bootstrap.Interval:
    """The interval; none where a side's contexts are alone in their strata, since nothing says how it varies."""
    alone = set(draws.singletons)
    bands = {int(band) for band in np.unique(pool.strata) if band > 0} if alone else set()
    if 0 in alone or (bands and bands <= alone):
        side = "silent" if 0 in alone else "activating"
        return bootstrap.Interval(None, None, 0, f"no interval: too few {side} contexts to tell how the score varies")
    return draws.interval(of_sums, sums, value)


def _singleton_note(draws: Resampling) -> str | None:
    alone = draws.singletons
    return f"one context only, so no variation in the interval: band {', '.join(map(str, alone))}" if alone else None


def _ok_row(name: str, pool: Pool, value: float, interval: bootstrap.Interval, *notes: str | None) -> ScoreRow:
    reason = "; ".join(note for note in (*notes, pool.remark) if note) or None
    return ScoreRow(name, value, interval.lo, interval.hi, len(pool.lengths), pool.n_failed, "ok", reason)


def _undefined_row(name: str, pool: Pool, *reasons: str | None) -> ScoreRow:
    reason = "; ".join(reason for reason in reasons if reason)
    return ScoreRow(name, None, None, None, len(pool.lengths), pool.n_failed, "undefined", reason)


def _empty_row(name: str, pool: Pool) -> ScoreRow:
    if pool.n_failed:
        reason = f"all {pool.n_failed} contexts failed, for instance: {pool.failure}"
        return ScoreRow(name, None, None, None, 0, pool.n_failed, "failed", reason)
    return ScoreRow(name, None, None, None, 0, 0, "undefined", "there are no test contexts to simulate")
