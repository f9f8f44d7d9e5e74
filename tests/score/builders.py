"""Small evidence for the tests of this room."""

from collections.abc import Sequence

import numpy as np

from autointerp.catalog.records import Context, FeatureEvidence, Split
from autointerp.score import Simulated


def context(
    window: int,
    band: int,
    activations: Sequence[float],
    *,
    split: Split = "test",
    kind: str | None = None,
    tokens: Sequence[int] | None = None,
) -> Context:
    """A context of the kind that its band says; tokens count from 0 unless given."""
    return Context(
        window_id=window,
        split=split,
        kind=kind or ("band" if band else "silent"),
        band=band,
        tokens=np.array(range(len(activations)) if tokens is None else tokens, dtype=np.int32),
        activations=np.array(activations, dtype=np.float32),
    )


def evidence(
    contexts: Sequence[Context], sizes: dict[int, int], maximum: float = 10.0, feature: int = 0
) -> FeatureEvidence:
    """`sizes`: windows of the test split by band."""
    strata = {("test", band): size for band, size in sizes.items()}
    return FeatureEvidence(feature, maximum, 0.01, contexts, strata)


def simulated(window: int, expected: Sequence[float]) -> Simulated:
    return Simulated(window, np.array(expected, dtype=np.float32), "ok")


def failed(window: int, reason: str = "malformed: no JSON object in the answer") -> Simulated:
    return Simulated(window, None, "failed", reason)
