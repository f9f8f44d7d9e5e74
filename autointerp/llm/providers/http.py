"""Servers of one's own that speak chat completions (vLLM, SGLang, llama.cpp, Ollama), one or several, by plain aiohttp.

It sends what the provider `openai` sends, in a quarter of that client's time, to whichever server has the least to do. A
server that fails is rested and its requests go to the others: this request fails as one that may be tried again, the
broker tries again, and the next choice falls on another server.
"""

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autointerp.errors import UserError
from autointerp.llm import embeddings
from autointerp.llm.chat import chat_payload, own_host, read_reply, wire_body
from autointerp.llm.fleet import Fleet, Server
from autointerp.llm.provider import CallFailed, Capabilities, Provider, ProviderOptions, Reply, providers
from autointerp.llm.types import FailureKind, Request
from autointerp.llm.wire import BodyTooLarge, ReplyReader, WireReply, encoded, limited, read_key

_CHAT = "/chat/completions"
_KEY_ENV = "OPENAI_API_KEY"
_KEEP_ALIVE_S = (
    4.0  # uvicorn, which vLLM and SGLang use, closes an idle connection after 5 s: be first, or lose a request
)


class HttpProvider:
    """Base URLs from the options. The key is optional: OPENAI_API_KEY if set, or the variable in the options, which must be.

    There are no redirects, no proxies from the environment, no cookies and no compression.
    """

    name = "http"

    def __init__(self, options: ProviderOptions) -> None:
        self.capabilities = Capabilities(
            temperature=True,
            json_schema=True,
            tools=True,
            logprobs=True,
            prompt_logprobs=not any(own_host(url) for url in options.base_urls),
            embeddings=True,
        )
        self._lists = embeddings.EmbeddingLists(self._embed)
        self._options = options
        self._fleet: Fleet | None = None
        self._reader = ReplyReader("", _KEY_ENV)
        self._session: Any = None
        self._lost: tuple[type[BaseException], ...] = ()

    def payload(self, model: str, request: Request) -> dict[str, Any]:
        return embeddings.embedding_payload(model, request) if request.embed else chat_payload(model, request)

    def connect(self) -> None:
        """Raises UserError if there is no base URL, or no key in the variable that was named."""
        if self._fleet is not None:
            return
        if not self._options.base_urls:
            raise UserError(
                "the provider 'http' has no address; expected one or more, such as --base-url http://127.0.0.1:8000/v1; "
                "give --base-url once for each server"
            )
        for url in self._options.base_urls:
            if "?" in url or "#" in url:
                raise UserError(
                    f"--base-url {url.partition('?')[0].partition('#')[0]} goes on with a query or a fragment; "
                    "expected the address where the server's paths begin, without one"
                )
        variable = self._options.api_key_env or _KEY_ENV
        if self._options.api_key_env or os.environ.get(variable, "").strip():
            self._reader = ReplyReader(read_key(variable, self.name), variable)
        self._lost = (importlib.import_module("aiohttp").ClientError, OSError, BodyTooLarge)
        self._fleet = Fleet([url.rstrip("/") for url in self._options.base_urls])

    async def send(self, request: Request, payload: Mapping[str, Any]) -> Reply:
        if request.embed:
            return await self._lists.ask(payload)
        return read_reply(await self._ask(_CHAT, lambda address: wire_body(payload, address)), request)

    async def _embed(self, payload: Mapping[str, Any], texts: Sequence[str]) -> list[Reply | CallFailed]:
        reply = await self._ask(embeddings.PATH, lambda address: embeddings.wire_body(payload, texts, address))
        return embeddings.read_embeddings(reply.body, texts, reply.pause)

    async def _ask(self, path: str, body_for: Callable[[str], Mapping[str, Any]]) -> WireReply:
        """One message to whichever server has the least to do. `body_for`: its address."""
        assert self._fleet is not None, "send before connect"
        fleet, server = self._fleet, self._fleet.choose()
        sent_at = fleet.now()
        try:
            reply = await self._post(server, path, body_for(server.address))
        except CallFailed as failure:
            self._judge(fleet, server, sent_at, failure)
            raise
        except UserError:
            fleet.answered(server, sent_at)
            raise
        except BaseException:  # given up by the broker, after its timeout: the server hangs, or is too slow to be first
            fleet.failed(server, sent_at)
            raise
        fleet.answered(server, sent_at)
        if reply.pause is not None and len(fleet.servers) > 1:
            fleet.rest(server, reply.pause)
            reply = WireReply(reply.body, fleet.wait())
        return reply

    async def close(self) -> None:
        await self._lists.close()
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    @staticmethod
    def _judge(fleet: Fleet, server: Server, sent_at: float, failure: CallFailed) -> None:
        """A failure that other requests would share rests the server; a wrong request does not, nor does "slow down".

        Where the server asks for a pause, the others need none: the broker need wait only while all of them rest.
        """
        if failure.retryable and failure.kind is not FailureKind.RATE_LIMITED:
            fleet.failed(server, sent_at)
        else:
            fleet.answered(server, sent_at)
        if failure.retryable and len(fleet.servers) > 1:
            if failure.retry_after is not None:
                fleet.rest(server, failure.retry_after)
            failure.retry_after = fleet.wait()

    async def _post(self, server: Server, path: str, body: Mapping[str, Any]) -> WireReply:
        """One attempt. Raises CallFailed or UserError only."""
        outcome = await self._exchange(f"{server.address}{path}", server.address, encoded(body))
        if isinstance(outcome, WireReply):
            return outcome
        raise outcome

    async def _exchange(self, url: str, address: str, data: bytes) -> WireReply | CallFailed | UserError:
        """Returns what `_post` raises: raised in here it would carry aiohttp's errors, which hold the request."""
        if self._session is None:
            self._session = self._open_session()
        try:
            async with self._session.post(url, data=data, allow_redirects=False) as response:
                content = await limited(response.content.iter_any())
        except self._lost as error:
            return self._reader.lost(address, error)
        return self._reader.read(address, response.status, response.headers, content)

    def _open_session(self) -> Any:
        """Needs a running event loop. Limits and timeouts are the broker's; a second, hidden one would only surprise."""
        aiohttp = importlib.import_module("aiohttp")
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_read=None, sock_connect=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"content-type": "application/json", "accept-encoding": "identity", **self._reader.authorization()},
        )


@providers.register("http")
def http(options: ProviderOptions) -> Provider:
    """One or several servers of your own that speak OpenAI's protocol, with little overhead."""
    return HttpProvider(options)
