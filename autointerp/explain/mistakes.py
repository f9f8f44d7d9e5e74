"""Where a label is wrong, as its author is shown it: the worst false alarms and misses, and a few texts where it is right.

Levels are whole numbers 0..10, those of the truth and those of the prediction. A *false alarm* is a token that is predicted and
truly 0; a *miss* is active and predicted 0. Errors by a single level are left out: rounding alone makes such. Of a context that
token counts at which the error is largest. A context is *right* where its peak is predicted, within three levels. Pure.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autointerp.catalog.records import Context
from autointerp.explain.exemplars import Exemplar, cut, is_near_copy
from autointerp.explain.marking import Marks, listed, marked, marks_for_exemplars, quoted
from autointerp.hashing import stable_hash
from autointerp.score import Simulated
from autointerp.score.discretise import discretise
from autointerp.vocabulary import Vocabulary

LEAST, CLOSE = 2, 3  # levels
RIGHT = 3  # texts in which the prediction was right

Kind = Literal["false_alarm", "miss", "right"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A context cut around the place in question (`exemplar.peak`), and what was predicted for the cut: levels [t]."""

    kind: Kind
    exemplar: Exemplar
    predicted: NDArray[np.int64]

    @property
    def window(self) -> int:
        return self.exemplar.context.window_id

    @property
    def error(self) -> int:
        """In levels, at the place in question."""
        return abs(int(self.predicted[self.exemplar.peak]) - int(self.exemplar.levels[self.exemplar.peak]))


@dataclass(frozen=True, slots=True)
class Findings:
    """The worst first; of those that are right the closest."""

    false_alarms: Sequence[Finding]
    misses: Sequence[Finding]
    right: Sequence[Finding]

    @property
    def all(self) -> list[Finding]:
        return [*self.false_alarms, *self.misses, *self.right]

    @property
    def has_errors(self) -> bool:
        return bool(self.false_alarms or self.misses)


def findings_of(
    contexts: Sequence[Context], simulated: Sequence[Simulated], maximum: float, window: int, most: int
) -> Findings:
    """Up to `most` false alarms and `most` misses in the contexts, whose simulations are given in their order, and texts that are
    right. A context is shown once, and so are near-copies; one that could not be simulated is left out.

    Of errors of a size the order is: hard negatives first, then by a hash of the window.
    """
    found = [
        finding
        for context, one in zip(contexts, simulated, strict=True)
        if one.expected is not None
        for finding in _of_context(context, one.expected, maximum, window)
    ]
    chosen: list[Finding] = []
    limits: dict[Kind, int] = {"false_alarm": most, "miss": most, "right": RIGHT}
    for finding in sorted(found, key=_order):
        full = sum(other.kind == finding.kind for other in chosen) == limits[finding.kind]
        known = any(
            other.window == finding.window or is_near_copy(other.exemplar, finding.exemplar) for other in chosen
        )
        if not full and not known:
            chosen.append(finding)
    return Findings(*([one for one in chosen if one.kind == kind] for kind in limits))


def _order(finding: Finding) -> tuple[bool, int, bool, int]:
    right = finding.kind == "right"
    is_hard = finding.exemplar.context.kind in ("near", "token")
    return right, finding.error if right else -finding.error, not is_hard, stable_hash("mistake", finding.window)


def _of_context(context: Context, expected: NDArray[np.float32], maximum: float, window: int) -> Iterator[Finding]:
    """At most one of each kind."""
    actual = discretise(context.activations, maximum)
    predicted = np.floor(expected.astype(np.float64) + 0.5).astype(np.int64)
    alarm, missed = np.where(actual == 0, predicted, 0), np.where(predicted == 0, actual, 0)
    peak = int(context.activations.argmax())
    places: dict[Kind, int] = {}
    if alarm.max() >= LEAST:
        places["false_alarm"] = int(alarm.argmax())
    if missed.max() >= LEAST:
        places["miss"] = int(missed.argmax())
    if min(actual[peak], predicted[peak]) > 0 and abs(actual[peak] - predicted[peak]) <= CLOSE:
        places["right"] = peak
    for kind, place in places.items():
        exemplar = cut(context, maximum, window, place)
        begin = place - exemplar.peak
        yield Finding(kind, exemplar, predicted[begin : begin + len(exemplar.tokens)])


def findings_json(findings: Findings, vocabulary: Vocabulary) -> str:
    """`"marks": …, "false_alarms": […], "misses": […], "right": […]`, the inside of an object, a line a text.

    A text is {"text", "token", "predicted", "actual", "elsewhere": [[token, predicted, actual], …]}.
    """
    marks = marks_for_exemplars((one.exemplar for one in findings.all), vocabulary)
    parts = [f'"marks":{marks.json}']
    for name, some in (("false_alarms", findings.false_alarms), ("misses", findings.misses), ("right", findings.right)):
        parts.append(listed(name, [_finding(one, marks, vocabulary) for one in some]))
    return ",\n".join(parts)


def _finding(finding: Finding, marks: Marks, vocabulary: Vocabulary) -> str:
    tokens, actual, place = finding.exemplar.tokens, finding.exemplar.levels, finding.exemplar.peak
    here = np.arange(len(tokens)) == place
    others = np.flatnonzero(((finding.predicted > 0) | (actual > 0)) & ~here)
    elsewhere = ",".join(
        f"[{quoted(vocabulary.text(int(tokens[at])))},{finding.predicted[at]},{actual[at]}]" for at in others
    )
    return (
        f'{{"text":{marked(tokens, here, marks, vocabulary)},"token":{quoted(vocabulary.text(int(tokens[place])))},'
        f'"predicted":{finding.predicted[place]},"actual":{actual[place]},"elsewhere":[{elsewhere}]}}'
    )
