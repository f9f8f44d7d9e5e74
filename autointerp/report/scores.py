"""The scores at the head of the report, as text: a line for each scorer, beside what chance and shuffled labels give."""

from collections.abc import Sequence
from dataclasses import dataclass

from autointerp.report.text import visible
from autointerp.report.words import interval, metric_words, scorer_words, signed
from autointerp.score.scoreboard import Line
from autointerp.score.spread import Spread


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median with its interval; `interval` is empty where there is none."""

    value: str
    interval: str


@dataclass(frozen=True, slots=True)
class ScoreLine:
    """`shuffled` is None where it was not measured, for the reason `without`. `ranks`: the features are ordered by it."""

    scorer: str
    asks: str
    metric: str
    says: str
    ranks: bool
    median: Estimate
    chance: str
    shuffled: Estimate | None
    without: str
    n: str
    n_shuffled: str
    n_undefined: str
    n_failed: str


def score_lines(board: Sequence[Line]) -> list[ScoreLine]:
    """The lines of the scoreboard, in its order: what ranks first."""
    return [_line(line) for line in board]


def _line(line: Line) -> ScoreLine:
    shuffled = line.shuffled if line.of_label else None
    return ScoreLine(
        scorer=visible(line.scorer), asks=scorer_words(line.scorer), metric=visible(line.metric), says=metric_words(line.metric),
        ranks=line.ranks, median=_estimate(line.own), chance="–" if line.chance is None else signed(line.chance),
        shuffled=_estimate(shuffled) if shuffled else None, without="not measured" if line.of_label else "reads no label",
        n=f"{line.own.n:,}", n_shuffled=f"{shuffled.n:,}" if shuffled else "", n_undefined=f"{line.n_undefined:,}",
        n_failed=f"{line.n_failed:,}",
    )  # fmt: skip


def _estimate(spread: Spread) -> Estimate:
    return Estimate("–" if spread.value is None else signed(spread.value), interval(spread.lo, spread.hi))
