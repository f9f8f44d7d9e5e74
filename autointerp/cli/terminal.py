"""What comes from corpora and models, on its way to a terminal: no control character, no escape sequence, nothing invisible."""

import json
from typing import Any


def one_line(text: str) -> str:
    """`text` as one harmless line: line ends as ↵, tabs as →, every other character that cannot be seen as ⟨U+…⟩."""
    from autointerp.report.text import visible  # 0.1 s, which `--help` need not wait for

    return visible(text.replace("\r\n", "\n").replace("\n", "↵").replace("\t", "→").replace("\r", "↵"))


def json_line(value: Any) -> str:
    """`value` as JSON on one line. Every character that cannot be seen is escaped, as JSON allows within a string.

    What JSON does not know is written as text. A string gives its quoted form, which shows spaces at either end.
    """
    text = json.dumps(value, default=_plain, ensure_ascii=False)
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def _plain(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
