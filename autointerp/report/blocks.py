"""The blocks of the report's data, and the dictionary of tokens, documents and windows that they share."""

import base64
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from autointerp.catalog.page_rows import Token, Window
from autointerp.report.text import visible, visible_token

DETAIL_BLOCK = 32
WINDOW_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Block:
    """`data`: base64 of zlib of JSON. `name` is the id of the element that holds it."""

    name: str
    data: str


def block(name: str, value: Any) -> Block:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Block(name, base64.b64encode(zlib.compress(text.encode(), 9)).decode("ascii"))


@dataclass(slots=True)
class Dictionary:
    """Numbers tokens, documents and windows in the order of their first use, and cuts the windows into blocks."""

    tokens: dict[int, int] = field(default_factory=dict)
    documents: dict[str, int] = field(default_factory=dict)
    windows: dict[int, int] = field(default_factory=dict)
    _waiting: list[Window] = field(default_factory=list)

    def token(self, token: int) -> int:
        return self.tokens.setdefault(token, len(self.tokens))

    def add_windows(self, windows: Iterable[Window]) -> None:
        for window in windows:
            if window.window_id not in self.windows:
                self.windows[window.window_id] = len(self.windows)
                self._waiting.append(window)

    def window_blocks(self, *, last: bool = False) -> Iterator[Block]:
        """The blocks that are full by now; with `last` the rest too."""
        while len(self._waiting) >= WINDOW_BLOCK or (last and self._waiting):
            held, self._waiting = self._waiting[:WINDOW_BLOCK], self._waiting[WINDOW_BLOCK:]
            number = self.windows[held[0].window_id] // WINDOW_BLOCK
            yield block(
                f"windows-{number}",
                {
                    "documents": [self.documents.setdefault(w.doc_id, len(self.documents)) for w in held],
                    "starts": [w.start for w in held],
                    "tokens": [[self.token(token) for token in w.tokens] for w in held],
                },
            )

    def block(self, known: Mapping[int, Token]) -> Block:
        """The dictionary itself: displays and ids of the tokens, names of the documents."""
        return block(
            "dictionary",
            {
                "tokens": [token_display(token, known) for token in self.tokens],
                "ids": list(self.tokens),
                "documents": [visible(name) for name in self.documents],
            },
        )


def token_display(token: int, known: Mapping[int, Token]) -> str:
    """A token for people: its bytes, else its text (special tokens have no bytes), else its number."""
    found = known.get(token)
    if found is None:
        return f"⟨token {token}⟩"
    return visible_token(found.bytes or found.text.encode())
