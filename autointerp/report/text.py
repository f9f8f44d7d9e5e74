"""Untrusted text made safe to look at: nothing invisible, nothing that reverses what follows, no byte lost.

Labels, document names and tokens come from language models and from the web. Characters that a reader cannot see
(controls, zero-width and bidirectional marks, odd spaces, line separators) are written ⟨U+202E⟩; bytes that are no
character by themselves ⟨E2 82⟩. A genuine ⟨ is written ⟨U+27E8⟩, so that the display can be reversed. Escaping for HTML
is not done here: the template and the browser do it.
"""

import json
import unicodedata
from itertools import groupby
from typing import Any

_KEPT = frozenset(" \n\t\r")
_HIDDEN = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"})
EMPTY = "⟨⟩"
"""How a token without any bytes is shown."""


def visible(text: str) -> str:
    """`text` with every character that cannot be seen written as ⟨U+…⟩. Space, tab and line ends stay as they are."""
    return "".join(_visible_character(character) for character in text)


def visible_token(raw: bytes) -> str:
    """The display of a token's bytes. Different bytes have different displays."""
    if not raw:
        return EMPTY
    text = raw.decode("utf-8", "surrogateescape")
    runs = groupby(text, key=lambda character: "\udc80" <= character <= "\udcff")
    return "".join(_hexadecimal("".join(run)) if broken else visible("".join(run)) for broken, run in runs)


def _hexadecimal(pieces: str) -> str:
    return "⟨" + " ".join(f"{ord(piece) - 0xDC00:02X}" for piece in pieces) + "⟩"


def _visible_character(character: str) -> str:
    if character in _KEPT:
        return character
    if character in "⟨⟩" or unicodedata.category(character) in _HIDDEN:
        return f"⟨U+{ord(character):04X}⟩"
    return character


def script_json(value: Any) -> str:
    """Compact JSON that is safe inside a <script> element: pure ASCII, and no character that HTML gives a meaning.

    So neither `</script>` nor `<!--` can occur, nor the line separators U+2028 and U+2029. Raises ValueError for NaN.
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
