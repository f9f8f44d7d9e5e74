"""Tokens as running text in which their boundaries can still be seen: one line, little longer than the text.

A boundary that is to be expected is not shown: a token begins at every word, number, run of other signs and line break; the
space before it belongs to it, and what other white space there is stands by itself. Tokenizers have two `Habits` beyond that,
which show in their vocabularies. Two marks show what is otherwise:

    CUT   a token ends here, although none was expected to: `un¦usual` is the two tokens "un" and "usual"
    JOIN  none ends here, although one was expected to: ` of¬ the` is one token

The rest is written as `vocabulary.escape` writes it, but for quotes, which stay as they are. A mark that is part of the text is
written as its JSON escape, so every mark in a line is ours. `read` gives the tokens back, whatever they are. Tokens of
o200k_base for a token of text: 1.0 (stories) to 1.3 (source code) with current models' tokenizers.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from autointerp.vocabulary import Vocabulary, escape

CUT, JOIN = "¦", "¬"

_WHITE = ("space", "break")
_RUNS = ("letter", "digit", "sign")
_BYTE = "<0x[0-9A-F]{2}>"  # how `vocabulary.shown` writes a byte that is no character
_PIECE = re.compile(_BYTE)
_UNIT = re.compile(f"{_BYTE}|.", re.DOTALL)
_PAIR = r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}"  # how JSON escapes a character beyond the first 65,536
_INDENT = re.compile(r"\n {2,}")
_SIGN_AND_WORD = re.compile(r"[^\w\s][A-Za-z]{2,}|_[A-Za-z]{2,}")
_MANY = 0.02
_WRITTEN = re.compile(rf"{_PAIR}|\\u[0-9a-f]{{4}}|\\.|{_BYTE}|.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Habits:
    """What a tokenizer takes together.

    `indents`: white space of two characters and more is one token, say a line break with the indentation after it. `signs`: a
    single sign goes with the word after it (`(self`, `.com`), and line breaks go with the signs before them, as in the
    tokenizers of GPT-4, Llama 3, Qwen and others.
    """

    indents: bool = False
    signs: bool = False


ALL_HABITS = tuple(Habits(indents, signs) for indents in (False, True) for signs in (False, True))
PLAIN = ALL_HABITS[0]


@lru_cache(maxsize=4)
def habits_of(vocabulary: Vocabulary) -> Habits:
    """Those that its tokens show: it has tokens of a line break and spaces; one of 50 is a sign with the word after it."""
    texts = [vocabulary.text(token) for token in range(len(vocabulary))]
    indents = sum(bool(_INDENT.fullmatch(text)) for text in texts)
    return Habits(indents >= 2, sum(bool(_SIGN_AND_WORD.fullmatch(text)) for text in texts) >= _MANY * len(texts))


def written(tokens: Sequence[str], habits: Habits = PLAIN) -> str:
    """The line of tokens' display texts (see `vocabulary.shown`). An empty token lies between two CUTs or ends of the line."""
    return _line(tuple(tokens), habits)


@lru_cache(maxsize=4096)  # the same texts are asked about again and again: by each scorer, for a label and its controls
def _line(tokens: tuple[str, ...], habits: Habits) -> str:
    split = [_UNIT.findall(token) for token in tokens]
    units = [unit for token in split for unit in token]
    line: list[str] = []
    plain: list[str] = []  # what has come since the last mark
    seen = (
        _is_seen if "<0x" in "".join(tokens) else _begins
    )  # what could be read as a byte is rare, and costs time to look for
    at = 0
    for number, token in enumerate(split):
        if number and (not token or not split[number - 1] or not seen(units, at, habits)):
            line += [_escaped(plain), CUT]
            plain = []
        for place, unit in enumerate(token):
            if place and _begins(units, at, habits):
                line += [_escaped(plain), JOIN]
                plain = []
            plain.append(unit)
            at += 1
    return "".join([*line, _escaped(plain)])


def read(line: str, habits: Habits = PLAIN) -> list[str]:
    """The tokens of which `written` made `line`, with the same habits."""
    return _read(line, (habits,))[0]


def readings(line: str) -> list[list[str]]:
    """The tokens of a line with each of `ALL_HABITS`, for who does not know the tokenizer's."""
    return _read(line, ALL_HABITS)


def _read(line: str, all_habits: Sequence[Habits]) -> list[list[str]]:
    units: list[str] = []
    marks: dict[int, str] = {}  # those before the unit of that number, in their order
    for found in _WRITTEN.findall(line):
        if found in (CUT, JOIN):
            marks[len(units)] = marks.get(len(units), "") + found
        else:
            units.append(json.loads(f'"{found}"') if found.startswith("\\") else found)
    sorts = list(map(_sort, units))
    # Between two letters, digits or signs no token begins, whatever the habits: most places need no look.
    open_ = {at for at in range(1, len(units)) if sorts[at] != sorts[at - 1] or sorts[at] not in _RUNS}
    places = sorted(open_ | marks.keys())
    return [_tokens(units, marks, places, habits) for habits in all_habits]


def _tokens(units: Sequence[str], marks: Mapping[int, str], places: Sequence[int], habits: Habits) -> list[str]:
    """Of a line's units the tokens, which end at `places` only."""
    tokens, start = [""], 0
    for at in places:
        mark = marks.get(at, "")
        ends = mark.count(CUT) if mark else int(_begins(units, at, habits))
        if ends:
            tokens[-1] = "".join(units[start:at])
            tokens += [""] * ends
            start = at
    tokens[-1] = "".join(units[start:])
    return tokens


def _is_seen(units: Sequence[str], at: int, habits: Habits) -> bool:
    """Whether a boundary before unit `at` needs no mark: it is expected, and no byte would be read across it."""
    around = "".join(units[max(0, at - 5) : at + 5])
    here = len("".join(units[max(0, at - 5) : at]))
    return _begins(units, at, habits) and not any(byte.start() < here < byte.end() for byte in _PIECE.finditer(around))


def _begins(units: Sequence[str], at: int, habits: Habits) -> bool:
    """Whether a token is to be expected to begin at unit `at`, which is not the first."""
    before, here = _sort(units[at - 1]), _sort(units[at])
    if "byte" in (before, here):
        return True
    if before in _WHITE or here in _WHITE:
        return _begins_at_white(units, at, habits)
    if habits.signs and (before, here) == (
        "sign",
        "letter",
    ):  # the sign is alone: neither another nor a space before it
        return at > 1 and (units[at - 2] == " " or _sort(units[at - 2]) == "sign")
    return here != before


def _begins_at_white(units: Sequence[str], at: int, habits: Habits) -> bool:
    before, here = _sort(units[at - 1]), _sort(units[at])
    if here not in _WHITE:
        alone = at < 2 or _sort(units[at - 2]) not in _WHITE
        return units[at - 1] != " " or (habits.indents and not alone)
    if before not in _WHITE:
        return not (habits.signs and (before, here) == ("sign", "break"))
    if habits.indents:
        return False
    if units[at] == " " and at + 1 < len(units) and _sort(units[at + 1]) not in _WHITE:
        return True
    return here != before


@lru_cache(maxsize=65536)
def _sort(unit: str) -> str:
    if len(unit) > 1:
        return "byte"
    if unit in "\n\r":
        return "break"
    if unit.isspace():
        return "space"
    category = unicodedata.category(unit)[0]
    return {"L": "letter", "M": "letter", "N": "digit"}.get(category, "sign")


def _escaped(units: Sequence[str]) -> str:
    """Plain text for a line. Quotes are left: a line is no JSON string, and code is full of them."""
    text = '"'.join(escape(part) for part in "".join(units).split('"'))
    return text.replace(CUT, r"\u00a6").replace(JOIN, r"\u00ac")
