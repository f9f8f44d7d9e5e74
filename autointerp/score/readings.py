"""From the alternatives of one token to an expected value on the scale 0..10. Pure: it knows nothing of models.

Two readings of the same formula, p(k) = e^l(k) / Σ e^l, over the integers that are among the alternatives:
- *bills23*: as published (Bills et al. 2023), of the 15 likeliest tokens; an integer that is not among them counts as
  impossible, and where none is, the value is 0.
- *exact*: of all eleven, whose log-probabilities the engine gives however small they are: the 11-way softmax.

Where a tokenizer keeps digits apart, "10" is the two tokens "1" and "0": p(10) = p("1") · p("0" | "1"), and what remains of
p("1") is that of the integer 1.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autointerp.score.discretise import LEVELS

ReadingName = Literal["exact", "bills23"]
NUMBERS = tuple(str(value) for value in range(LEVELS + 1))
TEN, ONE, ZERO = "10", "1", "0"
BILLS_ALTERNATIVES = 15

# A share of p("1") below which it is not worth a request to tell 10 from 1: the value could change by 9 times as much at most.
WORTH_TELLING: Mapping[ReadingName, float] = {"exact": 1e-5, "bills23": 0.005}

# A context of which less than half of the probability is on numbers, on average, does not say much.
LOW_MASS = 0.5


@dataclass(frozen=True, slots=True)
class Read:
    """The expected value of one token, and the probability of all that was taken for a number."""

    expected: float
    mass: float


def read_numbers(top: Mapping[str, float], *, ten_in_one: bool = False) -> Read:
    """The value of alternatives (text → natural log-probability); texts that are no number of the scale are left out.

    `ten_in_one`: "10" begins with the token "1", so its probability is a part of that one's.
    """
    chance = {value: math.exp(top[text]) for value, text in enumerate(NUMBERS) if text in top}
    if ten_in_one and LEVELS in chance and 1 in chance:
        chance[1] = max(0.0, chance[1] - chance[LEVELS])
    mass = math.fsum(chance.values())
    if mass <= 0:
        return Read(0.0, 0.0)
    return Read(math.fsum(value * share for value, share in chance.items()) / mass, min(mass, 1.0))


def is_worth_telling(top: Mapping[str, float], reading: ReadingName) -> bool:
    """Whether p("10") is missing, and p("1") is so large that the difference matters. Of tokenizers that keep digits apart."""
    if TEN in top or ONE not in top:
        return False
    mass = math.fsum(math.exp(top[text]) for text in NUMBERS if text in top)
    return math.exp(top[ONE]) > WORTH_TELLING[reading] * mass


def with_ten(top: Mapping[str, float], zero_after_one: float) -> dict[str, float]:
    """The alternatives with "10": log p("1") + log p("0" | "1")."""
    return {**top, TEN: top[ONE] + zero_after_one}


def arrays(reads: list[Read]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Expected values, within the scale whatever the rounding, and masses: float32 [T] each."""
    expected = np.clip(np.array([read.expected for read in reads], np.float32), 0, LEVELS)
    return expected, np.array([read.mass for read in reads], np.float32)


def mass_remark(mass: NDArray[np.float32]) -> str | None:
    """What is to be said of a context whose probability is hardly on numbers."""
    if not len(mass) or float(mass.mean()) >= LOW_MASS:
        return None
    mean, least = (100 * float(share) for share in (mass.mean(), mass.min()))
    return f"low mass: {mean:.0f} % of the probability is on numbers, at token {int(mass.argmin())} {least:.0f} %"
