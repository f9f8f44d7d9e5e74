"""What an answer costs: dollars per million tokens, times tokens. Where a price comes from is told in `prices`."""

import math
from dataclasses import dataclass, replace
from datetime import date

from autointerp.llm.types import Usage

ALLOWANCE = 1024
"""Tokens that a server may add to a prompt: its chat template, the instructions that go with a schema."""

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class LongPrompts:
    """Requests with more than `above` tokens of prompt cost more: factors on the prices of input and of output."""

    above: int
    input: float
    output: float


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens. `batch`: factor on all of them for provider batches, None where not known.

    `cache_from`: tokens that prompts must begin with in common to be cached, None where not known. `model` is the name in
    the table, `source` the table's file and `read` the date of the figures.
    """

    input: float
    output: float
    cached_input: float
    cache_write: float
    batch: float | None = None
    cache_from: int | None = None
    long: LongPrompts | None = None
    model: str = ""
    source: str = ""
    read: date | None = None

    def cost(self, usage: Usage, factor: float = 1.0) -> float:
        """US dollars for one request with `usage`; counts that contradict each other are cut to the input's."""
        cached = min(usage.cached, usage.input)
        written = min(usage.written, usage.input - cached)
        return self.of_tokens(usage.input, usage.output, cached=cached, written=written, factor=factor)

    def of_tokens(
        self, input: float, output: float, *, cached: float = 0.0, written: float = 0.0, factor: float = 1.0
    ) -> float:
        """As `cost`, for one request with expected counts; `cached` and `written` are parts of `input`."""
        prompt = (input - cached - written) * self.input + cached * self.cached_input + written * self.cache_write
        answer = output * self.output
        if self.long is not None and input > self.long.above:
            prompt, answer = prompt * self.long.input, answer * self.long.output
        return (prompt + answer) * factor / _MILLION

    def most(self, prompt_bytes: int, max_tokens: int, factor: float = 1.0) -> float:
        """An upper bound in US dollars of what one request can cost.

        `prompt_bytes`: of all messages and the schema in UTF-8; the length of the payload as ASCII JSON will do, it is no
        less. A token is at least one byte, and `ALLOWANCE` tokens are added for what servers put around a prompt. All of it
        counts at the dearest of the prices of input, and as a long prompt if it could be one.
        """
        return self.dearest().of_tokens(prompt_bytes + ALLOWANCE, max_tokens, factor=factor)

    def dearest(self) -> "Price":
        """This price with all input at the dearest of its three: for bounds, where caching is not known."""
        dearest = max(self.input, self.cached_input, self.cache_write)
        return replace(self, input=dearest, cached_input=dearest, cache_write=dearest)

    def factor_of(self, provider: str) -> float:
        """The factor for `provider`: the one for batches if it sends batches (1 where that is not known), else 1."""
        is_batch = provider.partition(":")[0].endswith("-batch")
        return self.batch if is_batch and self.batch is not None else 1.0


@dataclass(frozen=True, slots=True)
class Tariff:
    """A price as one provider asks it: times `factor`, which is less than 1 for batches."""

    price: Price
    factor: float = 1.0

    def cost(self, usage: Usage) -> float:
        return self.price.cost(usage, self.factor)

    def most(self, prompt_bytes: int, max_tokens: int) -> float:
        return self.price.most(prompt_bytes, max_tokens, self.factor)


FREE = Price(0.0, 0.0, 0.0, 0.0, batch=1.0, model="(free)")


def money_text(value: float | None) -> str:
    """US dollars for people: "$12.30", and "$0.0042" where cents would hide it."""
    if value is None:
        return "unknown"
    if value == 0:
        return "$0.00"
    decimals = max(2, 1 - math.floor(math.log10(value)))
    return f"${value:,.{decimals}f}"
