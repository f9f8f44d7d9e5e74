"""The scale of a simulation, learnt outside the test split: least squares from simulated to true activations. Pure.

Bills et al. 2023 calibrate before they compare values (the correlation does not change by it). The line is fitted on contexts of
the rerank split, weighted as for the balanced scores: silent and activating contexts 1:1, bands alike. A slope below 0 is kept: a
label that foretells the opposite is then right about the values, and only the signed correlation shows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autointerp.catalog.records import Context, FeatureEvidence
from autointerp.score import Simulated, metrics
from autointerp.score.metrics import Array


@dataclass(frozen=True, slots=True)
class Line:
    """true ≈ slope · simulated + intercept, from so many contexts; `n_failed` further ones could not be simulated."""

    slope: float
    intercept: float
    n_ok: int
    n_failed: int = 0

    @property
    def note(self) -> str:
        """What is to be said of it."""
        failed = f", {self.n_failed} failed" if self.n_failed else ""
        return f"true = {self.slope:.3g} · simulated + {self.intercept:.3g}, from {self.n_ok} contexts{failed}"


@dataclass(frozen=True, slots=True)
class NoLine:
    """Why there is none."""

    reason: str


NOT_ASKED_FOR = NoLine("not calibrated: score.calibration is 0")


def calibration_contexts(evidence: FeatureEvidence, count: int) -> list[Context]:
    """At most `count` contexts of the rerank split: half of them silent, the others from all bands in turn."""
    silent = evidence.of("rerank", ("silent",))
    bands: dict[int, list[Context]] = {}
    for context in evidence.of("rerank", ("band",)):
        bands.setdefault(context.band, []).append(context)
    places = {context.window_id: place for some in bands.values() for place, context in enumerate(some)}
    active = [context for band in sorted(bands) for context in bands[band]]
    active.sort(key=lambda context: places[context.window_id])
    wanted = min(len(active), max(count - count // 2, count - len(silent)))
    return active[:wanted] + silent[: count - wanted]


def fitted(contexts: Sequence[Context], simulated: Sequence[Simulated], scale: float) -> Line | NoLine:
    """The line from the simulations of `contexts`, in their order, to the true activations times `scale`."""
    pairs = [(c, s.expected) for c, s in zip(contexts, simulated, strict=True) if s.expected is not None]
    failed = len(contexts) - len(pairs)
    if not any(context.peak > 0 for context, _ in pairs):
        why = f"{failed} of {len(contexts)} failed" if failed else f"there are {len(contexts)} contexts"
        return NoLine(f"not calibrated: the feature fires in no simulated context of the rerank split ({why})")
    bands = [context.band for context, _ in pairs]
    activating = len(set(bands) - {0})
    weights = [1 / (bands.count(band) * (activating if band else 1)) for band in bands]
    true = np.concatenate([context.activations for context, _ in pairs]).astype(np.float64) * scale
    predicted = np.concatenate([expected for _, expected in pairs]).astype(np.float64)
    line = least_squares(true, predicted, np.repeat(weights, [len(expected) for _, expected in pairs]))
    if line is None:
        return NoLine("not calibrated: the simulated activations of the rerank split's contexts are constant")
    return Line(*line, len(pairs), failed)


def least_squares(true: Array, simulated: Array, weights: Array) -> tuple[float, float] | None:
    """Slope and intercept of the weighted regression of `true` on `simulated` [n]; None where `simulated` is constant."""
    total, a, s, _, ss, cross = weights @ metrics.moments(true, simulated)
    mean_a, mean_s = a / total, s / total
    variance = ss / total - mean_s**2
    if variance <= metrics.FLAT * ss / total:
        return None
    slope = (cross / total - mean_a * mean_s) / variance
    return float(slope), float(mean_a - slope * mean_s)
