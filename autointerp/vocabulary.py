"""From token ids to what people and prompts are shown. Pure: it knows nothing of tokenizers.

Two forms, both reversible:
- *shown*: the token's bytes as UTF-8. Bytes that are no character by themselves (the pieces of a byte-fallback or
  byte-level vocabulary) are written `<0xE2>`; genuine text that looks like that has its `<` written `<0x3C>`.
- *escaped*: the shown form as the inside of a JSON string. Newlines, tabs and quotes are escaped as JSON does it, and
  so is all that a reader cannot see (zero-width and bidirectional marks, tag characters, odd spaces). The opening
  bracket of what a chat template could take for a control token (`<|im_end|>`, `</s>`, `[INST]`) is written as its
  JSON escape, `\\u003c` or `\\u005b`.
"""

import json
import re
from collections.abc import Iterable, Sequence

from autointerp.errors import DataError

_LOOKALIKE = re.compile(r"<(?=0x[0-9A-F]{2}>)")
_PIECE = re.compile("[\udc80-\udcff]")
_SHOWN_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
_CONTROL_TOKEN = re.compile(r"<(?!0x[0-9A-F]{2}>)(?=[^\s<>]{1,64}>)|\[(?=/?[A-Z_]{2,32}\])")


def shown(raw: bytes) -> str:
    """The display text of bytes. `unshown` gives the bytes back, whatever they are."""
    text = raw.decode("utf-8", "surrogateescape")
    text = _LOOKALIKE.sub("<0x3C>", text)
    return _PIECE.sub(lambda piece: f"<0x{ord(piece[0]) - 0xDC00:02X}>", text)


def unshown(text: str) -> bytes:
    """The bytes that `shown` made `text` of."""

    def piece(match: re.Match[str]) -> str:
        byte = int(match[1], 16)
        return chr(byte if byte < 0x80 else 0xDC00 + byte)

    return _SHOWN_PIECE.sub(piece, text).encode("utf-8", "surrogateescape")


def escape(text: str) -> str:
    """`text` as the inside of a JSON string: `json.loads('"' + escape(text) + '"') == text`."""
    escaped = "".join(char if char.isprintable() and char not in '"\\' else json.dumps(char)[1:-1] for char in text)
    return _CONTROL_TOKEN.sub(lambda bracket: f"\\u{ord(bracket[0]):04x}", escaped)


class Vocabulary:
    """Display text and bytes of every token id.

    `texts[i]` serves for tokens that have no bytes (special tokens); all others are shown by their bytes, so that the
    display is exact and can be reversed. Raises ValueError if the two lists differ in length.
    """

    def __init__(self, texts: Sequence[str], pieces: Sequence[bytes]) -> None:
        if len(texts) != len(pieces):
            raise ValueError(f"a vocabulary of {len(texts)} texts and {len(pieces)} byte strings")
        self._texts = texts
        self._pieces = pieces
        self._shown: dict[int, str] = {}
        self._escaped: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def raw(self, token: int) -> bytes:
        """The token's bytes; of a token without bytes those of its text. Raises DataError for an unknown id."""
        if not 0 <= token < len(self._texts):
            known = len(self._texts)
            raise DataError(f"token {token} of a vocabulary of {known}: it must cover every row of the embedding")
        return self._pieces[token] or self._texts[token].encode("utf-8", "surrogateescape")

    def text(self, token: int) -> str:
        """The token as people see it. Newlines and spaces are themselves."""
        known = self._shown.get(token)
        if known is None:
            known = self._shown[token] = shown(self.raw(token))
        return known

    def join(self, tokens: Iterable[int]) -> str:
        """The text of a run of tokens. Byte pieces that form a character together are shown as that character."""
        return shown(b"".join(self.raw(int(token)) for token in tokens))

    def escaped(self, token: int) -> str:
        """The token for a prompt: the inside of a JSON string, on one line, nothing invisible."""
        token = int(token)
        if token not in self._escaped:
            self._escaped[token] = escape(self.text(token))
        return self._escaped[token]
