"""Progress of long stages: a live bar on a terminal, a line every few seconds elsewhere; rate and time left in both."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, str], None]
_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress(what: str, total: int | None, unit: str, *, done: int = 0, steady: bool = True) -> Iterator[Advance]:
    """Show the progress of one stage on stderr; the block calls `advance(count, note)`.

    `done`: what an earlier run had finished already; it does not count into the rate. Not `steady` is a stage that goes by
    leaps (answers come by the batch): its rate says nothing about the time that is left, so that is not shown.
    """
    show = _bar if sys.stderr.isatty() else _lines
    with show(what, total, unit, done, steady) as advance:
        yield advance


@contextmanager
def _bar(what: str, total: int | None, unit: str, done: int, steady: bool) -> Iterator[Advance]:
    from rich.console import Console, RenderableType
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.text import Text

    class Bars(Progress):
        """The note has a line of its own: on one line with the bar there is no room for it in 80 columns."""

        def get_renderables(self) -> Iterator[RenderableType]:
            yield self.make_tasks_table(self.tasks)
            for task in self.tasks:
                if task.fields["note"]:
                    yield Text(f"  {task.fields['note']}", no_wrap=True, overflow="ellipsis")

    columns = [
        TextColumn("{task.description:<10}"), BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[counts]}"), TimeElapsedColumn(),
        *([TextColumn("left"), TimeRemainingColumn()] if steady else []),
    ]  # fmt: skip
    meter = _Meter(total, unit, done, steady)
    with Bars(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(what, total=total, completed=done, counts="", note="")

        def advance(count: int, note: str = "") -> None:
            meter.add(count)
            bars.update(task, advance=count, counts=meter.counts(), note=note)

        yield advance


@contextmanager
def _lines(what: str, total: int | None, unit: str, done: int, steady: bool) -> Iterator[Advance]:
    meter = _Meter(total, unit, done, steady)
    last, last_note = time.monotonic(), ""

    def advance(count: int, note: str = "") -> None:
        nonlocal last, last_note
        meter.add(count)
        last_note = note
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print(f"{what}: {meter.line()} {note}".rstrip(), file=sys.stderr, flush=True)

    yield advance
    print(f"{what}: {meter.counts()} in {meter.elapsed():.1f} s {last_note}".rstrip(), file=sys.stderr, flush=True)


class _Meter:
    """Counts; of what goes steadily, rate and time left."""

    def __init__(self, total: int | None, unit: str, done: int, steady: bool) -> None:
        self.total, self.unit, self.done, self._before, self._steady = total, unit, done, done, steady
        self._began = time.monotonic()

    def add(self, count: int) -> None:
        self.done += count

    def elapsed(self) -> float:
        return time.monotonic() - self._began

    def rate(self) -> float:
        return (self.done - self._before) / max(self.elapsed(), 1e-6)

    def counts(self) -> str:
        total = "" if self.total is None else f" / {self.total:,}"
        rate = f" ({_short(self.rate())}/s)" if self._steady else ""
        return f"{self.done:,}{total} {self.unit}{rate}"

    def line(self) -> str:
        if self.total is None or self.rate() == 0 or not self._steady:
            return self.counts()
        return f"{self.counts()}, {_clock((self.total - self.done) / self.rate())} left"


def _short(rate: float) -> str:
    if rate >= 1e5:  # a bar has to fit beside it
        return f"{rate / 1e6:.1f} M" if rate >= 1e6 else f"{rate / 1e3:.0f} k"
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
