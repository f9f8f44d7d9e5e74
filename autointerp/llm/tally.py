"""What a journal's replies took: sums and two small histograms for each provider, purpose and model.

Nothing here grows with the number of replies. Money is summed in whole millionths of a millionth of a dollar, so that
the sum does not depend on the order of the lines.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autointerp.llm.entry import ANSWER, DUPLICATE
from autointerp.llm.types import Usage

_PICO = 10**12
_PER_OCTAVE = 16
_EDGES = sorted({int(2 ** (step / _PER_OCTAVE)) for step in range(24 * _PER_OCTAVE + 1)} | {0})
_EDGE_ARRAY = np.array(_EDGES, dtype=np.float64)


class Counts(Protocol):
    """The token counts of a reply."""

    @property
    def input(self) -> int: ...
    @property
    def output(self) -> int: ...
    @property
    def cached(self) -> int: ...
    @property
    def written(self) -> int: ...


class Reply(Protocol):
    """The part of an entry that is counted."""

    @property
    def provider(self) -> str: ...
    @property
    def purpose(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def finish(self) -> str: ...
    @property
    def latency_s(self) -> float: ...
    @property
    def money(self) -> float | None: ...
    @property
    def prompt_chars(self) -> int: ...
    @property
    def usage(self) -> Counts: ...


@dataclass(frozen=True, slots=True)
class Spend:
    """What one model of one provider was asked for one purpose.

    `failed` of the `replies` were no answers; tokens and money are of all. `money` is in US dollars and the sum of what
    is known: `n_unpriced` replies are not in it; it is None if that is all of them. `median_latency_s` is right to 5 %.
    """

    provider: str
    purpose: str
    model: str
    replies: int
    failed: int
    usage: Usage
    money: float | None
    n_unpriced: int
    median_latency_s: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """What replies of one model to one purpose took, for estimates.

    `tokens_per_char` is input tokens by characters of the prompts, over the replies that have both; None if none has.
    `mean_output` and `p95_output` are tokens of a reply, over those that count tokens; the latter is at most 5 % high.
    """

    replies: int
    tokens_per_char: float | None
    mean_output: float
    p95_output: int


class Histogram:
    """Counts of whole numbers from 0 up, exact to about 20 and 16 bins an octave above; the largest is kept itself."""

    __slots__ = ("counts", "largest")

    def __init__(self) -> None:
        self.counts = [0] * (len(_EDGES) + 1)
        self.largest = 0

    def add(self, value: int) -> None:
        self.counts[bisect_left(_EDGES, value)] += 1
        self.largest = max(self.largest, value)

    def add_many(self, values: NDArray[np.float64]) -> None:
        """As `add` for each whole number in `values`, in a tenth of the time."""
        if len(values):
            found = np.bincount(np.searchsorted(_EDGE_ARRAY, values, side="left"))
            for place in np.flatnonzero(found).tolist():
                self.counts[place] += int(found[place])
            self.largest = max(self.largest, int(values.max()))

    def merge(self, other: "Histogram") -> None:
        self.counts = [mine + others for mine, others in zip(self.counts, other.counts, strict=True)]
        self.largest = max(self.largest, other.largest)

    def quantile(self, share: float) -> int:
        """The upper edge of the bin in which the quantile lies, at most the largest value; 0 if nothing was added."""
        wanted, seen = share * sum(self.counts), 0
        for edge, count in zip(_EDGES, self.counts, strict=False):
            seen += count
            if seen >= wanted:
                return min(edge, self.largest)
        return self.largest


_SUMS = ("replies", "failed", "input", "output", "cached", "written", "pico", "unpriced", "chars", "chars_input",
         "counted")  # fmt: skip


class Tally:
    """The running sums behind one `Spend`."""

    __slots__ = (*_SUMS, "latencies_ms", "outputs")

    def __init__(self) -> None:
        self.replies = self.failed = self.input = self.output = self.cached = self.written = 0
        self.pico = self.unpriced = self.chars = self.chars_input = self.counted = 0
        self.outputs, self.latencies_ms = Histogram(), Histogram()

    def add(self, reply: Reply) -> None:
        usage = reply.usage
        self.replies += 1
        self.failed += reply.finish not in (ANSWER, DUPLICATE)
        self.input += usage.input
        self.output += usage.output
        self.cached += usage.cached
        self.written += usage.written
        if reply.money is None:
            self.unpriced += 1
        else:
            self.pico += round(reply.money * _PICO)
        if usage.input or usage.output:
            self.counted += 1
            self.outputs.add(usage.output)
        if usage.input and reply.prompt_chars:
            self.chars += reply.prompt_chars
            self.chars_input += usage.input
        self.latencies_ms.add(round(reply.latency_s * 1000))

    def add_many(self, replies: Sequence[Reply]) -> None:
        """As `add` for each, in a third of the time."""
        usages = [reply.usage for reply in replies]
        inputs, outputs = [usage.input for usage in usages], [usage.output for usage in usages]
        chars = [reply.prompt_chars for reply in replies]
        self.replies += len(replies)
        self.failed += sum([reply.finish not in (ANSWER, DUPLICATE) for reply in replies])
        self.input += sum(inputs)
        self.output += sum(outputs)
        self.cached += sum([usage.cached for usage in usages])
        self.written += sum([usage.written for usage in usages])
        prices = np.array([reply.money for reply in replies], dtype=np.float64)  # None becomes NaN
        prices = prices[~np.isnan(prices)]
        self.pico += sum(map(int, np.rint(prices * _PICO).tolist()))
        self.unpriced += len(replies) - len(prices)
        tokens_in, tokens_out, lengths = (np.array(v, dtype=np.float64) for v in (inputs, outputs, chars))
        counted = (tokens_in != 0) | (tokens_out != 0)
        self.counted += int(counted.sum())
        self.outputs.add_many(tokens_out[counted])
        both = (tokens_in != 0) & (lengths != 0)
        self.chars += sum(compress(chars, both.tolist()))
        self.chars_input += sum(compress(inputs, both.tolist()))
        self.latencies_ms.add_many(np.rint(np.array([reply.latency_s for reply in replies]) * 1000))

    def merge(self, other: "Tally") -> None:
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.outputs.merge(other.outputs)
        self.latencies_ms.merge(other.latencies_ms)


class Tallies:
    """A `Tally` for each provider, purpose and model."""

    def __init__(self) -> None:
        self._by_group: dict[tuple[str, str, str], Tally] = {}

    def add(self, reply: Reply) -> None:
        self._tally((reply.purpose, reply.provider, reply.model)).add(reply)

    def add_many(self, replies: Iterable[Reply]) -> None:
        groups: dict[tuple[str, str, str], list[Reply]] = {}
        for reply in replies:
            group = (reply.purpose, reply.provider, reply.model)
            if group in groups:
                groups[group].append(reply)
            else:
                groups[group] = [reply]
        for group, members in groups.items():
            self._tally(group).add_many(members)

    def state(self) -> list[Any]:
        """Everything, as JSON can hold it."""
        return [
            [
                *group,
                [getattr(tally, name) for name in _SUMS],
                *([histogram.counts, histogram.largest] for histogram in (tally.outputs, tally.latencies_ms)),
            ]
            for group, tally in self._by_group.items()
        ]

    @classmethod
    def from_state(cls, state: list[Any]) -> "Tallies":
        """What `state` was taken of."""
        made = cls()
        for *group, sums, outputs, latencies_ms in state:
            tally = made._tally((group[0], group[1], group[2]))
            for name, value in zip(_SUMS, sums, strict=True):
                setattr(tally, name, value)
            for histogram, (counts, largest) in ((tally.outputs, outputs), (tally.latencies_ms, latencies_ms)):
                histogram.counts, histogram.largest = counts, largest
        return made

    def spend(self) -> list[Spend]:
        """Sorted by purpose, provider and model."""
        return [_spend(*group, tally) for group, tally in sorted(self._by_group.items())]

    def money(self) -> float:
        """US dollars, over all replies whose price is known."""
        return sum(tally.pico for tally in self._by_group.values()) / _PICO

    def calibration(self, model: str) -> dict[str, Calibration]:
        """By purpose, over all providers of `model`."""
        merged: dict[str, Tally] = {}
        for (purpose, _, of), tally in sorted(self._by_group.items()):
            if of == model:
                merged.setdefault(purpose, Tally()).merge(tally)
        return {purpose: _calibration(tally) for purpose, tally in merged.items()}

    def _tally(self, group: tuple[str, str, str]) -> Tally:
        tally = self._by_group.get(group)
        if tally is None:
            tally = self._by_group[group] = Tally()
        return tally


def _spend(purpose: str, provider: str, model: str, tally: Tally) -> Spend:
    return Spend(
        provider=provider,
        purpose=purpose,
        model=model,
        replies=tally.replies,
        failed=tally.failed,
        usage=Usage(tally.input, tally.output, tally.cached, tally.written),
        money=tally.pico / _PICO if tally.unpriced < tally.replies else None,
        n_unpriced=tally.unpriced,
        median_latency_s=tally.latencies_ms.quantile(0.5) / 1000,
    )


def _calibration(tally: Tally) -> Calibration:
    return Calibration(
        replies=tally.replies,
        tokens_per_char=tally.chars_input / tally.chars if tally.chars else None,
        mean_output=tally.output / tally.counted if tally.counted else 0.0,
        p95_output=tally.outputs.quantile(0.95),
    )
