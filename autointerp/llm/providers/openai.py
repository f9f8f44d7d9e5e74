"""OpenAI's chat completions, and every server that speaks them: vLLM, SGLang, llama.cpp, Ollama, Together, OpenRouter.

Structured output goes as `response_format` of type `json_schema` with `strict`; schemas must therefore list every
property as required and forbid others. (vLLM ignores its former `guided_*` options without a word.)
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from autointerp.llm.provider import CallFailed, Capabilities, Finish, Provider, ProviderOptions, Reply, providers
from autointerp.llm.sdk import SdkLink, count
from autointerp.llm.types import FailureKind, Request, Usage

_FINISH: dict[str, Finish] = {
    "length": "length",
    "content_filter": "refusal",
    "tool_calls": "other",
    "function_call": "other",
}
_OWN_HOSTS = (".openai.com", ".openai.azure.com")


class OpenAIProvider:
    """Key from OPENAI_API_KEY or the variable in the options; base URL from these, OPENAI_BASE_URL or OpenAI's."""

    name = "openai"
    capabilities = Capabilities(temperature=True, json_schema=True)

    def __init__(self, options: ProviderOptions) -> None:
        self._link = SdkLink("openai", "AsyncOpenAI", "OPENAI_API_KEY", options)

    def payload(self, model: str, request: Request) -> dict[str, Any]:
        payload: dict[str, Any] = {
            "model": model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "max_completion_tokens": request.max_tokens,
        }
        if request.temperature is not None:
            payload["temperature"] = request.temperature
        if request.json_schema is not None:
            schema = {"name": request.schema_name, "strict": True, "schema": dict(request.json_schema)}
            payload["response_format"] = {"type": "json_schema", "json_schema": schema}
        return payload

    def connect(self) -> None:
        self._link.connect()

    async def send(self, request: Request, payload: Mapping[str, Any]) -> Reply:
        return read_completion(await self._link.post("/chat/completions", wire_body(payload, self._link.address)))

    async def close(self) -> None:
        await self._link.close()


def wire_body(payload: Mapping[str, Any], address: str) -> dict[str, Any]:
    """The payload as the server at `address` takes it.

    OpenAI's newer models refuse `max_tokens`; many compatible servers know only that and ignore
    `max_completion_tokens`, which would leave answers without a limit.
    """
    body = dict(payload)
    if not f".{urlsplit(address).hostname}".endswith(_OWN_HOSTS):
        body["max_tokens"] = body.pop("max_completion_tokens")
    return body


def read_completion(body: Mapping[str, Any]) -> Reply:
    """The reply in a chat completion. Raises CallFailed (retryable) if the body is not one.

    Compatible servers have finish reasons of their own ("eos", null) for a natural end: what is not known to be
    something else counts as "stop" if there is content.
    """
    try:
        choice = body["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason")
        content, refusal = message.get("content") or "", message.get("refusal")
    except (AttributeError, IndexError, KeyError, TypeError):
        content = message = None
    if not isinstance(content, str):
        raise CallFailed(FailureKind.MALFORMED, "the server's reply is not a chat completion", retryable=True)
    finish: Finish = "refusal" if refusal else _FINISH.get(str(reason), "stop")
    if finish == "stop" and not content.strip():
        finish = "empty"
    usage = body.get("usage")
    tokens = Usage(
        input=count(usage, "prompt_tokens"),
        output=count(usage, "completion_tokens"),
        cached=count(usage, "prompt_tokens_details", "cached_tokens"),
    )
    return Reply(content or str(refusal or ""), finish, str(body.get("model") or ""), tokens)


@providers.register("openai")
def openai(options: ProviderOptions) -> Provider:
    """OpenAI and servers that speak its protocol."""
    return OpenAIProvider(options)
