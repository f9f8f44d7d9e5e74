"""The controls at the head of the report: a line each for the metric that ranks, and warnings of all gates that failed."""

from collections.abc import Sequence
from dataclasses import dataclass

from autointerp.catalog.controls import ControlRow

_WORDS = {
    "shuffled": "another feature's label",
    "over_shuffled": "own label minus another feature's",
    "generic": "one sentence for all features",
    "over_generic": "own label minus that sentence",
    "empty": "no label",
    "over_empty": "own label minus no label",
    "permuted_across": "answers permuted across texts",
    "permuted_within": "answers permuted within texts",
    "over_permuted_within": "own label minus that: what it knows of tokens",
    "breadth": "every token of the right texts",
    "oracle": "the truth in 11 steps: the ceiling",
    "always_yes": "always yes",
    "always_no": "always no",
    "random_directions": "labels of random directions",
    "over_random_directions": "own labels minus those",
    "over_lexicon": "own label minus the token lexicon",
    "swap": "rank correlation with another simulator",
}


_OF_ANSWERS = ("permuted_across", "permuted_within", "breadth", "always_yes", "always_no")


def control_name(control: str) -> str:
    """What a score of a single feature under this control is of: another label, or other answers."""
    return _WORDS[control] if control in _OF_ANSWERS else f"{control} label"


@dataclass(frozen=True, slots=True)
class ControlLine:
    """One control as text. `kind` is a word for its colour."""

    words: str
    n: str
    value: str
    interval: str
    expected: str
    verdict: str
    kind: str
    reason: str


def control_lines(rows: Sequence[ControlRow]) -> list[ControlLine]:
    """The controls of the metric that ranks, in the catalog's order."""
    return [_line(row) for row in rows if row.ranks]


def control_warnings(rows: Sequence[ControlRow]) -> list[str]:
    """A sentence for each gate that failed, whatever its metric."""
    return [f"A control fails: {row.warning}." for row in rows if row.warning]


def _line(row: ControlRow) -> ControlLine:
    interval = "" if row.lo is None or row.hi is None else f"{_short(row.lo)} to {_short(row.hi)}"
    expected = "" if row.expected is None else "above 0" if row.control.startswith("over_") else f"{row.expected:g}"
    return ControlLine(
        words=_WORDS.get(row.control, row.control), n=f"{row.n:,}", value="–" if row.value is None else _short(row.value),
        interval=interval, expected=expected, verdict=row.verdict,
        kind={"FAILED": "bad", "passed": "good"}.get(row.verdict, "plain"), reason=row.reason or "",
    )  # fmt: skip


def _short(value: float) -> str:
    text = f"{value:.3f}"
    return text.replace("-", "−") if float(text) else "0.000"
