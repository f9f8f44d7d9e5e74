"""The simulator `all_at_once`: all tokens of a text from one pass over it, by log-probabilities (Bills et al. 2023).

The model is given a table: one token a line, a tab, and "unknown" where the activation should be. It writes nothing: what
is read is the probability that it gave to the numbers 0..10 at each of these places, before it saw "unknown" there. The
examples in the prompt show "unknown" up to some line and numbers from there on, so that the numbers could begin at any line.

A token is escaped as the inside of a JSON string, on its line: no tab, line break or quote of a text can be taken for one of the
table's. Places are known by their characters; it is checked that one of the model's tokens begins at each, and that all tokens
together are the table. How 10 is written by the model's tokenizer is looked at before anything else.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from autointerp.catalog.records import Context, Label
from autointerp.errors import UserError
from autointerp.hashing import hex_hash
from autointerp.llm.types import Answer, Ask, FailureKind, Message, Request, RequestFailed, TokenLogprobs
from autointerp.prompts_loader import Rendered, fenced, render
from autointerp.score import Simulated, simulators
from autointerp.score.asked import all_asked
from autointerp.score.by_probabilities import PURPOSE, ByProbabilities
from autointerp.score.readings import (
    BILLS_ALTERNATIVES,
    NUMBERS,
    ONE,
    TEN,
    ZERO,
    ReadingName,
    arrays,
    is_worth_telling,
    mass_remark,
    read_numbers,
    with_ten,
)
from autointerp.vocabulary import Vocabulary, escape

HEADER = "token\tactivation"
HIDDEN = "unknown"


@dataclass(frozen=True, slots=True)
class Table:
    """A text as the model is given it. `slots`: of each token the character at which its activation would begin."""

    text: str
    slots: tuple[int, ...]


def table(tokens: Sequence[str], cells: Sequence[str] | None = None) -> Table:
    """The table of escaped tokens, with `cells` or, as for simulation, "unknown" in each line; no line break at the end."""
    text, slots = HEADER, []
    for number, token in enumerate(tokens):
        text += f"\n{token}\t"
        slots.append(len(text))
        text += HIDDEN if cells is None else cells[number]
    return Table(text, tuple(slots))


@dataclass(frozen=True, slots=True)
class AllAtOnce(ByProbabilities):
    """See the module."""

    template: ClassVar[str] = "all_at_once"
    given: ClassVar[str] = "prompt_logprobs"

    async def splits_ten(self, ask: Ask) -> bool:
        """Told from a table."""
        return await keeps_digits_apart(ask)

    def simulating(
        self, label: Label, ask: Ask, vocabulary: Vocabulary, splits: bool
    ) -> Callable[[Context], Awaitable[Simulated]]:
        """One request a context."""
        told = fenced(f'{{"explanation":"{escape(label.description)}"}}')
        prompt = render(self.template, directory=self.directory, explanation=told)
        reader = _Reader(self.reading, prompt, ask)
        return lambda context: reader.simulated(context, vocabulary, splits)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads the tables of one label."""

    reading: ReadingName
    prompt: Rendered
    ask: Ask

    async def simulated(self, context: Context, vocabulary: Vocabulary, splits: bool) -> Simulated:
        asked = table([vocabulary.escaped(int(token)) for token in context.tokens])
        try:
            answer = await self.ask(self._request(asked.text, asked.slots))
            tops = [one.top for one in at_slots(answer, asked)]
            if splits:
                places = zip(tops, asked.slots, strict=True)
                tops = await all_asked(self._told(top, asked.text[:slot]) for top, slot in places)
            expected, mass = arrays([read_numbers(_checked(top, self.reading), ten_in_one=splits) for top in tops])
        except RequestFailed as failure:
            return Simulated(context.window_id, None, "failed", str(failure))
        return Simulated(context.window_id, expected, "ok", mass_remark(mass), mass)

    async def _told(self, top: Mapping[str, float], before: str) -> Mapping[str, float]:
        """The alternatives with "10", where it is missing and could matter."""
        if not is_worth_telling(top, self.reading):
            return top
        answer = await self.ask(self._request(before + TEN, ()))
        return with_ten(top, zero_after_one(answer))

    def _request(self, continuation: str, slots: Sequence[int]) -> Request:
        exact = self.reading == "exact"
        return Request(
            messages=self.prompt.messages, max_tokens=1, logprobs=0 if exact or not slots else BILLS_ALTERNATIVES,
            continuation=continuation, slots=slots, among=NUMBERS if exact and slots else (), purpose=PURPOSE,
            template_hash=self.prompt.template_hash,
        )  # fmt: skip


def at_slots(answer: Answer, asked: Table) -> list[TokenLogprobs]:
    """The model's token at each slot. Raises RequestFailed (malformed) unless one begins there, and all are the table."""
    begins: dict[int, TokenLogprobs] = {}
    at = 0
    for one in answer.logprobs:
        if one.token:
            begins[at] = one
        at += len(one.token)
    if "".join(one.token for one in answer.logprobs) != asked.text:
        raise RequestFailed(FailureKind.MALFORMED, "the tokens that were read are not those of the table")
    missing = [slot for slot in asked.slots if slot not in begins]
    if missing:
        line = asked.text[: missing[0]].count("\n")
        raise RequestFailed(
            FailureKind.MALFORMED, f"none of the model's tokens begins at the activation of token {line}"
        )
    return [begins[slot] for slot in asked.slots]


async def keeps_digits_apart(ask: Ask) -> bool:
    """Whether the model's tokenizer makes two tokens of "10". The same question for every label: it is asked once.

    Raises UserError where the activations of a table are no tokens of their own, RequestFailed where it could not be asked.
    """
    probe = table(["a", " b", "c", "."], [HIDDEN, TEN, "7", HIDDEN])
    request = Request(
        messages=[Message("user", "A table of tokens and their activations.")], max_tokens=1, logprobs=0, continuation=probe.text,
        slots=(), purpose=PURPOSE, template_hash=hex_hash("how 10 is written"),
    )  # fmt: skip
    try:
        answer = await ask(request)
        _, ten, seven, _ = (one.token for one in at_slots(answer, probe))
    except RequestFailed as failure:
        if (
            failure.kind is not FailureKind.MALFORMED
        ):  # what was given back is other tokens, as it will be for every table
            raise
        raise UserError(_unreadable(failure.reason)) from failure
    if seven != "7" or ten not in (TEN, ONE):
        raise UserError(_unreadable(f"it makes {ten!r} and {seven!r} of the beginnings of 10 and 7"))
    return ten == ONE


def _unreadable(reason: str) -> str:
    return (
        f"the model's tokenizer does not keep a table's activations apart ({reason}); expected one that begins after the tab; "
        "choose another model, or the simulator one_at_a_time or logprob_free"
    )


def zero_after_one(answer: Answer) -> float:
    """log p("0" | "1") of an answer that is a given text ending with "10". Raises RequestFailed (malformed)."""
    tokens = [one.token for one in answer.logprobs if one.token]
    if tokens[-2:] != [ONE, ZERO]:
        raise RequestFailed(FailureKind.MALFORMED, f"10 was read as {tokens[-2:]}; expected the tokens 1 and 0")
    return answer.logprobs[-1].logprob


def _checked(top: Mapping[str, float], reading: ReadingName) -> Mapping[str, float]:
    """The alternatives, of which the exact reading needs all."""
    missing = [text for text in NUMBERS[:-1] if text not in top] if reading == "exact" else []
    if missing:
        reason = f"the log-probability of {missing[0]} is missing: it is no token of its own"
        raise RequestFailed(FailureKind.MALFORMED, reason)
    return top


simulators.register("all_at_once")(AllAtOnce())
