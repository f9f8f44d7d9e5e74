"""A tokenizer for planted sentences: words, numbers, single marks. Reversible, and known to nobody else. Pure.

A space belongs to the token that follows it, as in the vocabularies of language models. The endings 's, 't, 're, 've,
'm, 'll and 'd are tokens of their own.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autointerp.vocabulary import Vocabulary

_TOKEN = re.compile(r"['’](?:s|t|re|ve|m|ll|d)\b| ?[^\W\d_]+| ?\d+(?:[.,]\d+)*| ?[^\w\s]| ?_|\s")


@dataclass(frozen=True, slots=True)
class Piece:
    """A token of a text. `begin` and `end` are where its characters stand, a space before them not included."""

    text: str
    begin: int
    end: int


def split(text: str) -> list[Piece]:
    """The tokens of `text`, which joined give it back."""
    pieces = []
    for found in _TOKEN.finditer(text):
        spaces = len(found[0]) - len(found[0].lstrip(" "))
        pieces.append(Piece(found[0], found.start() + spaces % len(found[0]), found.end()))
    if "".join(piece.text for piece in pieces) != text:
        raise ValueError(f"not all of {text!r} is covered by tokens")
    return pieces


class Words:
    """The vocabulary of some texts: ids in the alphabetical order of their tokens."""

    def __init__(self, texts: Iterable[str]) -> None:
        known = sorted({piece.text for text in texts for piece in split(text)})
        self._ids: Mapping[str, int] = {token: number for number, token in enumerate(known)}
        self.vocabulary = Vocabulary(known, [token.encode() for token in known])

    def encode(self, text: str) -> NDArray[np.int32]:
        """Token ids [T]. Raises KeyError for a token that was in none of the texts."""
        return np.array([self._ids[piece.text] for piece in split(text)], dtype=np.int32)
