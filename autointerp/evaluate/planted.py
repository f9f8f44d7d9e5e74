"""Planted features: true labels, plausible false ones, and sentences in which the truth is marked or given by a rule.

They are TOML files, one a family, in data/planted/. A line of `positive`, `near` (near misses) or `negative` is a
sentence; ⏎ in it stands for a line break. Marks ⟦word⟧ or ⟦word|4⟧ say where the feature is active, and at which level of
1..10 (10 where none is said). A feature with a `rule` gets its activations from the rule, and its marks must agree.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from autointerp.catalog.records import Label
from autointerp.errors import DataError
from autointerp.evaluate.words import Piece, split
from autointerp.resources import packaged

Family = Literal[
    "lexical", "phrase", "contextual", "syntactic", "positional", "numeric", "negated", "cross-lingual", "disjunctive",
    "code", "format",
]  # fmt: skip
FAMILIES: tuple[Family, ...] = get_args(Family)
Role = Literal["positive", "near", "negative"]
ROLES: tuple[Role, ...] = get_args(Role)
Falsehood = Literal["broad", "narrow", "neighbour"]
FALSEHOODS: tuple[Falsehood, ...] = get_args(Falsehood)

MAX_LEVEL = 10
MIN_SENTENCES, MIN_POSITIVE, MIN_NEAR, MIN_SILENT = 20, 6, 4, 6

_MARK = re.compile(r"⟦([^⟦⟧|]+)(?:\|(\d+))?⟧")
Levels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Mark:
    """Characters begin..end of a sentence's text; `level` None where the mark says none."""

    begin: int
    end: int
    level: int | None


@dataclass(frozen=True, slots=True)
class Sentence:
    """`text` without its marks."""

    role: Role
    text: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class PlantedFeature:
    """`number` is its place in the suite, from 0. `false_labels`: too broad, too narrow, a confounded neighbour."""

    number: int
    id: str
    family: Family
    label: Label
    false_labels: Mapping[Falsehood, Label]
    rule: "tuple[Clause, ...]"
    sentences: tuple[Sentence, ...]

    def levels(self, sentence: Sentence) -> Levels:
        """The true activation, 0..10, at every token of a sentence [T]: by the rule where there is one, else as marked."""
        return ruled(self.rule, sentence.text) if self.rule else marked(sentence)


def _pattern(text: str) -> str:
    """A pattern has one group, what is active; or none; or two where the second is named `at`."""
    try:
        expression = re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    if expression.groups > 1 + ("at" in expression.groupindex):
        raise ValueError("a pattern may have one group, what is active, and for a number another named at")
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Clause(_Strict):
    """One way of being active, at `level`; where several clauses apply the highest level counts.

    Of three sorts. `pattern`: the group of a regular expression, or all it matches. `number`: the first group, or the one
    named `at`, if the number that the first holds lies within low..high. `first`..`last`: tokens by their number from 0, `last`
    None to the end.
    `begins`: the clause applies only to texts whose start this expression matches.
    """

    pattern: Pattern | None = None
    number: Pattern | None = None
    low: float | None = None
    high: float | None = None
    first: int | None = Field(default=None, ge=0)
    last: int | None = None
    begins: str | None = None
    level: int = Field(default=MAX_LEVEL, ge=1, le=MAX_LEVEL)

    @model_validator(mode="after")
    def _one_sort(self) -> "Clause":
        if [self.pattern, self.number, self.first].count(None) != 2:
            raise ValueError("a clause has one of pattern, number, first")
        if (self.number is None) != (self.low is None) or (self.low is None) != (self.high is None):
            raise ValueError("a clause of number, and no other, has low and high")
        return self

    def spans(self, text: str, pieces: Sequence[Piece]) -> Iterator[tuple[int, int]]:
        """Where the clause is active: begin and end among the characters of `text`."""
        if self.begins is not None and not re.match(self.begins, text):
            return
        if self.first is not None:
            chosen = pieces[self.first : None if self.last is None else self.last + 1]
            yield from ((piece.begin, piece.end) for piece in chosen)
            return
        expression = re.compile(self.pattern or self.number or "")
        for found in expression.finditer(text):
            if self.low is None or self.high is None or self.low <= float(found[1]) <= self.high:
                yield found.span(expression.groups)  # the last group; the whole match where there is none


class _LabelData(_Strict):
    title: str = Field(min_length=1)
    description: str = Field(min_length=1)

    def label(self) -> Label:
        return Label(self.title, self.description)


class _FeatureData(_LabelData):
    id: str = Field(pattern=r"^[a-z-]+$")
    broad: _LabelData
    narrow: _LabelData
    neighbour: _LabelData
    rule: tuple[Clause, ...] = ()
    positive: str
    near: str
    negative: str


class _FamilyData(_Strict):
    family: Family
    feature: tuple[_FeatureData, ...] = Field(min_length=1)


def load_suite(folder: Path | None = None) -> tuple[PlantedFeature, ...]:
    """The planted features of a folder of TOML files, by default the packaged ones, in the order of families.

    Raises DataError, with the file and the feature, for what is not as the module says: too few sentences, marks outside of
    positives, marks that disagree with the rule, a sentence or an id that stands there twice.
    """
    folder = folder or packaged("data") / "planted"
    files = sorted(folder.glob("*.toml"))
    if not files:
        raise DataError(f"{folder}: no planted features here; expected files such as lexical.toml")
    families = sorted(((_read(path), path) for path in files), key=lambda one: FAMILIES.index(one[0].family))
    found = [(data, family.family, path) for family, path in families for data in family.feature]
    suite = [_feature(number, data, family, path) for number, (data, family, path) in enumerate(found)]
    _check_unique(folder, [feature.id for feature in suite], "feature")
    _check_unique(folder, [sentence.text for feature in suite for sentence in feature.sentences], "sentence")
    return tuple(suite)


def _read(path: Path) -> _FamilyData:
    try:
        return _FamilyData.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _feature(number: int, data: _FeatureData, family: Family, path: Path) -> PlantedFeature:
    try:
        lines: dict[Role, str] = {"positive": data.positive, "near": data.near, "negative": data.negative}
        sentences = tuple(
            parse_sentence(role, line) for role in ROLES for line in lines[role].split("\n") if line.strip()
        )
        false: dict[Falsehood, Label] = {
            "broad": data.broad.label(), "narrow": data.narrow.label(), "neighbour": data.neighbour.label(),
        }  # fmt: skip
        feature = PlantedFeature(number, data.id, family, data.label(), false, data.rule, sentences)
        check(feature)
    except ValueError as error:
        raise DataError(f"{path}: feature {data.id}: {error}") from None
    return feature


def parse_sentence(role: Role, line: str) -> Sentence:
    """A line of a file: its marks taken out, its line breaks put in. Raises ValueError for a mark that is not whole."""
    text, marks, place = "", [], 0
    for found in _MARK.finditer(line):
        text += line[place : found.start()]
        level = int(found[2]) if found[2] else None
        if level is not None and not 1 <= level <= MAX_LEVEL:
            raise ValueError(f"level {level} in {line!r}; expected 1..{MAX_LEVEL}")
        marks.append(Mark(len(text), len(text) + len(found[1]), level))
        text += found[1]
        place = found.end()
    text += line[place:]
    if "⟦" in text or "⟧" in text:
        raise ValueError(f"a mark that is not whole in {line!r}")
    return Sentence(role, text.replace("⏎", "\n"), tuple(marks))


def ruled(rule: Sequence[Clause], text: str) -> Levels:
    """The activation at every token of `text` [T] by a rule."""
    pieces = split(text)
    return _painted(pieces, [(*span, clause.level) for clause in rule for span in clause.spans(text, pieces)])


def marked(sentence: Sentence) -> Levels:
    """The activation at every token of a sentence [T] by its marks."""
    return _painted(split(sentence.text), [(m.begin, m.end, m.level or MAX_LEVEL) for m in sentence.marks])


def _painted(pieces: Sequence[Piece], spans: Sequence[tuple[int, int, int]]) -> Levels:
    return np.array([
        max((level for begin, end, level in spans if begin < piece.end and end > piece.begin), default=0)
        for piece in pieces
    ])  # fmt: skip


def check(feature: PlantedFeature) -> None:
    """Raises ValueError for a feature that is not as the suite promises."""
    n = {role: sum(sentence.role == role for sentence in feature.sentences) for role in ROLES}
    for what, count, least in (
        ("sentences", len(feature.sentences), MIN_SENTENCES), ("positives", n["positive"], MIN_POSITIVE),
        ("near misses", n["near"], MIN_NEAR), ("sentences without activation", n["near"] + n["negative"], MIN_SILENT),
    ):  # fmt: skip
        if count < least:
            raise ValueError(f"{count} {what}; expected {least} or more")
    for sentence in feature.sentences:
        _check_sentence(feature, sentence)
    if max(int(feature.levels(sentence).max()) for sentence in feature.sentences) != MAX_LEVEL:
        raise ValueError(f"no sentence reaches level {MAX_LEVEL}")


def _check_sentence(feature: PlantedFeature, sentence: Sentence) -> None:
    by_mark, found = marked(sentence), feature.levels(sentence)
    if by_mark.any() != (sentence.role == "positive"):
        raise ValueError(f"{sentence.role} with {len(sentence.marks)} marks: {sentence.text!r}")
    said = all(mark.level is not None for mark in sentence.marks)
    if ((found if said else found > 0) != (by_mark if said else by_mark > 0)).any():
        raise ValueError(f"rule {found.tolist()} and marks {by_mark.tolist()} disagree: {sentence.text!r}")


def _check_unique(folder: Path, items: Sequence[str], what: str) -> None:
    twice = sorted({item for item in items if items.count(item) > 1})
    if twice:
        raise DataError(f"{folder}: {len(twice)} times the same {what} twice, for instance {twice[0]!r}")
