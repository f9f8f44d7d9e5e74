"""OpenAI's chat completions through its client, and every server that speaks them.

Those are vLLM, SGLang, llama.cpp, Ollama, Together, OpenRouter, and others; for many requests to servers of one's own the
provider `http` takes a quarter of the time.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from autointerp.llm import embeddings
from autointerp.llm.chat import chat_payload, own_host, read_reply, wire_body
from autointerp.llm.provider import CallFailed, Capabilities, Provider, ProviderOptions, Reply, providers
from autointerp.llm.sdk import SdkLink
from autointerp.llm.types import Request

_DEFAULT_ADDRESS = "https://api.openai.com/v1"


class OpenAIProvider:
    """Key from OPENAI_API_KEY or the variable in the options; base URL from these, OPENAI_BASE_URL or OpenAI's.

    OpenAI gives no log-probabilities of a prompt; a server at another address may, and says so when it is asked.
    """

    name = "openai"

    def __init__(self, options: ProviderOptions) -> None:
        self._link = SdkLink("openai", "AsyncOpenAI", "OPENAI_API_KEY", options)
        address = options.base_url or os.environ.get("OPENAI_BASE_URL") or _DEFAULT_ADDRESS
        self.capabilities = Capabilities(
            temperature=True,
            json_schema=True,
            tools=True,
            logprobs=True,
            prompt_logprobs=not own_host(address),
            prompt_caching=True,
            embeddings=True,
        )
        self._lists = embeddings.EmbeddingLists(self._embed)

    def payload(self, model: str, request: Request) -> dict[str, Any]:
        return embeddings.embedding_payload(model, request) if request.embed else chat_payload(model, request)

    def connect(self) -> None:
        self._link.connect()

    async def send(self, request: Request, payload: Mapping[str, Any]) -> Reply:
        if request.embed:
            return await self._lists.ask(payload)
        body = wire_body(payload, self._link.address, request.beginning)
        return read_reply(await self._link.post("/chat/completions", body), request)

    async def close(self) -> None:
        await self._lists.close()
        await self._link.close()

    async def _embed(self, payload: Mapping[str, Any], texts: Sequence[str]) -> list[Reply | CallFailed]:
        reply = await self._link.post(embeddings.PATH, embeddings.wire_body(payload, texts, self._link.address))
        return embeddings.read_embeddings(reply.body, texts, reply.pause)


@providers.register("openai")
def openai(options: ProviderOptions) -> Provider:
    """OpenAI and servers that speak its protocol."""
    return OpenAIProvider(options)
