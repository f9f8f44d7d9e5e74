"""Questions about several texts at once, to a model that sees a label and the texts and nothing else.

All questions begin alike: the same instructions, then a feature's texts, and at the very end what is asked, with the label.
So the second question about the same texts (detection after simulation, another feature's label, another candidate) finds all
but its last line in the provider's prompt cache. For that the texts of a request are always the same, in the same order: an
order by hash, in which activating and silent ones are mixed whatever the order in which they come. The schema of the answers is
one for all questions, too, because providers put it before the prompt.

The answer for a text begins with the text's number, and none may be left out: nothing is told by silence. A text whose answer
is missing or does not fit is asked about once more; then it is failed.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from autointerp.catalog.records import Context, Label
from autointerp.explain.marking import Marks, marks_for
from autointerp.explain.marking import quoted as quoted_text
from autointerp.explain.parsing import parse_json
from autointerp.hashing import hex_hash, stable_hash
from autointerp.llm.types import Answer, Ask, FailureKind, Request, RequestFailed
from autointerp.prompts_loader import fenced, render, template_hash
from autointerp.running_text import Habits, habits_of, written
from autointerp.score import Settings
from autointerp.score.asked import all_asked, needed
from autointerp.score.probabilities import ALTERNATIVES, verdict_places, yes_probabilities
from autointerp.vocabulary import Vocabulary

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

_LAST = 2  # how often a text is asked about once more, at most
# What a second question may mend. The others were retried by whoever sends requests.
_WORTH_ASKING_AGAIN = (FailureKind.MALFORMED, FailureKind.TRUNCATED, FailureKind.REFUSED)

Value = TypeVar("Value")
Item = TypeVar("Item")


class MisalignedError(Exception):
    """The answer for a text does not fit the text; the message says why."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Yes or no; `probability`: of a yes, where the model gave it."""

    yes: bool
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """What is asked about: a text's tokens, as ids, and the places of those that are marked."""

    tokens: Sequence[int]
    marked: Sequence[int] = ()


class _Texts(BaseModel):
    texts: list[list[Any]]  # checked entry by entry, so that one bad entry fails one text and not the whole answer


@dataclass(frozen=True, slots=True)
class Question(Generic[Value]):
    """One of the questions of prompts/_texts.j2.

    `template` and `name`: the prompt and what the question is called in it; `purpose`: under which its cost is counted. `read`
    makes a value of a text's tokens (display texts) and of what the answer says after the text's number; it raises
    MisalignedError. `about_marks`: it is told which signs mark tokens.
    """

    template: str
    name: str
    purpose: str
    read: Callable[[Sequence[str], Sequence[Any]], Value]
    about_marks: bool = False


@dataclass(frozen=True, slots=True)
class Form:
    """How questions are put. `temperature` None leaves it to the provider; see `Settings` for the others.

    `logprobs`: of verdicts only.
    """

    texts_per_request: int = 25
    max_tokens: int = 8192
    temperature: float | None = None
    directory: Path | None = None
    asked_again: bool = True
    logprobs: bool = False

    @classmethod
    def of(cls, settings: Settings, *, verdicts: bool = False) -> "Form":
        """The form that a run's settings ask for; `verdicts`: the answers are such."""
        return cls(settings.texts_per_request, directory=settings.directory, asked_again=settings.asked_again,
                   logprobs=verdicts and settings.logprobs)  # fmt: skip

    def version(self, template: str) -> str:
        """Changes with everything that answers depend on, the model apart."""
        probabilities = ("probabilities",) if self.logprobs else ()
        return hex_hash("2", self.texts_per_request, self.max_tokens, self.temperature,
                        template_hash(template, directory=self.directory), *probabilities)  # fmt: skip


async def ask_about(
    question: Question[Value],
    form: Form,
    label: Label,
    contexts: Sequence[Context],
    ask: Ask | None,
    vocabulary: Vocabulary,
) -> list[Value | RequestFailed]:
    """The answer for each context, in their order, or why there is none. Raises UserError where `ask` is None."""
    order = sorted(range(len(contexts)), key=lambda index: stable_hash("mixed", contexts[index].window_id))
    groups = in_groups(order, form.texts_per_request)
    texts = [[Text([int(token) for token in contexts[index].tokens]) for index in group] for group in groups]
    answered = await ask_in_groups(question, form, label, texts, ask, vocabulary)
    found = {index: one for group, some in zip(groups, answered, strict=True)
             for index, one in zip(group, some, strict=True)}  # fmt: skip
    return [found[index] for index in range(len(contexts))]


def in_groups(items: Sequence[Item], most: int) -> list[Sequence[Item]]:
    """`items` in their order, in as few groups as have at most so many; all about as large."""
    count = -(-len(items) // most)
    return [items[len(items) * at // count : len(items) * (at + 1) // count] for at in range(count)]


async def ask_in_groups(
    question: Question[Value],
    form: Form,
    label: Label,
    groups: Sequence[Sequence[Text]],
    ask: Ask | None,
    vocabulary: Vocabulary,
) -> list[list[Value | RequestFailed]]:
    """A request for each group; the answers for its texts. Raises UserError where `ask` is None."""
    asking = _Asking(question, form, label, needed(ask, question.template), vocabulary)
    return await all_asked(asking.group(group) for group in groups)


@dataclass(frozen=True, slots=True)
class _Asking(Generic[Value]):
    question: Question[Value]
    form: Form
    label: Label
    ask: Ask
    vocabulary: Vocabulary

    async def group(self, group: Sequence[Text], sample: int = 0) -> list[Value | RequestFailed]:
        """Ask about a group, and about what does not fit once more: each text by itself where those are few, in halves where
        they are most. A half of which nothing fits is given up, unless it is refused, for which one text may be the cause: so a
        model whose answers never fit is asked twice more, and not once for every text, each time with all instructions."""
        outcomes = await self._once(group, sample)
        doubtful = [index for index, outcome in enumerate(outcomes) if is_worth_asking_again(outcome)]
        if not doubtful or sample == _LAST or (sample and len(doubtful) == len(group) and not _is_refused(outcomes)):
            return outcomes
        few = sample or 2 * len(doubtful) <= len(group)
        pieces = in_groups(doubtful, 1 if few else -(-len(doubtful) // 2))
        asked = (self.group([group[index] for index in piece], sample + 1) for piece in pieces)
        for piece, again in zip(pieces, await all_asked(asked), strict=True):
            for index, outcome in zip(piece, again, strict=True):
                outcomes[index] = outcome
        return outcomes

    async def _once(self, group: Sequence[Text], sample: int) -> list[Value | RequestFailed]:
        texts = [[self.vocabulary.text(token) for token in text.tokens] for text in group]
        try:
            answer = await self.ask(self._request(group, texts, sample))
        except RequestFailed as failure:
            return [failure for _ in group]
        return self._weighed(self._outcomes(answer.text, texts), answer)

    def _weighed(self, outcomes: list[Value | RequestFailed], answer: Answer) -> list[Value | RequestFailed]:
        """Verdicts with their probability, where the answer has any."""
        if not answer.logprobs:
            return outcomes
        known = yes_probabilities(answer.text, verdict_places(answer.text), answer.logprobs)
        return [
            replace(one, probability=known.get(number)) if isinstance(one, Verdict) else one
            for number, one in enumerate(outcomes, start=1)
        ]

    def _request(self, group: Sequence[Text], texts: Sequence[Sequence[str]], sample: int) -> Request:
        habits = habits_of(self.vocabulary)
        marks = marks_for("".join(text) for text in texts) if self.question.about_marks else None
        lines = [marked_line(tokens, text.marked, marks, habits) for text, tokens in zip(group, texts, strict=True)]
        shown = fenced("\n".join(f"{number}|{line}" for number, line in enumerate(lines, start=1)))
        about = f',"marks":{marks.json}' if marks else ""
        asked = f'{{"question":"{self.question.name}"{about},"explanation":{quoted_text(self.label.description)}}}'
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
            logprobs=ALTERNATIVES if self.form.logprobs else None,
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


def _is_refused(outcomes: Sequence[object]) -> bool:
    """Whether a question about several texts was refused as a whole."""
    return len(outcomes) > 1 and all(
        isinstance(one, RequestFailed) and one.kind is FailureKind.REFUSED for one in outcomes
    )


def is_worth_asking_again(outcome: object) -> bool:
    """Whether a second question may mend it."""
    return isinstance(outcome, RequestFailed) and outcome.kind in _WORTH_ASKING_AGAIN


def marked_line(tokens: Sequence[str], marked: Sequence[int], marks: Marks | None, habits: Habits) -> str:
    """A text's line, with marks around each run of marked tokens. A mark is a boundary of tokens, too."""
    if marks is None or not marked:
        return written(tokens, habits)
    chosen, parts = set(marked), []
    for is_marked, run in groupby(range(len(tokens)), key=chosen.__contains__):
        line = written([tokens[at] for at in run], habits)
        parts.append(f"{marks.opening}{line}{marks.closing}" if is_marked else line)
    return "".join(parts)


def verdict(tokens: Sequence[str], entries: Sequence[Any]) -> Verdict:
    """What an answer says after a text's number where 1 or 0 was asked for. Raises MisalignedError."""
    if len(entries) != 1 or type(entries[0]) is not int or entries[0] not in (0, 1):
        raise MisalignedError(f"expected the text's number and 1 or 0, found {quoted(list(entries))} after the number")
    return Verdict(bool(entries[0]))


def quoted(value: object) -> str:
    """The beginning of what a model wrote, for a reason."""
    return json.dumps(value, ensure_ascii=False, default=str)[:80]
