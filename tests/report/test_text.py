"""Untrusted text is made visible, reversibly, and JSON is safe inside a script element."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.report.text import EMPTY, script_json, visible, visible_token


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("def f():\n\treturn", "def f():\n\treturn"),
        ("\u202eevil\u202c", "⟨U+202E⟩evil⟨U+202C⟩"),  # bidirectional override
        ("a\x00b\x1b", "a⟨U+0000⟩b⟨U+001B⟩"),
        ("\u200b\u2028\u00a0", "⟨U+200B⟩⟨U+2028⟩⟨U+00A0⟩"),
        ("\U000e0041", "⟨U+E0041⟩"),  # tag characters are invisible
        ("a⟨b⟩", "a⟨U+27E8⟩b⟨U+27E9⟩"),
        ("日本 é", "日本 é"),
    ],
)
def test_characters_that_cannot_be_seen_are_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b" the", " the"),
        ("€".encode(), "€"),
        (b"\xe2\x82", "⟨E2 82⟩"),
        (b"\xac", "⟨AC⟩"),
        (b"a\xffb\xfe", "a⟨FF⟩b⟨FE⟩"),
        ("⟨E2 82⟩".encode(), "⟨U+27E8⟩E2 82⟨U+27E9⟩"),  # genuine text is not mistaken for bytes
        (b"", EMPTY),
    ],
)
def test_bytes_that_are_no_character_are_hexadecimal(raw: bytes, shown: str) -> None:
    assert visible_token(raw) == shown


def _bytes_of(display: str) -> bytes:
    """The inverse of `visible_token`, to show that nothing is lost."""
    if display == EMPTY:
        return b""
    raw = b""
    for part in re.split(r"(⟨[^⟩]*⟩)", display):
        if part.startswith("⟨U+"):
            raw += chr(int(part[3:-1], 16)).encode()
        elif part.startswith("⟨"):
            raw += bytes.fromhex(part[1:-1])
        else:
            raw += part.encode()
    return raw


@given(st.binary(max_size=12) | st.text(max_size=8).map(lambda text: text.encode("utf-8", "replace")))
def test_every_token_can_be_recovered_from_its_display(raw: bytes) -> None:
    assert _bytes_of(visible_token(raw)) == raw


@given(st.text())
def test_json_for_a_script_is_ascii_without_markup_and_means_the_same(text: str) -> None:
    found = script_json({text: [text]})
    assert found.isascii()
    assert not set(found) & set("<>&")
    assert json.loads(found) == {text: [text]}


def test_json_refuses_what_json_has_no_word_for() -> None:
    with pytest.raises(ValueError, match="JSON"):
        script_json([float("nan")])
