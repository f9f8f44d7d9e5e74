"""Anthropic's messages. It takes no temperature and gives no log-probabilities.

Structured output goes as `output_config.format`. The API accepts a part of JSON Schema only: the client's own
`transform_schema` turns the rest (bounds, lengths) into descriptions, so the caller must check these in the answer.

Prompt caching is asked for by a mark at the end of the system message, which is the same for all questions of a template, and by
another after what the request shares with further ones (`Request.shared`). What is shorter than the model's least cacheable
length is not cached, and costs what it did.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from autointerp.llm.provider import CallFailed, Capabilities, Finish, Provider, ProviderOptions, Reply, providers
from autointerp.llm.sdk import SdkLink
from autointerp.llm.types import FailureKind, Request, Usage
from autointerp.llm.wire import count

_FINISH: dict[str, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}


class AnthropicProvider:
    """Key from ANTHROPIC_API_KEY or the variable in the options; base URL likewise, or ANTHROPIC_BASE_URL."""

    name = "anthropic"
    capabilities = Capabilities(json_schema=True, prompt_caching=True)

    def __init__(self, options: ProviderOptions) -> None:
        self._link = SdkLink("anthropic", "AsyncAnthropic", "ANTHROPIC_API_KEY", options)

    def payload(self, model: str, request: Request) -> dict[str, Any]:
        system = [message.content for message in request.messages if message.role == "system"]
        turns = [message for message in request.messages if message.role != "system"]
        payload: dict[str, Any] = {
            "model": model,
            "max_tokens": request.max_tokens,
            "messages": [{"role": message.role, "content": message.content} for message in turns],
        }
        if system:
            payload["system"] = "\n\n".join(system)
        if request.json_schema is not None:
            payload["output_config"] = {"format": {"type": "json_schema", "schema": dict(request.json_schema)}}
        return payload

    def connect(self) -> None:
        self._link.connect()

    async def send(self, request: Request, payload: Mapping[str, Any]) -> Reply:
        reply = await self._link.post("/v1/messages", wire_body(payload, request.shared))
        return read_message(reply.body, reply.pause)

    async def close(self) -> None:
        await self._link.close()


def wire_body(payload: Mapping[str, Any], shared: int = 0) -> dict[str, Any]:
    """The payload with its schema in the part of JSON Schema that the API takes, and its system message marked, as are the first
    `shared` characters of the last message, if any."""
    body = dict(payload)
    if "system" in body:
        body["system"] = [_kept(body["system"])]
    if shared:
        *before, last = body["messages"]
        parts = [_kept(last["content"][:shared]), {"type": "text", "text": last["content"][shared:]}]
        body["messages"] = [*before, last | {"content": parts}]
    if "output_config" in body:
        schema = importlib.import_module("anthropic").transform_schema(body["output_config"]["format"]["schema"])
        body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    return body


def _kept(text: str) -> dict[str, Any]:
    """A block of text at whose end the cache is to keep the prompt."""
    return {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}


def read_message(body: Mapping[str, Any], pause: float | None = None) -> Reply:
    """The reply in a message: its text blocks joined; `pause` is what its headers said.

    Raises CallFailed (retryable) if the body is not a message.
    """
    blocks = body.get("content")
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise CallFailed(FailureKind.MALFORMED, "the server's reply is not a message", retryable=True)
    texts = [block.get("text", "") for block in blocks if block.get("type") == "text"]
    if not all(isinstance(text, str) for text in texts):
        raise CallFailed(FailureKind.MALFORMED, "the server's reply is a message without text", retryable=True)
    text = "".join(texts)
    finish = _FINISH.get(str(body.get("stop_reason")), "other")
    if finish == "stop" and not text.strip():
        finish = "empty"
    usage = body.get("usage")
    read, written = count(usage, "cache_read_input_tokens"), count(usage, "cache_creation_input_tokens")
    # The API counts what it read from and wrote to its cache apart from `input_tokens`; `Usage.input` is all of it.
    tokens = Usage(count(usage, "input_tokens") + written + read, count(usage, "output_tokens"), read, written)
    return Reply(text, finish, str(body.get("model") or ""), tokens, pause=pause)


@providers.register("anthropic")
def anthropic(options: ProviderOptions) -> Provider:
    """Anthropic."""
    return AnthropicProvider(options)
