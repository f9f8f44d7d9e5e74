"""Requests as a Markdown document for people. Nothing in a question can break its layout or hide from the reader."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from autointerp.llm.provider import Queued

_MOST_REQUESTS = 200
_MOST_CHARACTERS = 2_000_000
_TICKS = re.compile(r"`+")
# What a viewer would obey instead of showing: control characters, line ends other than \n, and marks that turn the
# direction of text or take no room.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_HEAD = """# Requests to be answered

{count:,} requests wait in `requests.jsonl`; this is a copy to read{part}. Give the answers in `responses.jsonl`, one line
each, in any order, in the output format of OpenAI's batches or as

    {{"custom_id": "the id above the question", "text": "the whole answer"}}

or, to call tools where there are some, with "calls": [{{"name": "...", "arguments": {{...}}}}, ...] in place of the text.
"""


def write_readable(path: Path, requests: Iterable[Queued], count: int) -> None:
    """Write the first of the `count` requests, at most 200 and 2 million characters, with a note of what is left out."""
    shown: list[str] = []
    size = 0
    seen: dict[str, str] = {}
    for request in requests:
        text = "".join(_request(request, seen))
        if len(shown) == _MOST_REQUESTS or (shown and size + len(text) > _MOST_CHARACTERS):
            break
        shown.append(text[:_MOST_CHARACTERS])
        size += len(text)
    part = "" if len(shown) == count else f" of the first {len(shown):,}"
    path.write_text(_HEAD.format(count=count, part=part) + "".join(shown), encoding="utf-8")


def _request(request: Queued, seen: dict[str, str]) -> Iterator[str]:
    """One request. `seen`: instructions, tools and schemas that were shown, each with the request in which it was; what comes
    again is not shown again.
    """
    payload = request.payload

    def once(head: str, text: str) -> str:
        if (first := seen.setdefault(text, request.key)) != request.key:
            return f"\n{head}: as in {visible(first)} above\n"
        return f"\n{head}:\n\n{fenced(text)}"

    yield f"\n## {visible(request.key)}\n"
    if "input" in payload:
        yield f"\nThe vector of this text is asked for:\n\n{fenced(payload['input'])}"
    for message in payload.get("messages", ()):
        if message["content"] is not None:
            role = visible(message["role"])
            repeats = role == "system"
            yield once(role, message["content"]) if repeats else f"\n{role}:\n\n{fenced(message['content'])}"
        for call in message.get("tool_calls", ()):
            asked = call["function"]
            yield f"\n{visible(message['role'])} calls {visible(asked['name'])}:\n\n{fenced(asked['arguments'])}"
    for tool in payload.get("tools", ()) if "tool_choice" not in payload else ():
        yield once("A tool that may be called", json.dumps(tool["function"], ensure_ascii=True))
    answer = payload.get("response_format")
    if answer is not None:
        schema = json.dumps(answer["json_schema"]["schema"], ensure_ascii=True)
        yield once("The answer is JSON of this schema", schema)


def fenced(text: str) -> str:
    """The text as a fenced code block whose fence is longer than any run of backticks in it."""
    fence = "`" * max(3, 1 + max((len(run) for run in _TICKS.findall(text)), default=0))
    return f"{fence}text\n{visible(text)}\n{fence}\n"


def visible(text: str) -> str:
    """The text with what a viewer would not show written as an escape."""
    return _UNSEEN.sub(lambda found: found.group().encode("unicode_escape").decode(), text)
