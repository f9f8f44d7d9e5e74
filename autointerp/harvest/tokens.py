"""The bytes behind every token of a Hugging Face tokenizer, for the catalog's vocabulary.

`decode` of a single token loses what cannot stand alone: leading spaces, and pieces of a multi-byte character. So the bytes
are read from the vocabulary itself, in the two schemes that language models use: byte-level BPE, where each character of a token
stands for a byte (GPT-2's table), and SentencePiece style, where "▁" is a space and "<0xE2>" a byte. A WordPiece vocabulary keeps
no spaces: one is shown before every token that does not continue a word.
"""

import re
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from autointerp.vocabulary import Vocabulary

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def vocabulary_table(tokenizer: Any, size: int | None = None) -> pa.Table:
    """Rows of the catalog's table `vocabulary`: token, text, bytes. Special tokens have a text and no bytes.

    `size`: rows of the model's embedding, which may be more than the tokenizer knows; those are named `<unused N>`.
    """
    texts, pieces = token_bytes(tokenizer, size)
    shown = Vocabulary(texts, pieces)
    return pa.table({
        "token": pa.array(range(len(texts)), pa.uint32()),
        "text": [shown.text(token) for token in range(len(texts))],
        "bytes": pa.array(pieces, pa.binary()),
    })  # fmt: skip


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of all special tokens, those included that have no role of their own (turn marks of chat templates)."""
    declared = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    return frozenset(declared | set(tokenizer.all_special_ids))


def token_bytes(tokenizer: Any, size: int | None = None) -> tuple[list[str], list[bytes]]:
    """Text and bytes of every token id. Ids without a token get a name and no bytes."""
    known = tokenizer.get_vocab()
    count = max(size or 0, max(known.values(), default=-1) + 1)
    texts = [f"<unused {token}>" for token in range(count)]
    pieces = [b""] * count
    special = special_ids(tokenizer)
    literal = set(tokenizer.added_tokens_decoder) - _also_in_the_model(tokenizer)
    to_bytes = _scheme(tokenizer)
    for text, token in known.items():
        texts[token] = text
        if token not in special:
            pieces[token] = text.encode() if token in literal else to_bytes(text)
    return texts, pieces


def _also_in_the_model(tokenizer: Any) -> set[int]:
    """Added tokens that the model's own vocabulary has as well, in its own scheme: Gemma's runs of spaces, "▁▁"."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return set() if backend is None else set(backend.get_vocab(with_added_tokens=False).values())


def _scheme(tokenizer: Any) -> Callable[[str], bytes]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return _sentencepiece
    if "ByteLevel" in repr(backend.decoder) or "ByteLevel" in repr(backend.pre_tokenizer):
        return _byte_level
    return _wordpiece if type(backend.model).__name__ == "WordPiece" else _sentencepiece


def _byte_level(text: str) -> bytes:
    if all(char in _BYTE_OF for char in text):
        return bytes(_BYTE_OF[char] for char in text)
    return text.encode()


def _sentencepiece(text: str) -> bytes:
    match = _BYTE_PIECE.fullmatch(text)
    return bytes([int(match[1], 16)]) if match else text.replace("▁", " ").encode()


def _wordpiece(text: str) -> bytes:
    return text.removeprefix("##").encode() if text.startswith("##") else f" {text}".encode()


def _byte_table() -> dict[str, int]:
    """Inverse of GPT-2's table: printable Latin-1 bytes stand for themselves, the others for U+0100 and up, in order."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in plain}
    others = (byte for byte in range(256) if byte not in set(plain))
    return table | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTE_OF = _byte_table()
