"""Questions about several texts at once, to a model that sees a label and the texts and nothing else.

All questions begin alike: the same instructions, then a feature's texts, and at the very end what is asked, with the label.
So the second question about the same texts (detection after simulation, another feature's label, another candidate) finds all
but its last line in the provider's prompt cache. For that the texts of a request are always the same, in the same order: an
order by hash, in which activating and silent ones are mixed whatever the order in which they come. The schema of the answers is
one for all questions, too, because providers put it before the prompt.

The answer for a text begins with the text's number, and none may be left out: nothing is told by silence. A text whose answer
is missing or does not fit is asked about once more, by itself; then it is failed.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from autointerp.catalog.records import Context, Label
from autointerp.errors import UserError
from autointerp.explain.parsing import parse_json
from autointerp.hashing import hex_hash, stable_hash
from autointerp.llm.types import Ask, FailureKind, Request, RequestFailed
from autointerp.prompts_loader import fenced, render, template_hash
from autointerp.running_text import habits_of, written
from autointerp.score import Settings
from autointerp.vocabulary import Vocabulary, escape

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "texts": {
            "type": "array",
            "items": {
                "type": "array",
                "items": {
                    "anyOf": [
                        {"type": "integer"},
                        {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
                    ]
                },
            },
        }
    },
    "required": ["texts"],
    "additionalProperties": False,
}
SCHEMA_NAME = "texts"

# What a second question may mend. The others were retried by whoever sends requests.
_WORTH_ASKING_AGAIN = (FailureKind.MALFORMED, FailureKind.TRUNCATED, FailureKind.REFUSED)

Value = TypeVar("Value")
Answered = TypeVar("Answered")


class MisalignedError(Exception):
    """The answer for a text does not fit the text; the message says why."""


class _Texts(BaseModel):
    texts: list[list[Any]]  # checked entry by entry, so that one bad entry fails one text and not the whole answer


@dataclass(frozen=True, slots=True)
class Question(Generic[Value]):
    """One of the questions of prompts/_texts.j2.

    `template` and `name`: the prompt and what the question is called in it; `purpose`: under which its cost is counted. `read`
    makes a value of a text's tokens (display texts) and of what the answer says after the text's number; it raises
    MisalignedError.
    """

    template: str
    name: str
    purpose: str
    read: Callable[[Sequence[str], Sequence[Any]], Value]


@dataclass(frozen=True, slots=True)
class Form:
    """How questions are put. `temperature` None leaves it to the provider; see `Settings` for the others."""

    texts_per_request: int = 25
    max_tokens: int = 8192
    temperature: float | None = None
    directory: Path | None = None
    asked_again: bool = True

    @classmethod
    def of(cls, settings: Settings) -> "Form":
        return cls(settings.texts_per_request, directory=settings.directory, asked_again=settings.asked_again)

    def version(self, template: str) -> str:
        """Changes with everything that answers depend on, the model apart."""
        return hex_hash("2", self.texts_per_request, self.max_tokens, self.temperature,
                        template_hash(template, directory=self.directory))  # fmt: skip


async def ask_about(
    question: Question[Value],
    form: Form,
    label: Label,
    contexts: Sequence[Context],
    ask: Ask | None,
    vocabulary: Vocabulary,
) -> list[Value | RequestFailed]:
    """The answer for each context, in their order, or why there is none. Raises UserError where `ask` is None."""
    if ask is None:
        raise UserError(
            f"{question.template} asks a model, and none is given; name one, or score with the lexicon simulator"
        )
    order = sorted(range(len(contexts)), key=lambda index: stable_hash("mixed", contexts[index].window_id))
    count = -(-len(order) // form.texts_per_request)  # of groups, all about as large
    groups = [order[len(order) * at // count : len(order) * (at + 1) // count] for at in range(count)]
    asking = _Asking(question, form, label, ask, vocabulary)
    answered = await all_asked(asking.group([contexts[index] for index in group]) for group in groups)
    found = {index: one for group, some in zip(groups, answered, strict=True)
             for index, one in zip(group, some, strict=True)}  # fmt: skip
    return [found[index] for index in range(len(contexts))]


async def all_asked(questions: Iterable[Awaitable[Answered]]) -> list[Answered]:
    """What each comes to. All of them are asked before one is given up: where answers come later, later ones are queued, too."""
    found = []
    for one in await asyncio.gather(*questions, return_exceptions=True):
        if isinstance(one, BaseException):
            raise one
        found.append(one)
    return found


@dataclass(frozen=True, slots=True)
class _Asking(Generic[Value]):
    question: Question[Value]
    form: Form
    label: Label
    ask: Ask
    vocabulary: Vocabulary

    async def group(self, group: Sequence[Context]) -> list[Value | RequestFailed]:
        outcomes = await self._once(group, sample=0)
        doubtful = [index for index, outcome in enumerate(outcomes) if _is_worth_asking_again(outcome)]
        singly = (self._once([group[index]], sample=1) for index in doubtful)
        for index, again in zip(doubtful, await all_asked(singly), strict=True):
            outcomes[index] = again[0]
        return outcomes

    async def _once(self, group: Sequence[Context], sample: int) -> list[Value | RequestFailed]:
        texts = [[self.vocabulary.text(int(token)) for token in context.tokens] for context in group]
        try:
            return self._outcomes((await self.ask(self._request(texts, sample))).text, texts)
        except RequestFailed as failure:
            return [failure for _ in group]

    def _request(self, texts: Sequence[Sequence[str]], sample: int) -> Request:
        habits = habits_of(self.vocabulary)
        shown = fenced("\n".join(f"{number}|{written(text, habits)}" for number, text in enumerate(texts, start=1)))
        asked = f'{{"question":"{self.question.name}","explanation":"{escape(self.label.description)}"}}'
        prompt = render(self.question.template, directory=self.form.directory, texts=shown, question=fenced(asked),
                        indents=habits.indents, signs=habits.signs)  # fmt: skip
        end = prompt.user.find(shown) + len(shown)
        keep = self.form.asked_again and sample == 0 and end >= len(shown)
        return Request(
            messages=prompt.messages,
            max_tokens=self.form.max_tokens,
            temperature=self.form.temperature,
            json_schema=SCHEMA,
            schema_name=SCHEMA_NAME,
            sample=sample,
            purpose=self.question.purpose,
            template_hash=prompt.template_hash,
            check=lambda text: not any(isinstance(one, RequestFailed) for one in self._outcomes(text, texts)),
            shared=end if keep else 0,
        )

    def _outcomes(self, text: str, texts: Sequence[Sequence[str]]) -> list[Value | RequestFailed]:
        """Of each of the texts in an answer's text."""
        try:
            answer = parse_json(text, _Texts)
        except RequestFailed as failure:
            return [failure for _ in texts]
        return [self._outcome(number, tokens, answer) for number, tokens in enumerate(texts, start=1)]

    def _outcome(self, number: int, tokens: Sequence[str], answer: _Texts) -> Value | RequestFailed:
        given = [entries for entries in answer.texts if entries and entries[0] == number and type(entries[0]) is int]
        try:
            if len(given) != 1:
                raise MisalignedError(f"{len(given)} answers for one text")
            return self.question.read(tokens, given[0][1:])
        except MisalignedError as error:
            return RequestFailed(FailureKind.MALFORMED, str(error))


def _is_worth_asking_again(outcome: object) -> bool:
    return isinstance(outcome, RequestFailed) and outcome.kind in _WORTH_ASKING_AGAIN


def quoted(value: object) -> str:
    """The beginning of what a model wrote, for a reason."""
    return json.dumps(value, ensure_ascii=False, default=str)[:80]
