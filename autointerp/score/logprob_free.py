"""The simulator `logprob_free`: any chat model, no log-probabilities. It answers in structured JSON.

The form of question and answer was chosen for alignment first and cost second:
- In the question each token is written beside its position, `{"0":"def","1":" run"}`: 4.1 tokens of a current tokenizer
  for a token of text (prose 4.1, source code 4.2). Bare lists cost 2.1, lists cut into rows of eight 2.4; but then the
  model must count, and it miscounts where there is most to report, so that activating contexts would fail more often
  than silent ones and bias the score.
- In the answer only tokens with an activation above 0 appear, each as `[position, token, value]`: 6.1 tokens an entry,
  against 12.1 for an object with named fields. A silent context costs about a dozen tokens; an integer for each
  position would cost 2 a position, 254 a context of 127. Leaving the token out would save 2 an entry, and with it the
  only proof that the position means the token that the model had in mind.
Several contexts share a request, in an order by hash, so that activating and silent ones are mixed whatever the order
in which they come. The fixed part of the prompt comes first, for the providers' prompt caches.

An answer is aligned by context id and by position. A context whose answer is missing or does not fit is asked once
more, by itself; then it is failed. It is never taken for silent.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from autointerp.catalog.records import Context, Label
from autointerp.errors import UserError
from autointerp.explain.parsing import parse_json
from autointerp.hashing import hex_hash, stable_hash
from autointerp.llm.types import Ask, FailureKind, Request, RequestFailed
from autointerp.prompts_loader import fenced, render, template_hash
from autointerp.score import Simulated, simulators
from autointerp.score.discretise import LEVELS
from autointerp.vocabulary import Vocabulary, escape

TEMPLATE = "logprob_free"

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "texts": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "id": {"type": "string"},
                    "active": {
                        "type": "array",
                        "items": {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "string"}]}},
                    },
                },
                "required": ["id", "active"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["texts"],
    "additionalProperties": False,
}

# What a second question may mend. The others were retried by whoever sends requests.
_WORTH_ASKING_AGAIN = (FailureKind.MALFORMED, FailureKind.TRUNCATED, FailureKind.REFUSED)


Outcome = NDArray[np.float32] | RequestFailed


class _Text(BaseModel):
    id: str
    active: list[Any]  # checked entry by entry, so that one bad entry fails one context and not the whole answer


class _Texts(BaseModel):
    texts: list[_Text]


@dataclass(slots=True)
class LogprobFree:
    """See the module. `temperature` None leaves it to the provider; `directory` holds the user's own prompts."""

    contexts_per_request: int = 5
    max_tokens: int = 4096
    temperature: float | None = None
    directory: Path | None = None
    needs_model: bool = True
    needs: tuple[str, ...] = ("json_schema",)

    @property
    def template_hash(self) -> str:
        return template_hash(TEMPLATE, directory=self.directory)

    @property
    def version(self) -> str:
        """Changes with everything that the simulations depend on, the model apart."""
        return hex_hash("1", self.contexts_per_request, self.max_tokens, self.temperature, self.template_hash)

    async def __call__(
        self,
        label: Label,
        contexts: Sequence[Context],
        max_activation: float,
        ask: Ask | None,
        vocabulary: Vocabulary,
    ) -> list[Simulated]:
        """One result for each context, in their order. Raises UserError where `ask` is None or ends the run."""
        if ask is None:
            raise UserError("the simulator logprob_free asks a model, and none is given; name one, or use lexicon")
        mixed = sorted(contexts, key=lambda context: stable_hash("mixed", context.window_id))
        size = self.contexts_per_request
        groups = [mixed[begin : begin + size] for begin in range(0, len(mixed), size)]
        answered = await asyncio.gather(*(self._simulate(label, group, ask, vocabulary) for group in groups))
        found = {result.window_id: result for results in answered for result in results}
        return [found[context.window_id] for context in contexts]

    async def _simulate(
        self, label: Label, group: Sequence[Context], ask: Ask, vocabulary: Vocabulary
    ) -> list[Simulated]:
        outcomes = await self._ask(label, group, ask, vocabulary, sample=0)
        doubtful = [index for index, outcome in enumerate(outcomes) if _is_worth_asking_again(outcome)]
        singly = (self._ask(label, [group[index]], ask, vocabulary, sample=1) for index in doubtful)
        for index, again in zip(doubtful, await asyncio.gather(*singly), strict=True):
            outcomes[index] = again[0]
        return [_simulated(context, outcome) for context, outcome in zip(group, outcomes, strict=True)]

    async def _ask(
        self, label: Label, group: Sequence[Context], ask: Ask, vocabulary: Vocabulary, sample: int
    ) -> list[Outcome]:
        texts = [[vocabulary.escaped(int(token)) for token in context.tokens] for context in group]
        prompt = render(TEMPLATE, directory=self.directory, data=fenced(_question(label.description, texts)))
        request = Request(
            messages=prompt.messages,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            json_schema=SCHEMA,
            schema_name="activations",
            sample=sample,
            purpose="simulate",
            template_hash=prompt.template_hash,
            check=lambda text: not any(isinstance(outcome, RequestFailed) for outcome in _outcomes(text, texts)),
        )
        try:
            return _outcomes((await ask(request)).text, texts)
        except RequestFailed as failure:
            return [failure] * len(group)


def _id(index: int) -> str:
    return f"t{index + 1}"


def _question(description: str, texts: Sequence[Sequence[str]]) -> str:
    """JSON, written by hand around tokens that are escaped already. A line a text."""
    lines = []
    for index, tokens in enumerate(texts):
        inside = ",".join(f'"{position}":"{token}"' for position, token in enumerate(tokens))
        lines.append(f'"{_id(index)}":{{{inside}}}')
    return f'{{"explanation":"{escape(description)}",\n"texts":{{\n' + ",\n".join(lines) + "\n}}"


def _outcomes(text: str, texts: Sequence[Sequence[str]]) -> list[Outcome]:
    """Of each of the texts, whose tokens are escaped, in an answer's text."""
    try:
        answer = parse_json(text, _Texts)
    except RequestFailed as failure:
        return [failure] * len(texts)
    return [_outcome(_id(index), tokens, answer) for index, tokens in enumerate(texts)]


def _outcome(name: str, tokens: Sequence[str], answer: _Texts) -> Outcome:
    """The simulated activations of one text [T], or why its answer is not aligned. `tokens` are escaped."""
    given = [text.active for text in answer.texts if text.id == name]
    try:
        if len(given) != 1:
            raise _MisalignedError(f"{len(given)} answers for one text")
        return _expected(tokens, given[0])
    except _MisalignedError as error:
        return RequestFailed(FailureKind.MALFORMED, str(error))


class _MisalignedError(Exception):
    pass


def _expected(tokens: Sequence[str], entries: Sequence[Any]) -> NDArray[np.float32]:
    expected = np.zeros(len(tokens), dtype=np.float32)
    seen: set[int] = set()
    for entry in entries:
        if not isinstance(entry, list) or [type(part) for part in entry] != [int, str, int]:
            raise _MisalignedError(f"expected [position, token, activation], found {repr(entry)[:80]}")
        position, token, value = entry
        if not 0 <= position < len(tokens) or position in seen:
            raise _MisalignedError(f"position {position} is repeated, or not one of the text's {len(tokens)}")
        if not 0 <= value <= LEVELS:
            raise _MisalignedError(f"activation {value} at position {position}; expected 0 to {LEVELS}")
        if not _is_echo(token, tokens[position]):
            raise _MisalignedError(f"position {position} holds {tokens[position]!r}, the answer says {token[:80]!r}")
        seen.add(position)
        expected[position] = value
    return expected


def _is_echo(echo: str, escaped: str) -> bool:
    """Whether the model wrote the token of that position. Models drop spaces at the edges, or escape twice."""
    token = json.loads(f'"{escaped}"')
    return echo.strip() in (token.strip(), escaped.strip())


def _is_worth_asking_again(outcome: Outcome) -> bool:
    return isinstance(outcome, RequestFailed) and outcome.kind in _WORTH_ASKING_AGAIN


def _simulated(context: Context, outcome: Outcome) -> Simulated:
    if isinstance(outcome, RequestFailed):
        return Simulated(context.window_id, None, "failed", str(outcome))
    return Simulated(context.window_id, outcome, "ok")


simulators.register("logprob_free")(LogprobFree())
