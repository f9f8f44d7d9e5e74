"""Pieces of windows, and marks on their tokens: what questions about marks and about short texts are made of.

Everything is drawn by hash, so that the same feature gives the same questions anywhere. Pure.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from autointerp.catalog.records import Context

LENGTH = 32  # tokens of a cut, as in the published protocols
SHARE = 0.3  # of the text's maximum, from which on a token is marked


@dataclass(frozen=True, slots=True)
class Cut:
    """A piece of a context: `tokens` int32 [t] and `activations` float32 [t] from its token `begin` on."""

    context: Context
    begin: int
    tokens: NDArray[np.int32]
    activations: NDArray[np.float32]

    @property
    def place(self) -> int | None:
        """Where a hard negative's cause stands in the cut; None if it is outside or there is none."""
        cause = self.context.cause_position
        inside = cause is not None and self.begin <= cause < self.begin + len(self.tokens)
        return cause - self.begin if cause is not None and inside else None

    def in_window(self, places: Sequence[int]) -> list[int]:
        """Places of the cut as positions of the window."""
        return [self.begin + place for place in places]


def cut_at(context: Context, begin: int, length: int = LENGTH) -> Cut:
    """The `length` tokens from `begin` on, which is moved so that there are as many where the context has them."""
    begin = max(0, min(begin, len(context.tokens) - length))
    piece = slice(begin, begin + length)
    return Cut(context, begin, context.tokens[piece], context.activations[piece])


def cut_anywhere(context: Context, draw: random.Random, length: int = LENGTH) -> Cut:
    """A cut that holds the context's peak, or a hard negative's cause, at a place that says nothing: any is as likely.

    Of a context without either it is any cut.
    """
    place = int(context.activations.argmax()) if context.peak > 0 else context.cause_position
    if place is None:
        return cut_at(context, draw.randrange(max(1, len(context.tokens) - length + 1)), length)
    return cut_at(context, place - draw.randrange(length), length)


def long_enough(contexts: Sequence[Context], length: int) -> list[Context]:
    """Those from which so many tokens can be cut, or as many as from the longest.

    Windows at the ends of documents may be short, and a text would be told from others by its length."""
    least = min(length, max((len(context.tokens) for context in contexts), default=0))
    return [context for context in contexts if len(context.tokens) >= least]


def runs_of(places: Sequence[int]) -> list[int]:
    """Lengths of the runs of neighbouring places, which are in ascending order."""
    if not places:
        return []
    ends = [at + 1 for at, (one, other) in enumerate(pairwise(places)) if other > one + 1]
    return [end - begin for begin, end in pairwise([0, *ends, len(places)])]


def placed(
    runs: Sequence[int], free: NDArray[np.bool_], draw: random.Random, first: int | None = None
) -> list[int] | None:
    """Places for runs of these lengths on tokens that are `free` [t], with a gap between any two; None where they find no room.

    `first`: a place that the longest run is to cover.
    """
    for _ in range(20):
        room = free.copy()
        chosen: list[int] = []
        for number, length in enumerate(sorted(runs, reverse=True)):
            begins = [begin for begin in range(len(room) - length + 1) if room[begin : begin + length].all()]
            if number == 0 and first is not None:
                begins = [begin for begin in begins if begin <= first < begin + length]
            if not begins:
                break
            begin = draw.choice(begins)
            chosen += range(begin, begin + length)
            room[max(0, begin - 1) : begin + length + 1] = False
        else:
            return sorted(chosen)
    return None
