"""Texts with marks around some of their tokens, as prompts show them: JSON, and marks that no text of the prompt holds.

The marks of a request are the first pair of brackets that occurs in none of its texts. Whoever wrote a text cannot have
put a mark into it: in the request every mark is ours, and a text without its marks is the text as it was.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from autointerp.explain.exemplars import Exemplar, Show
from autointerp.hashing import hex_hash
from autointerp.vocabulary import Vocabulary, escape

_BRACKETS = (("«", "»"), ("⟦", "⟧"), ("‹", "›"), ("【", "】"), ("⟪", "⟫"), ("⦃", "⦄"))


@dataclass(frozen=True, slots=True)
class Marks:
    """What stands before and after a marked run of tokens."""

    opening: str
    closing: str

    @property
    def json(self) -> str:
        return f"[{quoted(self.opening)},{quoted(self.closing)}]"


def marks_for(texts: Iterable[str]) -> Marks:
    """Marks that occur in none of `texts`: one bracket each, or a bracket with a hash where the texts hold them all."""
    whole = "\n".join(texts)
    for opening, closing in _BRACKETS:
        if opening not in whole and closing not in whole:
            return Marks(opening, closing)
    draw = hex_hash("marks", whole)
    while draw[:8] in whole or draw[8:] in whole or draw[:8] == draw[8:]:
        draw = hex_hash("marks", draw, whole)
    return Marks(f"⟦{draw[:8]}", f"{draw[8:]}⟧")


def marks_for_exemplars(shown: Iterable[Exemplar], vocabulary: Vocabulary) -> Marks:
    """Marks for the texts of exemplars."""
    return marks_for(vocabulary.join(exemplar.tokens) for exemplar in shown)


def quoted(text: str) -> str:
    """`text` as a JSON string on one line, with nothing invisible in it."""
    return f'"{escape(text)}"'


def quoted_tokens(tokens: Iterable[int], vocabulary: Vocabulary) -> str:
    """Tokens as a JSON list of strings."""
    return f"[{','.join(quoted(vocabulary.text(int(token))) for token in tokens)}]"


def marked(tokens: NDArray[np.int32], chosen: NDArray[np.bool_], marks: Marks, vocabulary: Vocabulary) -> str:
    """The text of `tokens` [t] as a JSON string, with marks around each run of tokens that are `chosen` [t]."""
    bounds = [0, *(np.flatnonzero(np.diff(chosen)) + 1).tolist(), len(tokens)]
    parts = []
    for begin, end in pairwise(bounds):
        text = vocabulary.join(tokens[begin:end])
        parts.append(f"{marks.opening}{text}{marks.closing}" if chosen[begin:end].any() else text)
    return quoted("".join(parts))


def marked_text(exemplar: Exemplar, show: Show, marks: Marks, vocabulary: Vocabulary) -> str:
    """A JSON object: "text", its active tokens marked unless only levels are shown, and "active", [token, level] pairs of them
    unless only marks are."""
    on = exemplar.levels > 0
    text = marked(exemplar.tokens, on & (show != "levels"), marks, vocabulary)
    if show == "marks":
        return f'{{"text":{text}}}'
    pairs = zip(exemplar.tokens[on], exemplar.levels[on], strict=True)
    listed = ",".join(f"[{quoted(vocabulary.text(int(token)))},{level}]" for token, level in pairs)
    return f'{{"text":{text},"active":[{listed}]}}'


def listed(name: str, items: Sequence[str]) -> str:
    """`"name":[…]` with a line for each item, which is JSON already."""
    return f'"{name}":[\n' + ",\n".join(items) + "\n]" if items else f'"{name}":[]'
