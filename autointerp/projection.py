"""From what a sample of features asked to what a stage will ask: requests, tokens and money, as a range. Pure arithmetic."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from autointerp.llm.price import FREE, Price
from autointerp.llm.types import Answer, Request, prompt_text

# Rules of thumb where the journal knows nothing of the model. Our prompts are JSON, and texts with marks: 2.9 to 3.2
# characters a token, measured on the demo. Prose has 4 and more; the tokenizers that cut finest, and other scripts, come
# down to about 2.
CHARS_PER_TOKEN = 3.0
FEWEST_CHARS_PER_TOKEN = 2.0
_ENOUGH_REPLIES = 10  # fewer say too little of a model's answers


class Calibration(Protocol):
    """What earlier answers to one purpose took. `tokens_per_char`: tokens of a prompt by its characters, None if not known."""

    @property
    def replies(self) -> int: ...
    @property
    def tokens_per_char(self) -> float | None: ...
    @property
    def mean_output(self) -> float: ...
    @property
    def p95_output(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Range:
    """What is expected, and what it is about at most."""

    expected: float
    most: float


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of the trial. `known`: the journal answers it, so that it will not be sent. `answer`: its characters.

    `kept`: characters of the prompt that the provider is told to keep for further requests; `again`: an earlier request had them.
    """

    purpose: str
    prompt: str
    max_tokens: int
    answer: int
    known: bool
    kept: int = 0
    again: bool = False

    @classmethod
    def of(cls, request: Request, answer: Answer, again: bool = False) -> "Asked":
        generated = request.continuation is None and not request.embed
        written = len(answer.text) + sum(len(call.name) + len(call.arguments) for call in answer.calls)
        return cls(request.purpose, prompt_text(request), request.max_tokens if generated else 0,
                   written if generated else 0, answer.from_journal, _kept(request), again)  # fmt: skip


def _kept(request: Request) -> int:
    return request.shared and sum(len(message.content) for message in request.messages[:-1]) + request.shared


@dataclass(frozen=True, slots=True)
class Row:
    """One stage and the model it asks. `features` are still to be done, `sampled` of them were tried.

    Requests, characters and tokens are of those that will be sent; `known` counts the requests that the journal answers.
    `cached` is the part of the expected input that the provider will have cached. Money is None where the price is not
    known, `batch` (the same as provider batches) also where there are none.
    """

    stage: str
    part: str
    provider: str
    model: str
    features: int
    sampled: int
    requests: int
    known: int
    chars: int
    input: Range
    cached: float
    output: Range
    price: Price | None
    money: Range | None
    batch: Range | None
    calibrated: bool


@dataclass(frozen=True, slots=True)
class Billing:
    """Who is asked, and what is known of it: its price, earlier answers by purpose, whether it caches what prompts share."""

    provider: str
    model: str
    price: Price | None
    calibration: Mapping[str, Calibration]
    caches: bool


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Expected and largest token counts of one request."""

    input: Range
    output: Range


def project(stage: str, part: str, billing: Billing, features: int, trial: Sequence[Sequence[Asked]]) -> Row:
    """Scale the requests that the features in `trial` (a sequence of each one's) ask up to `features` of them."""
    price = billing.price
    sent = [[asked for asked in each if not asked.known] for each in trial]
    flat = [asked for each in sent for asked in each]
    tokens = [[_tokens(asked, billing.calibration.get(asked.purpose)) for asked in each] for each in sent]
    scale = features / len(trial) if trial else 0.0
    requests = len(flat) * scale
    caching = _Caching.of(flat, tokens, billing, requests)
    money = None if price is None else _range(
        [[caching.money(price, *one) for one in zip(*both, strict=True)] for both in zip(sent, tokens, strict=True)], features
    )  # fmt: skip
    cached = sum(caching.read(*one) for both in zip(sent, tokens, strict=True) for one in zip(*both, strict=True))
    return Row(
        stage, part, billing.provider, billing.model, features, len(trial),
        requests=round(requests),
        known=round(sum(asked.known for each in trial for asked in each) * scale),
        chars=round(sum(len(asked.prompt) for asked in flat) * scale),
        input=_range([[counts.input for counts in each] for each in tokens], features),
        cached=cached * scale,
        output=_range([[counts.output for counts in each] for each in tokens], features),
        price=price,
        money=_times(money, price.factor_of(billing.provider) if price else None),
        batch=_times(money, price.batch if price and price is not FREE else None),
        calibrated=bool(flat) and all(_is_enough(billing.calibration.get(asked.purpose)) for asked in flat),
    )  # fmt: skip


def _is_enough(known: Calibration | None) -> bool:
    return known is not None and known.replies >= _ENOUGH_REPLIES


def _tokens(asked: Asked, known: Calibration | None) -> _Tokens:
    chars = len(asked.prompt)
    given = Range(chars / CHARS_PER_TOKEN, chars / FEWEST_CHARS_PER_TOKEN)
    answer = Range(min(asked.answer / CHARS_PER_TOKEN, asked.max_tokens), asked.max_tokens)
    if known is not None and _is_enough(known):
        if known.tokens_per_char is not None:
            given = Range(chars * known.tokens_per_char, chars * known.tokens_per_char)
        if asked.max_tokens:
            mean = min(known.mean_output, asked.max_tokens)
            answer = Range(mean, max(mean, min(known.p95_output, asked.max_tokens)))
    return _Tokens(given, answer)


@dataclass(frozen=True, slots=True)
class _Caching:
    """What a request finds in the provider's cache. `common`: tokens that all prompts begin with, where that many are cached,
    which one of all `requests` writes there; `least`: the fewest that are cached, None where nothing is."""

    common: float
    requests: float
    least: int | None

    @classmethod
    def of(
        cls, sent: Sequence[Asked], tokens: Sequence[Sequence[_Tokens]], billing: Billing, requests: float
    ) -> "_Caching":
        common = _shared_tokens(sent, tokens, billing) if requests > 1 else 0.0
        least = billing.price.cache_from if billing.caches and billing.price else None
        return cls(common, max(requests, 1.0), least or None)

    def read(self, asked: Asked, tokens: _Tokens) -> float:
        return max(self.common * (1 - 1 / self.requests), self._kept(asked, tokens) if asked.again else 0.0)

    def money(self, price: Price, asked: Asked, tokens: _Tokens) -> Range:
        """Of one request."""
        read, written = self.read(asked, tokens), self.common / self.requests
        if not asked.again:
            written = max(written, self._kept(asked, tokens) - read)
        expected = price.of_tokens(tokens.input.expected, tokens.output.expected, cached=read, written=written)
        return Range(expected, price.dearest().of_tokens(tokens.input.most, tokens.output.most))

    def _kept(self, asked: Asked, tokens: _Tokens) -> float:
        """Tokens that the cache keeps of this prompt beyond what all have in common."""
        kept = tokens.input.expected * asked.kept / len(asked.prompt) if asked.kept else 0.0
        return kept if self.least is not None and kept >= self.least else 0.0


def _shared_tokens(sent: Sequence[Asked], tokens: Sequence[Sequence[_Tokens]], billing: Billing) -> float:
    """Tokens that all prompts begin with, if the provider caches that many, else 0."""
    if not (billing.caches and billing.price and billing.price.cache_from and sent):
        return 0.0
    prompts = [asked.prompt for asked in sent]
    first, last = min(prompts), max(prompts)  # what these two share all do
    shared = next((at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))
    in_tokens = shared * sum(counts.input.expected for each in tokens for counts in each) / sum(map(len, prompts))
    return in_tokens if in_tokens >= billing.price.cache_from else 0.0


def _range(parts: Sequence[Sequence[Range]], features: int) -> Range:
    """The sum over `features` features, of which `parts` are a sample drawn without replacement.

    At most: with the mean two standard errors above the sample's.
    """
    n = len(parts)
    if n == 0:
        return Range(0.0, 0.0)
    sums = [sum(part.most for part in each) for each in parts]
    mean = sum(sums) / n
    error = 0.0
    if 1 < n < features:
        variance = sum((each - mean) ** 2 for each in sums) / (n - 1)
        error = math.sqrt(variance / n * (1 - n / features))
    return Range(sum(part.expected for each in parts for part in each) / n * features, (mean + 2 * error) * features)


def _times(money: Range | None, factor: float | None) -> Range | None:
    return None if money is None or factor is None else Range(money.expected * factor, money.most * factor)
