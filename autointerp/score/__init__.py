"""Scoring: a simulator predicts a feature's activations from its label alone; metrics compare them with the truth.

A simulator is one file in this package, or an entry point of another one. `metrics`, `bootstrap` and `discretise` are
pure and know nothing of models, files or databases; `simulation` turns simulations into rows of the catalog.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from autointerp.catalog.records import Context, Label
from autointerp.llm.types import Ask
from autointerp.registry import Registry
from autointerp.vocabulary import Vocabulary

__all__ = ["Simulated", "Simulator", "simulators"]


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a simulator predicts for one context.

    `expected` float32 [T]: the expected value, on the scale 0..10, at each of the context's tokens; None if it failed.
    """

    window_id: int
    expected: NDArray[np.float32] | None
    status: Literal["ok", "failed"]
    reason: str | None = None


class Simulator(Protocol):
    """Predicts activations from a label. It sees tokens, never the true activations: it must not read them.

    `max_activation` is the feature's maximum over the harvest, to which 10 on the simulated scale corresponds. One
    `Simulated` is returned for every context, in the order given. A context that could not be simulated is a
    `Simulated` of status "failed": the simulator does not raise for it. `needs`: capabilities that its provider must have.
    """

    needs_model: bool
    needs: tuple[str, ...]

    async def __call__(
        self,
        label: Label,
        contexts: Sequence[Context],
        max_activation: float,
        ask: Ask | None,
        vocabulary: Vocabulary,
    ) -> list[Simulated]: ...


simulators: Registry[Simulator] = Registry("simulator", "autointerp.score")
