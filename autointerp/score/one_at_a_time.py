"""The simulator `one_at_a_time`: one question a token, answered by a number, of which the log-probabilities are read.

After Bills et al. 2023. It is for models that give log-probabilities of what they write, and none of what they are given: a
request for every token of every text, many times the price of `all_at_once`. Of the answer one token is read, whatever it is.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from autointerp.catalog.records import Context, Label
from autointerp.errors import UserError
from autointerp.hashing import hex_hash
from autointerp.llm.types import Ask, FailureKind, Message, Request, RequestFailed
from autointerp.prompts_loader import fenced, render
from autointerp.score import Settings, Simulated, simulators
from autointerp.score.all_at_once import zero_after_one
from autointerp.score.by_probabilities import PURPOSE, ByProbabilities
from autointerp.score.readings import (
    BILLS_ALTERNATIVES,
    NUMBERS,
    ONE,
    TEN,
    ZERO,
    Read,
    arrays,
    is_worth_telling,
    mass_remark,
    read_numbers,
    with_ten,
)
from autointerp.vocabulary import Vocabulary, escape


@dataclass(frozen=True, slots=True)
class OneAtATime(ByProbabilities):
    """See the module. `reads_given`: the provider gives log-probabilities of given texts, too."""

    template: ClassVar[str] = "one_at_a_time"
    given: ClassVar[str] = "logprobs"

    reads_given: bool = False

    def configured(self, settings: Settings) -> Self:
        """The same simulator with a run's settings."""
        offered = "prompt_logprobs" in settings.offers
        return replace(self, reading=settings.reading, directory=settings.directory, reads_given=offered)

    def simulating(
        self, label: Label, ask: Ask, vocabulary: Vocabulary, splits: bool
    ) -> Callable[[Context], Awaitable[Simulated]]:
        """One request a token."""
        return lambda context: self._simulated(label, context, ask, vocabulary, splits)

    async def _simulated(
        self, label: Label, context: Context, ask: Ask, vocabulary: Vocabulary, splits: bool
    ) -> Simulated:
        """Failed if one of the tokens is: the others say too little without it."""
        places = range(len(context.tokens))
        requests = [self._request(label, context, place, vocabulary) for place in places]
        outcomes = await asyncio.gather(*(self._read(one, ask, splits) for one in requests), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, RequestFailed):
                raise outcome
        failures = [(place, one) for place, one in enumerate(outcomes) if isinstance(one, RequestFailed)]
        if failures:
            place, failure = failures[0]
            reason = f"{failure} (token {place}; {len(failures)} of {len(outcomes)} tokens failed)"
            return Simulated(context.window_id, None, "failed", reason)
        expected, mass = arrays([one for one in outcomes if isinstance(one, Read)])
        return Simulated(context.window_id, expected, "ok", mass_remark(mass), mass)

    async def _read(self, request: Request, ask: Ask, splits: bool) -> Read:
        answer = await ask(request)
        if not answer.logprobs:
            raise RequestFailed(
                FailureKind.MALFORMED, "the answer came without a token whose log-probabilities could be read"
            )
        top: Mapping[str, float] = answer.logprobs[0].top
        if splits and is_worth_telling(top, self.reading):
            given = replace(request, continuation=TEN, logprobs=0, slots=(), among=(), may_be_cut=False)
            top = with_ten(top, zero_after_one(await ask(given)))
        return read_numbers(top, ten_in_one=splits)

    def _request(self, label: Label, context: Context, place: int, vocabulary: Vocabulary) -> Request:
        tokens = [int(token) for token in context.tokens[: place + 1]]
        asked = (f'{{"explanation":"{escape(label.description)}","text":"{escape(vocabulary.join(tokens))}",'
                 f'"token":"{vocabulary.escaped(tokens[-1])}"}}')  # fmt: skip
        prompt = render(self.template, directory=self.directory, question=fenced(asked))
        exact = self.reading == "exact"
        return Request(
            messages=prompt.messages, max_tokens=1, logprobs=0 if exact else BILLS_ALTERNATIVES, among=NUMBERS if exact else (),
            may_be_cut=True, purpose=PURPOSE, template_hash=prompt.template_hash,
        )  # fmt: skip

    async def splits_ten(self, ask: Ask) -> bool:
        """Told from a text that the model is told to write, since a server may give log-probabilities of answers alone; where it
        writes something else, from a given text.

        Raises UserError where it is so and p("0" | "1") cannot be had, or where it cannot be found out.
        """
        request = Request(
            [Message("user", "Write the number ten in digits, and nothing else.")], max_tokens=2, logprobs=0, may_be_cut=True,
            purpose=PURPOSE, template_hash=hex_hash("how 10 is written"),
        )  # fmt: skip
        tokens = await _beginning(request, ask)
        if self.reads_given and tokens[:1] != [TEN] and tokens != [ONE, ZERO]:
            tokens = await _beginning(replace(request, continuation=TEN, slots=(), may_be_cut=False), ask)
        if tokens[:1] == [TEN]:
            return False
        if tokens == [ONE, ZERO] and self.reads_given:
            return True
        if tokens == [ONE, ZERO]:
            raise UserError(
                "the simulator one_at_a_time cannot tell 10 from 1: the model writes 10 as two tokens, and its provider gives no "
                "log-probabilities of given texts; use the simulator logprob_free, or a provider that gives them"
            )
        raise UserError(
            f"the simulator one_at_a_time: the model was told to write 10, and its answer begins {tokens}; expected 10; choose "
            "another model or the simulator logprob_free"
        )


async def _beginning(request: Request, ask: Ask) -> list[str]:
    """The first two tokens of the answer."""
    return [one.token for one in (await ask(request)).logprobs if one.token][:2]


simulators.register("one_at_a_time")(OneAtATime())
