"""Anthropic's messages. It takes no temperature and gives no log-probabilities.

Structured output goes as `output_config.format`. The API accepts a part of JSON Schema only: the client's own
`transform_schema` turns the rest (bounds, lengths) into descriptions, so the caller must check these in the answer.

Prompt caching is asked for by a mark at the end of the system message, which is the same for all questions of a template.
A system message shorter than the model's least cacheable length is not cached, and costs what it did. Where tools may be called
the last message is marked, too: the next turn begins with all of it.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from autointerp.llm.provider import CallFailed, Capabilities, Finish, Provider, ProviderOptions, Reply, providers
from autointerp.llm.sdk import SdkLink
from autointerp.llm.tools import calls_of, shown_arguments
from autointerp.llm.types import FailureKind, Message, Request, ToolCall, Usage
from autointerp.llm.wire import count

_FINISH: dict[str, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}
_CACHED = {"cache_control": {"type": "ephemeral"}}


class AnthropicProvider:
    """Key from ANTHROPIC_API_KEY or the variable in the options; base URL likewise, or ANTHROPIC_BASE_URL."""

    name = "anthropic"
    capabilities = Capabilities(json_schema=True, tools=True, prompt_caching=True)

    def __init__(self, options: ProviderOptions) -> None:
        self._link = SdkLink("anthropic", "AsyncAnthropic", "ANTHROPIC_API_KEY", options)

    def payload(self, model: str, request: Request) -> dict[str, Any]:
        system = [message.content for message in request.messages if message.role == "system"]
        payload: dict[str, Any] = {
            "model": model,
            "max_tokens": request.max_tokens,
            "messages": _turns(request.messages),
        }
        if system:
            payload["system"] = "\n\n".join(system)
        if request.json_schema is not None:
            payload["output_config"] = {"format": {"type": "json_schema", "schema": dict(request.json_schema)}}
        if request.tools:
            payload["tools"] = [
                {"name": tool.name, "description": tool.description, "input_schema": dict(tool.parameters)}
                for tool in request.tools
            ]
            if not request.may_call:
                payload["tool_choice"] = {"type": "none"}
        return payload

    def connect(self) -> None:
        self._link.connect()

    async def send(self, request: Request, payload: Mapping[str, Any]) -> Reply:
        reply = await self._link.post("/v1/messages", wire_body(payload))
        return read_message(reply.body, reply.pause)

    async def close(self) -> None:
        await self._link.close()


def _turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages but the system's. Results of calls, and what the user says after them, make one turn."""
    turns: list[dict[str, Any]] = []
    results: list[dict[str, Any]] | None = None  # of the turn before
    for message in messages:
        if message.role == "tool":
            if results is None:
                results = []
                turns.append({"role": "user", "content": results})
            results.append({"type": "tool_result", "tool_use_id": message.call_id, "content": message.content})
            continue
        if results is not None and message.role == "user":
            results.append({"type": "text", "text": message.content})
            continue
        if message.calls:
            said = [{"type": "text", "text": message.content}] if message.content.strip() else []
            uses = [
                {"type": "tool_use", "id": call.id, "name": call.name, "input": shown_arguments(call)}
                for call in message.calls
            ]
            turns.append({"role": "assistant", "content": [*said, *uses]})
        elif message.role != "system":
            turns.append({"role": message.role, "content": message.content})
        results = None
    return turns


def wire_body(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The payload with its schema in the part of JSON Schema that the API takes, and marked for the cache."""
    body = dict(payload)
    if "system" in body:
        body["system"] = [{"type": "text", "text": body["system"], **_CACHED}]
    if "tools" in body and "tool_choice" not in body:
        *earlier, last = body["messages"]
        content = last["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        body["messages"] = [*earlier, {**last, "content": [*blocks[:-1], {**blocks[-1], **_CACHED}]}]
    if "output_config" in body:
        schema = importlib.import_module("anthropic").transform_schema(body["output_config"]["format"]["schema"])
        body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    return body


def read_message(body: Mapping[str, Any], pause: float | None = None) -> Reply:
    """The reply in a message: its text blocks joined, and its calls; `pause` is what its headers said.

    Raises CallFailed (retryable) if the body is not a message.
    """
    blocks = body.get("content")
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise CallFailed(FailureKind.MALFORMED, "the server's reply is not a message", retryable=True)
    texts = [block.get("text", "") for block in blocks if block.get("type") == "text"]
    if not all(isinstance(text, str) for text in texts):
        raise CallFailed(FailureKind.MALFORMED, "the server's reply is a message without text", retryable=True)
    text = "".join(texts)
    calls, reason = _calls(blocks), str(body.get("stop_reason"))
    finish = "stop" if calls and reason == "tool_use" else _FINISH.get(reason, "other")
    if finish == "stop" and calls is None:
        finish = "other"
    elif finish == "stop" and not calls and not text.strip():
        finish = "empty"
    usage = body.get("usage")
    read, written = count(usage, "cache_read_input_tokens"), count(usage, "cache_creation_input_tokens")
    # The API counts what it read from and wrote to its cache apart from `input_tokens`; `Usage.input` is all of it.
    tokens = Usage(count(usage, "input_tokens") + written + read, count(usage, "output_tokens"), read, written)
    return Reply(
        text, finish, str(body.get("model") or ""), tokens, pause=pause, calls=(calls or ()) if finish == "stop" else ()
    )


def _calls(blocks: Sequence[Mapping[str, Any]]) -> tuple[ToolCall, ...] | None:
    """The calls among a message's blocks; None where they are such that nothing can answer them."""
    uses = [block for block in blocks if block.get("type") == "tool_use"]
    return calls_of((block.get("id"), block.get("name"), block.get("input")) for block in uses)


@providers.register("anthropic")
def anthropic(options: ProviderOptions) -> Provider:
    """Anthropic."""
    return AnthropicProvider(options)
