"""Chat completions, the protocol of OpenAI and of every server that follows it: what is sent and how it is read.

Structured output goes as `response_format` of type `json_schema` with `strict`; schemas must therefore list every
property as required and forbid others. (vLLM ignores its former `guided_*` options without a word.)

Tools go as functions, not `strict`: few servers hold models to it, so arguments are checked by whoever runs the call.
"""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from autointerp.errors import UserError
from autointerp.llm.logprobs import MOST_ALTERNATIVES, answer_logprobs, at_slots, continuation_logprobs
from autointerp.llm.provider import CallFailed, Finish, Reply
from autointerp.llm.tools import calls_of, shown_arguments
from autointerp.llm.types import FailureKind, Message, Request, ToolCall, Usage
from autointerp.llm.wire import WireReply, count

_FINISH: dict[str, Finish] = {
    "length": "length",
    "content_filter": "refusal",
    "tool_calls": "other",
    "function_call": "other",
}
_OWN_HOSTS = (".openai.com", ".openai.azure.com")


def chat_payload(model: str, request: Request) -> dict[str, Any]:
    """The request as the journal identifies it. Raises UserError if it asks for more alternatives than there are.

    With a continuation nothing else matters than messages and continuation: nothing is sampled but one token, which
    servers insist on and which is thrown away.
    """
    messages = [_message(message) for message in request.messages]
    if request.continuation is not None:
        slots = (
            {} if request.slots is None else {"slots": list(request.slots)}
        )  # the answer that is kept depends on them
        return slots | {
            "model": model,
            "messages": [*messages, {"role": "assistant", "content": request.continuation}],
            "max_completion_tokens": 1,
            "continue_final_message": True,
            "add_generation_prompt": False,
            "prompt_logprobs": request.logprobs or 0,
        }
    payload: dict[str, Any] = {"model": model, "messages": messages, "max_completion_tokens": request.max_tokens}
    if request.temperature is not None:
        payload["temperature"] = request.temperature
    if request.json_schema is not None:
        schema = {"name": request.schema_name, "strict": True, "schema": dict(request.json_schema)}
        payload["response_format"] = {"type": "json_schema", "json_schema": schema}
    if request.tools:
        payload["tools"] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
            }
            for tool in request.tools
        ]
        if not request.may_call:
            payload["tool_choice"] = "none"
    if request.logprobs is not None:
        if not 0 <= request.logprobs <= MOST_ALTERNATIVES:
            raise UserError(
                f"the {request.purpose or 'unnamed'} request asks for {request.logprobs} alternatives at each token; "
                f"chat completions give 0 to {MOST_ALTERNATIVES}; ask for fewer"
            )
        payload |= {"logprobs": True, "top_logprobs": request.logprobs}
    return payload


def _message(message: Message) -> dict[str, Any]:
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.call_id, "content": message.content}
    if not message.calls:
        return {"role": message.role, "content": message.content}
    calls = [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(shown_arguments(call), ensure_ascii=False)},
        }
        for call in message.calls
    ]
    return {"role": message.role, "content": message.content or None, "tool_calls": calls}


def wire_body(payload: Mapping[str, Any], address: str, beginning: str = "") -> dict[str, Any]:
    """The payload as the server at `address` takes it.

    OpenAI's newer models refuse `max_tokens`; many compatible servers know only that and ignore
    `max_completion_tokens`, which would leave answers without a limit. OpenAI takes a `prompt_cache_key`, which sends
    requests with the same `beginning` to the same machine. vLLM names the ids of the prompt's
    tokens if asked; the others ignore the question.
    """
    body = {name: value for name, value in payload.items() if name != "slots"}
    if own_host(address):
        if beginning:
            body["prompt_cache_key"] = beginning
        return body
    body["max_tokens"] = body.pop("max_completion_tokens")
    if "prompt_logprobs" in body:
        body["return_token_ids"] = True
    return body


def own_host(address: str) -> bool:
    """Whether it is OpenAI that answers at `address`, itself or through Azure."""
    try:
        return f".{urlsplit(address).hostname}".endswith(_OWN_HOSTS)
    except ValueError:  # no URL; the provider will say so when it is connected
        return False


def read_reply(reply: WireReply, request: Request) -> Reply:
    """The reply to `request`, with what the headers said. Raises CallFailed."""
    return read_completion(reply.body, request, reply.pause)


def read_completion(body: Mapping[str, Any], request: Request | None = None, pause: float | None = None) -> Reply:
    """The reply in a chat completion; log-probabilities are read if `request` asks for them. Raises CallFailed.

    Calls are taken where `request` offers tools, or where it is not known. Compatible servers have finish reasons of their own
    ("eos", null) for a natural end: what is not known to be something else counts as "stop" if there is content.
    """
    try:
        choice = body["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason")
        content, refusal = message.get("content") or "", message.get("refusal")
        calls = _calls(message) if request is None or request.tools else ()
    except (AttributeError, IndexError, KeyError, TypeError):
        content = message = None
    if not isinstance(content, str):
        raise CallFailed(FailureKind.MALFORMED, "the server's reply is not a chat completion", retryable=True)
    usage = body.get("usage")
    tokens = Usage(
        input=count(usage, "prompt_tokens"),
        output=count(usage, "completion_tokens"),
        cached=count(usage, "prompt_tokens_details", "cached_tokens"),
        written=count(usage, "prompt_tokens_details", "cache_write_tokens"),
    )
    model = str(body.get("model") or "")
    if request is not None and request.continuation is not None:
        given = at_slots(continuation_logprobs(body, request.continuation, request.logprobs or 0), request.slots)
        return Reply(request.continuation, "stop", model, tokens, given, pause)
    finish: Finish = "refusal" if refusal else _FINISH.get(str(reason), "stop")
    if calls is None and finish == "stop":
        finish = "other"
    elif calls and finish in ("stop", "other"):
        return Reply(content, "stop", model, tokens, pause=pause, calls=calls)
    elif finish == "stop" and not content.strip():
        finish = "empty"
    if request is not None and request.may_be_cut and finish in ("length", "empty"):
        finish = "stop"
    wanted = request is not None and request.logprobs is not None and finish == "stop"
    logprobs = answer_logprobs(choice) if wanted else ()
    return Reply(content or str(refusal or ""), finish, model, tokens, logprobs, pause)


def _calls(message: Mapping[str, Any]) -> tuple[ToolCall, ...] | None:
    """The calls in a message; None where they are such that nothing can answer them."""
    found = message.get("tool_calls") or ()
    try:
        return calls_of((call.get("id"), call["function"]["name"], call["function"].get("arguments")) for call in found)
    except (AttributeError, KeyError, TypeError):
        return None
