"""Tool calls as models write them: read with bounds, told apart, and taken apart before anything is done.

Servers differ in what they promise. Some give no id, or the same one each turn; some write arguments that are no JSON. What is
wrong with a call is for the model to hear, not for the program to fall over: nothing here fails for a call that has a name.
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from autointerp.hashing import hex_hash
from autointerp.llm.types import Answer, Message, ToolCall

MAX_CALLS = 32
"""Calls of one answer; one with more is no answer."""

MAX_ARGUMENTS = 20_000
"""Characters of a call's arguments that are kept."""

_LONGEST_NAME = 64
_LONGEST_ID = 128
_UNNAMEABLE = re.compile(r"[^A-Za-z0-9_-]")  # not taken in a tool's name
_MADE_ID = 9  # letters and digits: what Mistral's chat templates insist on


def calls_of(written: Iterable[tuple[object, object, object]]) -> tuple[ToolCall, ...] | None:
    """The calls in (id, name, arguments) as a server gave them; arguments are JSON text, or the object that it stands for.

    None where a call has no name or there are more than `MAX_CALLS`.
    """
    calls: list[ToolCall] = []
    for given, name, arguments in written:
        if not isinstance(name, str) or not name or len(calls) == MAX_CALLS:
            return None
        ident = given if isinstance(given, str) and given.isprintable() and len(given) <= _LONGEST_ID else ""
        calls.append(ToolCall(ident, name[:_LONGEST_NAME], _text_of(arguments)[:MAX_ARGUMENTS]))
    return tuple(calls)


def arguments_of(call: ToolCall) -> dict[str, Any]:
    """The arguments of a call; none at all stand for the empty object. Raises ValueError, with what to tell the model."""
    if len(call.arguments) >= MAX_ARGUMENTS:
        raise ValueError(f"the arguments are longer than {MAX_ARGUMENTS:,} characters")
    try:
        found = json.loads(call.arguments or "{}")
        json.dumps(found, allow_nan=False, ensure_ascii=False).encode()  # no infinity, no half of a character
    except (ValueError, RecursionError):
        raise ValueError("the arguments are not JSON") from None
    if not isinstance(found, dict):
        raise ValueError(f"the arguments are a JSON {type(found).__name__}, not an object")
    return found


def shown_arguments(call: ToolCall) -> dict[str, Any]:
    """The arguments as the model is shown them again: the empty object for what it cannot be (servers refuse anything else)."""
    try:
        return arguments_of(call)
    except ValueError:
        return {}


def turn_of(answer: Answer, before: Sequence[Message]) -> Message:
    """The answer as a message of the conversation `before`. Every call has an id of its own and a name that may be sent."""
    used = {call.id for message in before for call in message.calls}
    calls: list[ToolCall] = []
    for call in answer.calls:
        ident, tries = call.id, 0
        while not ident or ident in used:
            ident = hex_hash("call", len(before), len(calls), tries)[:_MADE_ID]
            tries += 1
        used.add(ident)
        calls.append(ToolCall(ident, _UNNAMEABLE.sub("_", call.name), call.arguments))
    return Message("assistant", answer.text, tuple(calls))


def _text_of(arguments: object) -> str:
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    try:
        return json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):  # an infinity, which is no JSON either
        return repr(arguments)
