"""From what a model wrote to a checked record, or a typed failure. Tolerant of form, strict about content.

Models wrap JSON in prose and code fences, use single or typographic quotes, leave commas behind or quotes unescaped.
All of that is read. What does not fit the pydantic model after that is a failure of kind `malformed`, never a guess.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from autointerp.llm.types import Answer, FailureKind, RequestFailed

Record = TypeVar("Record", bound=BaseModel)

_MAX_CHARS = 200_000
# Work on one text, a tenth or two of a second: of characters read in strings, of looks at what comes next, and of beginnings.
# An answer of ten thousand values takes less than half of it; hostile ones, where every brace could begin an object, any amount.
_MOST_WORK = 3_000_000
_LOOK, _BEGINNING = 30, 500  # what these cost, in characters
_MAX_DEPTH = 32

_SPACE = re.compile(r"\s*")
_NUMBER = re.compile(r"-?\d{1,18}(?:\.\d{1,18})?(?:[eE][+-]?\d{1,3})?(?![\w.])")
_WORD = re.compile(r"[A-Za-z_]\w*")
_LITERALS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
# A quote closes a string only where a string can end: before , : } ] or the end. So quotes left unescaped are read.
_STRING_ENDS = {
    quote: re.compile(rf"(?<!\\)((?:\\\\)*)[{closing}](?=\s*(?:[,:}}\]]|\Z))")
    for quote, closing in {'"': '"', "'": "'", "“": '”“"', "‘": "’‘'"}.items()
}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)


def parse_answer(answer: Answer, model: type[Record]) -> Record:
    """The record in a delivered answer. Raises RequestFailed: truncated, refused or malformed."""
    if answer.finish == "length":
        raise RequestFailed(FailureKind.TRUNCATED, "the answer reached the limit of tokens")
    if answer.finish == "refusal":
        raise RequestFailed(FailureKind.REFUSED, "the model refused")
    return parse_json(answer.text, model)


def can_parse(text: str, model: type[BaseModel]) -> bool:
    """Whether `parse_json` finds a record."""
    try:
        parse_json(text, model)
    except RequestFailed:
        return False
    return True


def parse_json(text: str, model: type[Record]) -> Record:
    """The last JSON object in `text` that fits `model`: models think first and answer last.

    Raises RequestFailed of kind MALFORMED, with what was wrong with the last object, and nothing else.
    """
    problem = "no JSON object in the answer"
    record: Record | None = None
    try:
        for found in _objects(text):
            try:
                record = model.model_validate(found)
            except ValidationError as error:
                problem = _first_problem(error)
    except _TangledError:  # the last object, which counts, was not reached
        record, problem = None, "too tangled to be read: braces and quotes that nothing closes"
    if record is None:
        raise RequestFailed(FailureKind.MALFORMED, problem)
    return record


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the object"
    return f"{where}: {first['msg']} (found {repr(first['input'])[:80]})"


def _objects(text: str) -> Iterator[Any]:
    """The top-level JSON objects in a text, in their order. Raises _TangledError where looking for them takes too long."""
    try:
        whole = json.loads(text)
        json.dumps(whole, ensure_ascii=False).encode()  # half a character, escaped, is JSON but no text
    except (ValueError, RecursionError):
        whole = None  # not plain JSON: look for objects in it
    if isinstance(whole, dict):
        yield whole
        return
    reader = _Reader(text[:_MAX_CHARS])
    begin = 0
    while (begin := reader.text.find("{", begin)) >= 0:
        reader.position = begin
        reader.spend(_BEGINNING)
        try:
            yield reader.value(0)
            begin = reader.position
        except _NotJsonError:
            begin += 1


class _NotJsonError(Exception):
    pass


class _TangledError(Exception):
    pass


class _Reader:
    """Reads values of lenient JSON, each from `position` on."""

    def __init__(self, text: str) -> None:
        self.text, self.position, self._left = text, 0, _MOST_WORK
        self._closing: dict[str, tuple[int, int]] = {}  # of each quote the last search: from where, and what it found

    def spend(self, work: int) -> None:
        """Raises _TangledError once there has been too much of it, over all beginnings."""
        self._left -= work
        if self._left < 0:
            raise _TangledError

    def value(self, depth: int) -> Any:
        char = self._peek()
        if depth > _MAX_DEPTH:
            raise _NotJsonError
        if char == "{":
            return self._object(depth + 1)
        if char == "[":
            return self._array(depth + 1)
        if char in _STRING_ENDS:
            return self._string(char)
        if (number := _NUMBER.match(self.text, self.position)) is not None:
            self.position = number.end()
            return float(number[0]) if set(number[0]) & set(".eE") else int(number[0])
        word = self._word()
        return _LITERALS[word] if word in _LITERALS else self._fail()

    def _object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self.position += 1
        while (char := self._peek()) != "}":
            key = self._string(char) if char in _STRING_ENDS else self._word()
            self._expect(":")
            found[key] = self.value(depth)
            self._comma_before("}")
        self.position += 1
        return found

    def _array(self, depth: int) -> list[Any]:
        found: list[Any] = []
        self.position += 1
        while self._peek() != "]":
            found.append(self.value(depth))
            self._comma_before("]")
        self.position += 1
        return found

    def _string(self, quote: str) -> str:
        start = self.position + 1
        searched, end = self._closing.get(quote, (0, -1))
        if not searched <= start <= end:
            found = _STRING_ENDS[quote].search(self.text, start)
            end = found.end() - 1 if found else len(self.text)
            self._closing[quote] = (start, end)
            self.spend(end - start)
        if end == len(self.text):
            return self._fail()
        self.position = end + 1
        self.spend(end - start)
        text = _ESCAPE.sub(_unescaped, self.text[start:end])
        try:  # joins the halves of characters that were escaped in two
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError:
            return self._fail()

    def _word(self) -> str:
        word = _WORD.match(self.text, self.position)
        if word is None:
            return self._fail()
        self.position = word.end()
        self.spend(len(word[0]))
        return word[0]

    def _peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        begin, space = self.position, _SPACE.match(self.text, self.position)
        self.position = space.end() if space else begin
        self.spend(_LOOK + self.position - begin)
        return self.text[self.position : self.position + 1]

    def _expect(self, char: str) -> None:
        if self._peek() != char:
            self._fail()
        self.position += 1

    def _comma_before(self, closing: str) -> None:
        if self._peek() != closing:
            self._expect(",")

    def _fail(self) -> NoReturn:
        raise _NotJsonError


def _unescaped(escape: re.Match[str]) -> str:
    """The character of an escape; of one that JSON does not know (a pattern's `\\d`) the backslash and what follows."""
    found = escape[1]
    if len(found) > 1:
        return chr(int(found[1:], 16))
    return _ESCAPES.get(found, found if found in "\"'\\/“”‘’" else escape[0])
