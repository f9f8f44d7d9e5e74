"""A long text cut into pieces whose tokens, one piece after the other, are those of the whole.

A tokenizer takes some hundred and fifty times the memory of its text, so that a book of 100 MB cannot be tokenised in one
go. Most tokenizers first split a text into words by a pattern that looks at most one character beyond a word, and then
treat every word for itself: for those a text may be cut between words. Each cut is checked on the text around it. Tokenizers
without such a split (Llama 2, Gemma, most SentencePiece ones) take a text whole; so do texts without a place to cut.
"""

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

_PIECE = 1 << 18  # characters
_AROUND = 256  # characters on each side of a cut that are tokenised to check it
_TRIES = 100
_CANDIDATE = re.compile(r"(?<=[^\W\d_])(?=[ \n])|(?<=\n)(?=[^\W\d_])")
# What is known to split by patterns of bounded reach, and to change characters one by one or with their accents.
_SPLITTERS = frozenset(
    {"ByteLevel", "Split", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit", "BertPreTokenizer"}
)
_NORMALISERS = frozenset({"NFC", "NFD", "NFKC", "NFKD", "Lowercase"})


class Cutter:
    """Cuts texts for one Hugging Face tokenizer, into pieces of about `piece` characters."""

    def __init__(self, tokenizer: Any, piece: int = _PIECE) -> None:
        self.piece = piece
        self._tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._words: Any = getattr(backend, "pre_tokenizer", None)
        normaliser = getattr(backend, "normalizer", None)
        self._can_cut = (
            self._words is not None and _kinds(self._words) <= _SPLITTERS and _kinds(normaliser) <= _NORMALISERS
        )

    def pieces(self, text: str) -> Iterator[str]:
        """`text` in order, in one piece where it is short or must not be cut."""
        begin = 0
        while self._can_cut and len(text) - begin > self.piece:
            cut = self._cut(text, begin + self.piece)
            if cut is None:
                break
            yield text[begin:cut]
            begin = cut
        yield text[begin:] if begin else text

    def _cut(self, text: str, after: int) -> int | None:
        """The first good place to cut at or after `after`, within the length of a piece."""
        candidates = _CANDIDATE.finditer(text, after, min(after + self.piece, len(text) - 1))
        for candidate in islice(candidates, _TRIES):
            if self._is_good(text, candidate.start()):
                return candidate.start()
        return None

    def _is_good(self, text: str, cut: int) -> bool:
        left, right = text[max(cut - _AROUND, 0) : cut], text[cut : cut + _AROUND]
        words = self._words.pre_tokenize_str(left + right)
        if not any(begin == len(left) for _, (begin, _) in words):
            return False
        return self._ids(left) + self._ids(right) == self._ids(left + right)

    def _ids(self, text: str) -> list[int]:
        encoded = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return list(encoded["input_ids"])


def _kinds(step: Any) -> frozenset[str]:
    """Kinds of the steps of a normaliser or pre-tokenizer of the `tokenizers` library."""
    if step is None:
        return frozenset()
    try:
        return frozenset(_kinds_in(json.loads(step.__getstate__())))
    except Exception:  # the library's class for everything: this step is written in Python and has no state
        return frozenset({"custom"})


def _kinds_in(state: dict[str, Any]) -> Iterator[str]:
    inner = state.get("pretokenizers", state.get("normalizers"))
    if inner is None:
        yield state["type"]
    for step in inner or ():
        yield from _kinds_in(step)
