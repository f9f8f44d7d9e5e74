"""Documents in, token ids out, as far as the limit goes: in small batches, and long documents in pieces.

Nothing of the corpus is read beyond what the limit asks for (documents of more than a token a character apart), and
memory is bounded by the longest document.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autointerp.harvest.long_texts import Cutter
from autointerp.subject.chats import ChatEncoder
from autointerp.subject.documents import Document

_DOCUMENTS_AT_ONCE = 64
_CHARACTERS_AT_ONCE = 1 << 18

Tokens = NDArray[np.uint32]


class Tokenizer(Protocol):
    """What is needed of a Hugging Face tokenizer."""

    def __call__(self, text: list[str], *, add_special_tokens: bool, **options: Any) -> Any: ...


def tokenised(
    documents: Iterable[Document], tokenizer: Tokenizer, max_tokens: int | None = None
) -> Iterator[tuple[Document, Tokens]]:
    """Each document that has tokens, with its ids, until there are `max_tokens`; the last is cut so that the count is exact.

    Texts have no special tokens; conversations those of the chat template. Raises UserError for conversations without one.
    """
    encoder = _Encoder(tokenizer)
    left = max_tokens
    source = iter(documents)
    while left != 0 and (batch := _batch(source, left)):
        for document, tokens in zip(batch, encoder.encode(batch, left), strict=True):
            if left is not None:
                tokens = tokens[:left]
                left -= len(tokens)
            if len(tokens):
                yield document, tokens
            if left == 0:
                return


def _batch(source: Iterator[Document], left: int | None) -> list[Document]:
    """The next documents. They hold as many characters as tokens are wanted, or little more, so that few are too many."""
    enough = _CHARACTERS_AT_ONCE if left is None else min(_CHARACTERS_AT_ONCE, left)
    batch: list[Document] = []
    characters = 0
    while len(batch) < _DOCUMENTS_AT_ONCE and characters < enough:
        document = next(source, None)
        if document is None:
            break
        batch.append(document)
        characters += document.characters
    return batch


class _Encoder:
    """Texts by the tokenizer alone, conversations by its chat template, which is looked at when the first one comes."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._cutter = Cutter(tokenizer)
        self._chats: ChatEncoder | None = None

    def encode(self, batch: list[Document], left: int | None) -> Iterator[Tokens]:
        """Ids of each document, all of them or at least the first `left`."""
        short = [document.text for document in batch if self._kind(document) == "short"]
        chats = [document for document in batch if document.messages]
        found = {"short": iter(self._texts(short)), "chat": iter(self._conversations(chats))}
        for document in batch:
            kind = self._kind(document)
            if kind == "long":
                yield self._long(document.text, left)
            else:
                yield np.asarray(next(found[kind]), dtype=np.uint32)

    def _kind(self, document: Document) -> str:
        if document.messages:
            return "chat"
        return "long" if len(document.text) > self._cutter.piece else "short"

    def _texts(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def _long(self, text: str, left: int | None) -> Tokens:
        parts: list[Tokens] = []
        count = 0
        for piece in self._cutter.pieces(text):
            parts.append(np.asarray(self._texts([piece])[0], dtype=np.uint32))
            count += len(parts[-1])
            if left is not None and count >= left:
                break
        return np.concatenate(parts)

    def _conversations(self, documents: list[Document]) -> list[list[int]]:
        if not documents:
            return []
        if self._chats is None:
            self._chats = ChatEncoder(self.tokenizer)
        return self._chats.encode(documents)
