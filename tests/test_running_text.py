"""Tokens written as running text and read back: worked by hand, and whatever they are."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.running_text import ALL_HABITS, CUT, JOIN, PLAIN, Habits, habits_of, read, written
from autointerp.vocabulary import Vocabulary, shown

INDENTS, SIGNS = Habits(indents=True), Habits(signs=True)


@pytest.mark.parametrize(
    ("tokens", "habits", "line"),
    [
        (["The", " cat", " sat", "."], PLAIN, "The cat sat."),
        (["un", "usual", " w", "ord"], PLAIN, "un¦usual w¦ord"),
        ([" of the", " end"], PLAIN, " of¬ the end"),
        (["e.g.", " 4th", "42", "7"], PLAIN, "e¬.¬g¬. 4¬th42¦7"),
        (["if", " x", ":", "\n", "   ", " y", "\n", "\n", "z"], PLAIN, "if x:\\n    y\\n¦\\nz"),
        (["\n    ", "if", "  ", "x", " y"], PLAIN, "\\n¬   ¬ ¦if ¬ ¦x y"),
        (["\n    ", "if", "  ", "x", " y", "\n\n", "z"], INDENTS, "\\n    if  x y\\n\\nz"),
        (["\n", "   ", " y"], INDENTS, "\\n¦   ¦ ¬y"),
        (["(self", ".x", "):\n", "((", "a", " (", "b"], SIGNS, "(self.x):\\n((a (b"),
        (["(", "self", ")", "\n"], SIGNS, "(¦self)¦\\n"),
        (["(self", "."], PLAIN, "(¬self."),
        (["\t", '"', "\\", "\r"], PLAIN, '\\t"¦\\\\\\r'),
        (["a¦b", "¬"], PLAIN, "a¬\\u00a6¬b\\u00ac"),
        (["<0xE2>", "<0x82>", "<0xAC>x"], PLAIN, "<0xE2><0x82><0xAC>¬x"),
        (["<|im", "_end", "|>"], PLAIN, "<|¬im_¬end|>"),
        (["</", "s", ">", " [", "INST", "]"], PLAIN, "\\u003c/s> \\u005bINST]"),
        (["<0x", "41>"], PLAIN, "<¬0¬x¦41¬>"),
        (["", " a", "", "", "b", ""], PLAIN, "¦ a¦¦¦b¦"),
    ],
)  # fmt: skip
def test_written_by_hand(tokens: list[str], habits: Habits, line: str) -> None:
    assert written(tokens, habits) == line
    assert read(line, habits) == tokens


_CHARACTERS = [
    *" \n\t\r'\"\\<>|_.0x41Eab9é中\u200b\u0301\u2028\U000e0041\U0001f600",
    CUT,
    JOIN,
    "<0x",
    "[INST]",
    "\\u00a6",
    "</s>",
]
_TEXTS = st.lists(st.sampled_from(_CHARACTERS), max_size=6).map("".join).map(lambda text: shown(text.encode()))


@settings(max_examples=600, deadline=None)
@given(st.lists(_TEXTS | st.binary(max_size=4).map(shown), min_size=1, max_size=7), st.sampled_from(ALL_HABITS))
def test_any_tokens_come_back(tokens: list[str], habits: Habits) -> None:
    line = written(tokens, habits)
    assert read(line, habits) == tokens
    assert line.isprintable()


def test_every_mark_in_a_line_is_ours() -> None:
    assert written([f"a{CUT}b", JOIN]).count(CUT) == 0  # the one between "b" and the other is expected
    assert written(["ab", "cd"]).count(CUT) == 1


def vocabulary(*texts: str) -> Vocabulary:
    return Vocabulary(texts, [text.encode() for text in texts])


def test_habits_show_in_the_vocabulary() -> None:
    words = [f" word{number}" for number in range(60)]
    assert habits_of(vocabulary(*words, "\n", "    ", "(a", "(self")) == PLAIN  # one of 64 is not enough
    assert habits_of(vocabulary(*words, "\n  ", "\n    ")) == INDENTS
    assert habits_of(vocabulary(*words, "(self", "_id")) == SIGNS
