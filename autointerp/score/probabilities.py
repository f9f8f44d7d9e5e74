"""The probability of a yes in an answer's verdicts: p1 / (p0 + p1) where a 0 or a 1 stands, from the log-probabilities there.

Tokenizers take a digit together with what is around it (` 1`, `1]`), so what is compared are the tokens that begin with the same
characters as the one that was written, and then have a 0 or a 1. What is not among the alternatives counts as impossible: it is
less likely than all that are. Pure.
"""

import math
import re
from collections.abc import Mapping, Sequence

from autointerp.llm.types import TokenLogprobs

ALTERNATIVES = 5  # the least that servers allow; of a verdict two matter
_VERDICT = re.compile(r"\[\s*(\d+)\s*,\s*([01])\s*\]")

_LIST = re.compile(r"\[[\s,01]*\]")
_DIGIT = re.compile(r"[01]")


def verdict_places(text: str) -> dict[int, int]:
    """Number of a text → where its 0 or 1 stands, in an answer such as `{"texts": [[1, 0], [2, 1]]}`."""
    return {int(found[1]): found.start(2) for found in _VERDICT.finditer(text)}


def list_places(text: str) -> dict[int, int]:
    """Place in the list, from 0 → where its 0 or 1 stands, in an answer such as `{"answers": [1, 0]}`; the last list counts."""
    lists = list(_LIST.finditer(text))
    if not lists:
        return {}
    begin = lists[-1].start()
    return {number: begin + found.start() for number, found in enumerate(_DIGIT.finditer(lists[-1][0]))}


def yes_probabilities(text: str, places: Mapping[int, int], logprobs: Sequence[TokenLogprobs]) -> dict[int, float]:
    """Of each of `places` in `text`, by its number. None are left where the tokens are not those of the text."""
    joined = "".join(one.token for one in logprobs)
    shift = joined.find(text) if text else -1
    if shift < 0:
        return {}
    starts, at = [], 0
    for one in logprobs:
        starts.append(at)
        at += len(one.token)
    found = {}
    for number, place in places.items():
        wanted = place + shift
        index = max(index for index, start in enumerate(starts) if start <= wanted)
        probability = _yes(logprobs[index], wanted - starts[index])
        if probability is not None:
            found[number] = probability
    return found


def _yes(one: TokenLogprobs, place: int) -> float | None:
    """Of the token whose character at `place` is the verdict."""
    weights = {"0": 0.0, "1": 0.0}
    for token, logprob in {one.token: one.logprob, **one.top}.items():
        if token[:place] == one.token[:place] and token[place : place + 1] in weights:
            weights[token[place]] += math.exp(logprob)
    total = weights["0"] + weights["1"]
    return weights["1"] / total if total > 0 else None
