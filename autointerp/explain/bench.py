"""The subject model at hand: what explainers that experiment, and scorers that have texts written, may do with it.

Implemented outside this room; explainers and tests know only this. Calls compute and block: await them in a thread.
Results are rounded by whoever shows them to a model, so that the same question is asked on every machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from autointerp.errors import UserError


class TooLargeError(Exception):
    """There was too little memory for one experiment. Others may be possible; the text says where memory was short."""


class BrokenBenchError(UserError):
    """The device has failed: no experiment is possible in this process. It ends the run, and nothing is made up for it."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another feature, the cosine of the decoder directions, and its label's title where it has one."""

    feature_id: int
    cosine: float
    title: str | None


@dataclass(frozen=True, slots=True)
class Continuations:
    """What the model writes after a prompt, greedily: as it is, and with the feature switched on."""

    clean: str
    steered: str


class Bench(Protocol):
    """Raises UserError where the subject model cannot be had, BrokenBenchError where it was lost, TooLargeError where one
    experiment is too large for the memory; RequestFailed never."""

    def activations(self, feature_id: int, text: str) -> list[tuple[int, float]]:
        """(token, raw activation) of the text's tokens in order, read as the harvest reads a document's first window."""
        ...

    def peaks(self, feature_id: int, texts: Sequence[str]) -> list[float | None]:
        """The feature's maximum over each text, read likewise, all in one go; None for a text without tokens."""
        ...

    def nearest(self, feature_id: int, count: int) -> Sequence[Neighbour]:
        """The features whose decoder directions are most alike, the nearest first."""
        ...

    def steered(self, feature_id: int, prompt: str, strength: float, tokens: int) -> Continuations:
        """Greedy continuations of `tokens` tokens. `strength` in units of the feature's maximum over the harvest; it may
        be negative."""
        ...
