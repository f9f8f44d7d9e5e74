"""The controls at the head of the report: a line each for the metric that ranks, and a warning of each kind that failed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from autointerp.catalog.controls import ControlRow, failures
from autointerp.report.words import interval, signed

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


_MINUS = re.compile(r"(?<=[ \[])-(?=\d)")


def control_name(control: str) -> str:
    """What is graded under this control: another label, or other answers."""
    return _WORDS.get(control, control)


@dataclass(frozen=True, slots=True)
class ControlLine:
    """One control as text. `kind` is a word for its colour; `reason`, of what was not passed, why."""

    words: str
    n: str
    value: str
    interval: str
    expected: str
    verdict: str
    kind: str
    reason: str


def control_lines(rows: Sequence[ControlRow]) -> list[ControlLine]:
    """The controls of the metric that ranks: other labels, other answers, other features."""
    order = list(_WORDS)
    ranked = [row for row in rows if row.ranks]
    return [
        _line(row)
        for row in sorted(ranked, key=lambda row: order.index(row.control) if row.control in _WORDS else len(order))
    ]


def control_warnings(rows: Sequence[ControlRow]) -> list[str]:
    """A sentence for each kind of gate that failed, whatever its metrics."""
    return [f"A control fails: {_MINUS.sub('−', failure.words)}." for failure in failures(rows)]


def _line(row: ControlRow) -> ControlLine:
    expected = "" if row.expected is None else "above 0" if row.control.startswith("over_") else f"{row.expected:g}"
    return ControlLine(
        words=control_name(row.control), n=f"{row.n:,}", value="–" if row.value is None else signed(row.value, 3),
        interval=interval(row.lo, row.hi, 3), expected=expected, verdict="" if row.verdict == "for comparison" else row.verdict,
        kind={"FAILED": "bad", "passed": "good"}.get(row.verdict, "plain"),
        reason=row.reason or "" if row.verdict in ("FAILED", "inconclusive") else "",
    )  # fmt: skip
