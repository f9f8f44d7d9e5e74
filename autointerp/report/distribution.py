"""The geometry of the chart of scores: real ones above the axis, those of shuffled labels below it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autointerp.catalog.pages import BIN_WIDTH, ScoreBin
from autointerp.report.words import signed

WIDTH, UPPER, LOWER, FOOT = 560.0, 100.0, 56.0, 22.0
_GAP = 1.0


@dataclass(frozen=True, slots=True)
class Bar:
    """One bin, as a rectangle in the chart's units and in words."""

    x: float
    y: float
    width: float
    height: float
    words: str


@dataclass(frozen=True, slots=True)
class Tick:
    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Distribution:
    """Each side is scaled to its own tallest bar: the control is narrow, and may be run on a sample of the features."""

    real: Sequence[Bar]
    shuffled: Sequence[Bar]
    n_real: int
    n_shuffled: int
    ticks: Sequence[Tick]
    median_x: float | None
    shuffled_x: float | None
    width: float = WIDTH
    height: float = UPPER + LOWER + FOOT
    axis: float = UPPER
    bottom: float = UPPER + LOWER


def draw(bins: Sequence[ScoreBin], median: float | None, shuffled_median: float | None) -> Distribution:
    """Lay out a non-empty histogram of scores. The axis spans at least 0 to 1."""
    low = min(0.0, *(math.floor(b.start * 5 + 1e-9) / 5 for b in bins))
    high = max(1.0, *(math.ceil((b.start + BIN_WIDTH) * 5 - 1e-9) / 5 for b in bins))
    n_real, n_shuffled = sum(b.real for b in bins), sum(b.shuffled for b in bins)

    def at(value: float) -> float:
        return round((value - low) / (high - low) * WIDTH, 2)

    def bars(count: Callable[[ScoreBin], int], up: bool, what: str) -> list[Bar]:
        full = UPPER - 4 if up else LOWER
        tallest = max(count(b) for b in bins)
        drawn = []
        for b in bins:
            if n := count(b):
                height = round(max(1.0, n / tallest * full), 2)
                x = at(b.start)
                words = f"{signed(b.start)} to {signed(b.start + BIN_WIDTH)}: {n:,} {what}"
                y = round(UPPER - height, 2) if up else UPPER
                drawn.append(Bar(x, y, round(at(b.start + BIN_WIDTH) - x - _GAP, 2), height, words))
        return drawn

    step = 0.2 if high - low <= 2.2 else round((high - low) / 8, 1)
    ticks = [Tick(at(low + i * step), signed(low + i * step, 1)) for i in range(int((high - low) / step + 1e-9) + 1)]
    return Distribution(
        real=bars(lambda b: b.real, True, "features"),
        shuffled=bars(lambda b: b.shuffled, False, "with shuffled labels"),
        n_real=n_real,
        n_shuffled=n_shuffled,
        ticks=[Tick(t.x, "0" if t.text == "0.0" else t.text) for t in ticks],
        median_x=None if median is None else at(median),
        shuffled_x=None if shuffled_median is None else at(shuffled_median),
    )
