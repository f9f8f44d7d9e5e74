"""A model server on 127.0.0.1 that speaks OpenAI's and Anthropic's protocols, counts, and misbehaves by script.

    with LlmServer() as server:
        server.script(rate_limited(retry_after="0.1"), reset())   # the first two requests; after them `server.usual`
        ...
        assert server.requests[server.hash_of(body)] == 3

It runs in a thread with an event loop of its own, so that it serves blocking code and other processes too.
"""

import asyncio
import base64
import gzip
import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What to do with one request. `kind`: answer, status, reset, half, hang, malformed, zipped, garbage.

    An answer's `text` None means that the server makes it from the request; `finish` is "stop", "length" or "refusal". `calls` of
    tools: id, name and arguments, JSON text.
    """

    kind: str = "answer"
    text: str | None = None
    finish: str = "stop"
    status: int = 200
    error: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    calls: tuple[tuple[str, str, str], ...] = ()


def calling(*calls: tuple[str, str, str], text: str = "") -> Behaviour:
    """An answer that calls tools."""
    return Behaviour(text=text, calls=calls)


def answer(text: str | None = None, **headers: str) -> Behaviour:
    return Behaviour(text=text, headers={k.replace("_", "-"): v for k, v in headers.items()})


def empty() -> Behaviour:
    return Behaviour(text="")


def refusal() -> Behaviour:
    return Behaviour(text="I can't help with that.", finish="refusal")


def length() -> Behaviour:
    return Behaviour(text='{"title": "cut o', finish="length")


def status(code: int, error: Any = None, **headers: str) -> Behaviour:
    """An HTTP error. Header names are given with underscores: `retry_after="2"`."""
    return Behaviour("status", status=code, error=error, headers={k.replace("_", "-"): v for k, v in headers.items()})


def rate_limited(**headers: str) -> Behaviour:
    return status(429, {"message": "slow down", "type": "rate_limit_error"}, **headers)


def reset() -> Behaviour:
    """The connection is reset before a reply."""
    return Behaviour("reset")


def half_sent() -> Behaviour:
    """The headers and half of the body, then the connection is reset."""
    return Behaviour("half")


def hang() -> Behaviour:
    """No reply until the server closes."""
    return Behaviour("hang")


def malformed() -> Behaviour:
    """Status 200 and half a JSON text."""
    return Behaviour("malformed")


def zipped(text: str | None = None) -> Behaviour:
    """An answer that is compressed although nobody asked for that."""
    return Behaviour("zipped", text=text)


def garbage() -> Behaviour:
    """Bytes that are not HTTP."""
    return Behaviour("garbage")


class LlmServer:
    """`openai_url` and `anthropic_url` are base URLs for the clients. All counters count by `hash_of` the body
    received.

    `requests`: requests that arrived. `delivered`: answers whose last byte was handed to the system while the client
    was connected (also those with finish "length" and "refusal"). `bodies`, `keys`, `times`: of all requests, in
    order. `usual` is what happens when the script is used up, `delay` the seconds before each reply, `write` makes
    the text of an answer.

    `embed` makes the vector of a text, or leaves it out; a list with a text that it should `refuse` is a wrong request. `texts`
    counts those that came, `lists` how many came together.
    """

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.delivered: Counter[str] = Counter()
        self.bodies: list[Body] = []
        self.keys: list[str] = []
        self.times: list[float] = []
        self.most_at_once = 0
        self.usual = answer()
        self.delay = 0.0
        self.write: Callable[[Body], str] = lambda body: f"answer to {body['messages'][-1]['content']}"
        self.embed: Callable[[str], list[float] | None] = lambda text: [float(len(text)), 1.0, -0.5]
        self.gives_prompt_logprobs = False
        self.refuse: Callable[[str], bool] | None = None
        self.texts: Counter[str] = Counter()
        self.lists: list[int] = []
        self._script: deque[Behaviour] = deque()
        self._open = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="llm-server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the test server did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(10)

    @staticmethod
    def hash_of(body: Body) -> str:
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

    @property
    def total(self) -> int:
        return self.requests.total()

    @property
    def openai_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def anthropic_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url_for(self, provider: str) -> str:
        """The base URL for a provider: anthropic's, or that of all who speak OpenAI's protocol."""
        return self.anthropic_url if provider == "anthropic" else self.openai_url

    def script(self, *behaviours: Behaviour) -> None:
        """What to do with the next requests, one each, whichever they are."""
        self._script.extend(behaviours)

    def forget(self) -> None:
        """Set the counters to zero and drop what is left of the script."""
        for record in (self.requests, self.delivered, self.bodies, self.keys, self.times, self._script):
            record.clear()
        self.most_at_once = 0

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._closing = asyncio.Event()
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/chat/completions", self._chat_completion)
        app.router.add_post("/v1/messages", self._message)
        app.router.add_post("/v1/embeddings", self._embeddings)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = listener.getsockname()[1]
        await web.SockSite(runner, listener).start()
        self._ready.set()
        await self._closing.wait()
        await runner.cleanup()

    async def _chat_completion(self, request: web.Request) -> web.StreamResponse:
        return await self._handle(request, openai_reply)

    async def _message(self, request: web.Request) -> web.StreamResponse:
        return await self._handle(request, anthropic_reply)

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        """Every text counts in `texts`, those that were refused with their list included."""
        body = await request.json()
        self.texts.update(body["input"])
        self.lists.append(len(body["input"]))
        if self.refuse is not None and (wrong := [text for text in body["input"] if self.refuse(text)]):
            message = f"input of {len(wrong[0])} characters: maximum context length is 8192 tokens"
            error = {"message": message, "type": "invalid_request_error"}
            return web.json_response({"error": error}, status=400)
        return await self._handle(request, lambda body, text, finish: embeddings_reply(body, self.embed))

    async def _handle(
        self, request: web.Request, reply: Callable[[Body, str, str], dict[str, Any]]
    ) -> web.StreamResponse:
        body = await request.json()
        name = self.hash_of(body)
        behaviour = self._script.popleft() if self._script else self.usual
        self.requests[name] += 1
        self.bodies.append(body)
        self.keys.append(request.headers.get("authorization", "") or request.headers.get("x-api-key", ""))
        self.times.append(time.monotonic())
        self._open += 1
        self.most_at_once = max(self.most_at_once, self._open)
        try:
            if self.delay:
                await asyncio.sleep(self.delay)
            text = behaviour.text
            if text is None:
                text = self.write(body) if "messages" in body else ""
            made = reply(body, text, behaviour.finish)
            if self.gives_prompt_logprobs and "prompt_logprobs" in body:
                made = prompt_logprobs_reply(body)
            if behaviour.calls:
                add_calls(made, behaviour.calls)
            return await self._behave(request, behaviour, json.dumps(made).encode(), name)
        finally:
            self._open -= 1

    async def _behave(self, request: web.Request, behaviour: Behaviour, reply: bytes, name: str) -> web.StreamResponse:
        if behaviour.kind == "status":
            error = {"error": behaviour.error} if isinstance(behaviour.error, dict) else behaviour.error
            text = error if isinstance(error, str) else json.dumps(error)
            return web.Response(status=behaviour.status, text=text, headers=behaviour.headers)
        if behaviour.kind == "hang":
            await self._closing.wait()
        if behaviour.kind == "garbage" and request.transport is not None:
            request.transport.write(b"\x00\x01 no HTTP at all\r\n\r\n")
        if behaviour.kind in ("reset", "garbage", "hang"):
            return _cut(request)
        if behaviour.kind == "malformed":
            reply = reply[: len(reply) // 2]
        encoding = {}
        if behaviour.kind == "zipped":
            reply, encoding = gzip.compress(reply), {"content-encoding": "gzip"}
        headers = {
            **encoding,
            "content-type": "application/json",
            "content-length": str(len(reply)),
            **behaviour.headers,
        }
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        if behaviour.kind == "half":
            await response.write(reply[: len(reply) // 2])
            await asyncio.sleep(0.02)
            return _cut(request)
        await response.write(reply)
        await response.write_eof()
        if behaviour.kind == "answer" and request.transport is not None and not request.transport.is_closing():
            self.delivered[name] += 1
        return response


def _cut(request: web.Request) -> web.StreamResponse:
    """Reset the connection: with a linger time of zero, closing sends RST instead of FIN."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return web.Response()


def openai_reply(body: Body, text: str, finish: str) -> dict[str, Any]:
    """A chat completion. Token counts: a token a character, 10 of the prompt's cached."""
    prompt = sum(len(message["content"] or "") for message in body["messages"])
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if finish == "refusal":
        message = {"role": "assistant", "content": None, "refusal": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": f"{body['model']}-dated",
        "choices": [{"index": 0, "message": message, "finish_reason": "length" if finish == "length" else "stop"}],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": len(text),
            "total_tokens": prompt + len(text),
            "prompt_tokens_details": {"cached_tokens": min(10, prompt)},
        },
    }


def prompt_logprobs_reply(body: Body) -> dict[str, Any]:
    """A chat completion as vLLM sends it with `prompt_logprobs`: words are tokens, likelier where the prompt has them."""
    *before, last = body["messages"]
    known = set(re.findall(r"\w+", " ".join(message["content"] for message in before)))
    pieces = [piece for piece in re.split(r"(\W+)", last["content"]) if piece]
    values = [-1.0 if piece in known else -2.0 - len(piece) / 8 for piece in pieces]
    made: list[Any] = [None, {"0": {"logprob": -1.0, "rank": 1, "decoded_token": "…"}}]
    made += [
        {str(number): {"logprob": value, "rank": 1, "decoded_token": piece}}
        for number, (piece, value) in enumerate(zip(pieces, values, strict=True), start=1)
    ]
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "length"}
    usage = {"prompt_tokens": len(made), "completion_tokens": 1, "total_tokens": len(made) + 1}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice], "usage": usage,
            "prompt_logprobs": made, "prompt_token_ids": [7, *range(len(pieces) + 1)]}  # fmt: skip


def embeddings_reply(body: Body, embed: Callable[[str], list[float] | None]) -> dict[str, Any]:
    """A list of embeddings, the last first, in the encoding that is asked for. A token a character; None is left out."""
    data = []
    for index, text in reversed(list(enumerate(body["input"]))):
        vector = embed(text)
        if vector is not None:
            vector = vector[: body.get("dimensions", len(vector))]
            packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            given = packed if body["encoding_format"] == "base64" else vector
            data.append({"object": "embedding", "index": index, "embedding": given})
    total = sum(map(len, body["input"]))
    return {"object": "list", "data": data, "model": f"{body['model']}-dated",
            "usage": {"prompt_tokens": total, "total_tokens": total}}  # fmt: skip


def anthropic_reply(body: Body, text: str, finish: str) -> dict[str, Any]:
    """A message. Token counts as in `openai_reply`, but reported apart: 10 read from the cache, 5 written to it."""
    prompt = sum(len(message["content"]) for message in body["messages"]) + len(body.get("system", ""))
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": f"{body['model']}-dated",
        "content": [{"type": "text", "text": text}] if text else [],
        "stop_reason": {"stop": "end_turn", "length": "max_tokens", "refusal": "refusal"}[finish],
        "stop_sequence": None,
        "usage": {
            "input_tokens": max(0, prompt - 15),
            "cache_read_input_tokens": 10,
            "cache_creation_input_tokens": 5,
            "output_tokens": len(text),
        },
    }


def add_calls(reply: dict[str, Any], calls: Sequence[tuple[str, str, str]]) -> None:
    """Make a reply of either protocol one that calls tools; Anthropic's servers write arguments as an object."""
    if "choices" in reply:
        choice = reply["choices"][0]
        choice["finish_reason"] = "tool_calls"
        choice["message"]["content"] = choice["message"]["content"] or None
        choice["message"]["tool_calls"] = [
            {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}
            for ident, name, arguments in calls
        ]
        return
    reply["stop_reason"] = "tool_use"
    reply["content"] += [
        {"type": "tool_use", "id": ident, "name": name, "input": json.loads(arguments)}
        for ident, name, arguments in calls
    ]
