"""From a feature's evidence and its simulations to pooled vectors, and the weights of their contexts.

Two kinds of weight, for the two correlations of the `simulation` protocol:
- *balanced*: silent and activating windows weigh 1:1, and bands equally: w = 1/n₀ for silent windows and 1/(S·n_b)
  for band b of the S bands present;
- *corpus*: w = N_h/n_h, where the stratum has N_h windows in the corpus and n_h that were simulated (Horvitz and
  Thompson, 1952). Weighted sums over the sample then estimate sums over all windows.

Each token carries the whole weight of its context, not a share of it. A weight says how many windows a window stands
for, and its tokens come along with it: a short window at a document's end counts by its tokens, as in the corpus.
Contexts that failed are left out and counted; n_h is the number that remain.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autointerp.catalog.records import Context, FeatureEvidence
from autointerp.score import Simulated
from autointerp.score.discretise import LEVELS
from autointerp.score.readings import mass_remark

Array = NDArray[np.float64]
Mode = Literal["balanced", "corpus"]
MODES: tuple[Mode, ...] = ("balanced", "corpus")


@dataclass(frozen=True, slots=True)
class Weights:
    """One weight a context [C], or None with the reason. `note` remarks on weights that leave strata out."""

    values: Array | None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """The contexts that every given simulation covers: `true` and each of `simulated` [tokens], the rest by context.

    `failure` is the reason of one of the `n_failed` contexts that are left out. `remark`: what is to be said of the others.
    """

    true: Array
    simulated: tuple[Array, ...]
    lengths: list[int]
    strata: NDArray[np.int64]
    n_failed: int
    failure: str | None
    remark: str | None = None


def scored_contexts(evidence: FeatureEvidence) -> list[Context]:
    """The contexts that the protocol simulates: test split, drawn from bands or silent. Never the top ones."""
    return evidence.of("test", ("band", "silent"))


def blinded(context: Context) -> Context:
    """The context without its activations: a simulator cannot see what it is to predict."""
    return replace(context, activations=np.zeros_like(context.activations))


def pooled(evidence: FeatureEvidence, *simulations: Sequence[Simulated]) -> Pool:
    """Pool the scored contexts that all of `simulations` cover. A context without a simulation counts as failed.

    Raises ValueError for simulations that do not fit the contexts: shape, range, unknown or repeated windows.
    """
    contexts = scored_contexts(evidence)
    sides = [_by_window(contexts, simulation) for simulation in simulations]
    kept = [context for context in contexts if all(side[context.window_id].status == "ok" for side in sides)]
    failures = (side[window] for window in sides[0] for side in sides if side[window].status == "failed")
    return Pool(
        true=_joined([context.activations for context in kept]),
        simulated=tuple(
            _on_scale(_joined([_expected(side[context.window_id], context) for context in kept])) for side in sides
        ),
        lengths=[len(context.activations) for context in kept],
        strata=np.array([context.band for context in kept], dtype=np.int64),
        n_failed=len(contexts) - len(kept),
        failure=next((failed.reason for failed in failures), None),
        remark=mass_note([sides[0][context.window_id] for context in kept]),
    )


def mass_note(simulated: Sequence[Simulated]) -> str | None:
    """How many of the simulations were read from probabilities that are hardly on numbers."""
    low = sum(one.mass is not None and mass_remark(one.mass) is not None for one in simulated)
    return f"little probability on numbers in {low} of {len(simulated)} contexts" if low else None


def _by_window(contexts: Sequence[Context], simulated: Sequence[Simulated]) -> dict[int, Simulated]:
    wanted = {context.window_id for context in contexts}
    found = {simulation.window_id: simulation for simulation in simulated}
    if len(found) != len(simulated) or len(wanted) != len(contexts) or not found.keys() <= wanted:
        raise ValueError("simulations and scored contexts must be of the same windows, each once")
    missing = {window: Simulated(window, None, "failed", "the context was not simulated") for window in wanted}
    return missing | found


def _expected(simulation: Simulated, context: Context) -> NDArray[np.float32]:
    expected = simulation.expected
    if expected is None or expected.shape != context.activations.shape:
        length = len(context.activations)
        raise ValueError(f"the simulation of window {context.window_id} is not of its {length} tokens")
    return expected


def _on_scale(simulated: Array) -> Array:
    if not ((simulated >= 0) & (simulated <= LEVELS)).all():
        raise ValueError(f"a simulation leaves the scale 0..{LEVELS}")
    return simulated


def _joined(parts: Sequence[NDArray[np.float32]]) -> Array:
    return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)


def context_weights(evidence: FeatureEvidence, strata: NDArray[np.int64], mode: Mode) -> Weights:
    """The weight of each context [C], of which `strata` gives the band; see the module's text.

    A side (silent or activating) that exists in the corpus but has no context left makes the weights undefined; so
    does, for the balanced ones, a side that does not exist. A band that is left out is named in the note. Raises
    ValueError if the catalog's count of a stratum's windows is lower than its number of contexts.
    """
    sizes = {band: size for (split, band), size in evidence.stratum_windows.items() if split == "test" and size > 0}
    bands, counts = np.unique(strata, return_counts=True)
    sampled = {int(band): int(count) for band, count in zip(bands, counts, strict=True)}
    if any(count > sizes.get(band, 0) for band, count in sampled.items()):
        raise ValueError(f"feature {evidence.feature_id} has more contexts than windows: {sampled} of {sizes}")
    for side, bands_of_side in (("silent", {0}), ("activating", (sizes.keys() | sampled.keys()) - {0})):
        windows = sum(sizes.get(band, 0) for band in bands_of_side)
        if not (bands_of_side & sampled.keys()) and (windows or mode == "balanced"):
            return Weights(None, f"no {side} context to weigh, of {windows} windows")
    if mode == "corpus":
        weight = {band: sizes[band] / count for band, count in sampled.items()}
    else:
        shares = {band: len(sampled) - 1 if band else 1 for band in sampled}
        weight = {band: 1 / (count * shares[band]) for band, count in sampled.items()}
    missing = [f"{band} ({size} windows)" for band, size in sorted(sizes.items()) if band not in sampled]
    note = f"without a simulated context and left out: band {', '.join(missing)}" if missing else None
    return Weights(np.array([weight[int(band)] for band in strata]), note)
