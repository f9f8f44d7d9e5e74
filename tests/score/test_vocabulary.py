import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from autointerp.errors import DataError
from autointerp.vocabulary import Vocabulary, escape, shown, unshown

HOSTILE = st.one_of(
    st.binary(), st.text(alphabet='<>0x3CE2\\"\n\u202e\U000e0041[INST]/|_s\u00a0', max_size=30).map(str.encode)
)


@given(HOSTILE)
@example(b"<0xE2>")
@example(b"<0x3C>0xE2>")
@example(b"<0x<0xE2>\xe2\x82")
@example(b"\xed\xa0\x80")  # a surrogate in UTF-8's clothes
def test_shown_and_escaped_give_the_bytes_back(raw: bytes) -> None:
    vocabulary = Vocabulary([""], [raw])
    assert unshown(shown(raw)) == raw
    assert unshown(json.loads(f'"{vocabulary.escaped(0)}"')) == raw


@given(st.text())
def test_escape_is_the_inside_of_a_json_string_of_one_visible_line(text: str) -> None:
    assert json.loads(f'"{escape(text)}"') == text
    assert escape(text).isprintable()


def test_byte_pieces_are_shown_reversibly_and_joined_into_characters() -> None:
    euro = "€".encode()  # E2 82 AC, as two tokens
    vocabulary = Vocabulary(["�", "�", "a"], [euro[:2], euro[2:], b"a"])
    assert [vocabulary.text(token) for token in range(3)] == ["<0xE2><0x82>", "<0xAC>", "a"]
    assert vocabulary.join([2, 0, 1, 2]) == "a€a"
    assert vocabulary.join([2, 1, 0]) == "a<0xAC><0xE2><0x82>"


def test_text_that_looks_like_a_byte_piece_is_told_apart() -> None:
    vocabulary = Vocabulary(["", ""], [b"<0xE2>", b"\xe2"])
    assert vocabulary.text(0) == "<0x3C>0xE2>"
    assert vocabulary.text(1) == "<0xE2>"


def test_tokens_without_bytes_are_shown_by_their_text() -> None:
    vocabulary = Vocabulary(["<|endoftext|>", "Ġthe"], [b"", b" the"])
    assert vocabulary.text(0) == "<|endoftext|>"
    assert vocabulary.text(1) == " the"
    assert vocabulary.join([1, 0]) == " the<|endoftext|>"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("\n", "\\n"),
        ("\t\r", "\\t\\r"),
        ('say "no"', 'say \\"no\\"'),
        ("C:\\temp", "C:\\\\temp"),
        ("\u200b\u202e", "\\u200b\\u202e"),
        ("\u00a0", "\\u00a0"),
        ("\U000e0041", "\\udb40\\udc41"),
        ("<|im_end|>", "\\u003c|im_end|>"),
        ("<｜User｜>", "\\u003c｜User｜>"),
        ("</s>", "\\u003c/s>"),
        ("[INST] [/INST]", "\\u005bINST] \\u005b/INST]"),
        ("a < b > c", "a < b > c"),
        ("x[0], [a]", "x[0], [a]"),
        ("é €", "é €"),
    ],
)
def test_escapes(text: str, escaped: str) -> None:
    assert escape(text) == escaped


def test_unknown_tokens_and_unequal_lists_are_refused() -> None:
    vocabulary = Vocabulary(["a"], [b"a"])
    for token in (-1, 1):
        with pytest.raises(DataError, match="vocabulary of 1"):
            vocabulary.text(token)
    with pytest.raises(ValueError, match="2 texts and 1 byte"):
        Vocabulary(["a", "b"], [b"a"])
    assert len(vocabulary) == 1
