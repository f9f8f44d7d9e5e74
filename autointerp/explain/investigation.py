"""One conversation of an investigation: turns with calls of tools, and the answer that ends it."""

import json
from dataclasses import replace

from autointerp.catalog.records import Step
from autointerp.explain import Search
from autointerp.explain.answers import SCHEMA, LabelAnswer
from autointerp.explain.asking import AGAIN
from autointerp.explain.parsing import parse_answer
from autointerp.explain.toolbox import Toolbox
from autointerp.llm.tools import arguments_of, turn_of
from autointerp.llm.types import (
    Answer,
    Ask,
    FailureKind,
    Message,
    Request,
    RequestFailed,
    ToolCall,
    Usage,
    prompt_text,
)
from autointerp.prompts_loader import fenced
from autointerp.vocabulary import escape

_MOST_FAULTS = 2  # turns in a row in which no call could be run
_SHOWN = 4000  # characters of an answer that could not be used
_CHARS_PER_TOKEN = 3  # where a reply does not say how many tokens it took
_NOT_RUN = '{"fault":"no calls are left: this one was not run"}'


class Investigation:
    """`request` is its first question, with the tools. `search` holds the budgets. `steps`: what was tried so far."""

    def __init__(self, request: Request, toolbox: Toolbox, ask: Ask, search: Search) -> None:
        self.steps: list[Step] = []
        self._request = request
        self._toolbox = toolbox
        self._ask = ask
        self._most_steps = search.investigate_steps
        self._most_tokens = search.investigate_tokens
        self._tokens = 0
        self._faults = 0
        self._messages: list[Message] = list(request.messages)

    async def answer(self) -> LabelAnswer:
        """What the model ends with. Raises RequestFailed where that is of no use, and NotAtHandError."""
        while self._left():
            request = replace(self._request, messages=tuple(self._messages))
            try:
                answer = await self._ask(request)
                self._tokens += _tokens(request, answer)
                if not answer.calls:
                    return self._parsed(answer)
            except RequestFailed as failure:
                if failure.kind != FailureKind.MALFORMED:
                    raise
                break  # neither calls nor a label: it is asked for the label alone
            await self._run(answer)
        return await self._last_answer()

    async def _run(self, answer: Answer) -> None:
        """Run the calls of an answer, one after the other; those beyond the budget are answered, too."""
        turn = turn_of(answer, self._messages)
        results, faults = [], 0
        for call in turn.calls:
            if len(self.steps) >= self._most_steps:
                results.append(_NOT_RUN)
                continue
            result = await self._toolbox.run(call, len(self.steps) + 1)
            faults += result.is_fault
            self.steps.append(Step(escape(call.name), _as_json(call), result.told))
            results.append(result.told)
        self._faults = self._faults + 1 if faults == len(results) else 0
        left = self._left()
        self._messages.append(turn)
        for call, told in zip(turn.calls, results, strict=True):
            self._messages.append(Message("tool", f"calls left: {left}\n{fenced(told)}", call_id=call.id))

    def _left(self) -> int:
        """Calls that may still be made: none once the tokens are used up, or where the model gets no call right."""
        if self._tokens >= self._most_tokens or self._faults >= _MOST_FAULTS:
            return 0
        return self._most_steps - len(self.steps)

    async def _last_answer(self) -> LabelAnswer:
        """The answer as structured output, without calls; where it is of no use once more, with what is wrong with it."""
        request = replace(self._request, messages=tuple(self._messages), json_schema=SCHEMA, may_call=False)
        try:
            return self._parsed(await self._ask(request))
        except RequestFailed as failure:
            if failure.kind != FailureKind.MALFORMED:
                raise
        return parse_answer(await self._ask(replace(request, messages=tuple(self._messages), sample=1)), LabelAnswer)

    def _parsed(self, answer: Answer) -> LabelAnswer:
        """The label in an answer. Raises RequestFailed; what is malformed is objected to in the conversation."""
        try:
            return parse_answer(answer, LabelAnswer)
        except RequestFailed as failure:
            if failure.kind == FailureKind.MALFORMED:
                text = answer.text[:_SHOWN]
                said = Message("assistant", text if text.strip() else "(nothing)")
                self._messages += [said, Message("user", AGAIN.format(reason=failure.reason))]
            raise


def _tokens(request: Request, answer: Answer) -> int:
    """What a question and its answer took, by the provider's count, else by rule of thumb."""
    if answer.usage != Usage():
        return answer.usage.input + answer.usage.output
    written = len(answer.text) + sum(len(call.arguments) for call in answer.calls)
    return (len(prompt_text(request)) + written) // _CHARS_PER_TOKEN


def _as_json(call: ToolCall) -> str:
    """The arguments as the model wrote them; as a JSON string where they are no object."""
    try:
        arguments_of(call)
    except ValueError:
        return json.dumps(call.arguments)
    return call.arguments or "{}"
