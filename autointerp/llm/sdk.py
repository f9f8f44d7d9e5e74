"""What the official clients share: one POST, and a key that never leaves the client.

The clients of openai 3 and anthropic 2 share their error classes' names and their `post`. We send with `post` and
read the body ourselves: the payload that was hashed is the payload that is sent, a body that is not JSON is noticed,
and it costs less than building the client's models. The clients' own retries are off: the broker has the one policy.
"""

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from autointerp.errors import UserError
from autointerp.llm import wire
from autointerp.llm.provider import CallFailed, ProviderOptions, check_base_url
from autointerp.llm.wire import BodyTooLarge, ReplyReader, WireReply, read_key

_MAX_CONNECTIONS = 10_000  # the broker's limit is the limit; the client's pool must never be a second, hidden one
_goes_to_disk: ContextVar[bool] = ContextVar("goes_to_disk", default=False)


@contextmanager
def to_disk() -> Iterator[None]:
    """A response that is opened in this block is read piece by piece by who opened it, however long it is."""
    before = _goes_to_disk.set(True)
    try:
        yield
    finally:
        _goes_to_disk.reset(before)


class SdkLink:
    """A connection through one of the official clients. It holds the key; neither `repr` nor an error shows it.

    `package` is "openai" or "anthropic", `client_class` the name of its asynchronous client.
    """

    def __init__(self, package: str, client_class: str, default_key_env: str, options: ProviderOptions) -> None:
        self._package = package
        self._client_class = client_class
        self._key_env = options.api_key_env or default_key_env
        self._base_url = options.base_url
        self._reader = ReplyReader("", self._key_env)
        self._address = ""
        self._sdk: Any = None
        self._client: Any = None
        self._response_type: Any = None
        self._lost: tuple[type[Exception], ...] = ()

    def connect(self) -> None:
        """Import the client (0.7 to 1.5 s) and open it. Raises UserError if the environment holds no key."""
        if self._client is not None:
            return
        key = read_key(self._key_env, self._package)
        base_url_env = f"{self._package.upper()}_BASE_URL"  # both clients read it where no base URL is given
        if self._base_url is None and base_url_env in os.environ:
            check_base_url(os.environ[base_url_env], base_url_env)
        self._reader = ReplyReader(key, self._key_env)
        self._sdk = importlib.import_module(self._package)
        httpx = importlib.import_module("httpx2")
        self._response_type = httpx.Response
        limits = httpx.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=_MAX_CONNECTIONS)
        self._lost = (self._sdk.APIConnectionError, OSError, BodyTooLarge)
        transport = self._sdk.DefaultAsyncHttpxClient
        if find_spec("aiohttp") is not None:  # 1.6 to 2.2 times the requests per second of the default transport
            transport = self._sdk.DefaultAioHttpClient
            self._lost += (importlib.import_module("aiohttp").ClientError,)
        # No timeouts of the client's own: the broker's covers the whole attempt, where these count from byte to byte.
        http_client = transport(
            limits=limits, timeout=None, follow_redirects=False, event_hooks={"response": [_limit_body]}
        )
        try:
            self._client = getattr(self._sdk, self._client_class)(
                api_key=key,
                base_url=self._base_url,
                max_retries=0,
                timeout=None,
                http_client=http_client,
                default_headers={"accept-encoding": "identity"},
            )
        except httpx.InvalidURL as error:
            raise UserError(f"--base-url is {self._base_url!r}; expected a whole URL ({error})") from None
        parts = urlsplit(str(self._client.base_url))
        self._address = f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")

    async def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    @property
    def address(self) -> str:
        """Where requests go, for messages: without a query. Known once connected."""
        return self._address

    async def post(self, path: str, body: Mapping[str, Any]) -> WireReply:
        """One attempt: the JSON object of a reply with status 200. Raises CallFailed or UserError only."""
        outcome = await self._exchange(path, body)
        if isinstance(outcome, WireReply):
            return outcome
        raise outcome

    async def _exchange(self, path: str, body: Mapping[str, Any]) -> WireReply | CallFailed | UserError:
        """Returns what `post` raises: raised in here it would carry the client's errors, which hold the request."""
        try:
            response = await self._client.post(path, content=wire.encoded(body), cast_to=self._response_type)
        except self._sdk.APIStatusError as error:
            response = error.response
        except self._lost as error:
            return self._reader.lost(self._address, error)
        # A look into the client's own headers costs ten times as much as this copy.
        headers = {name.decode("latin-1").lower(): text.decode("latin-1") for name, text in response.headers.raw}
        return self._reader.read(self._address, response.status_code, headers, response.content)


async def _limit_body(response: Any) -> None:
    """A hook of the clients' transport: unless the body says that it is small, read it, no further than the limit.

    We ask for bodies as they are; one that is compressed all the same is unpacked here, by pieces of at most 1 MiB, so that
    the limit is on what fills the memory.
    """
    if _goes_to_disk.get():
        return
    length, encoding = response.headers.get("content-length", ""), response.headers.get("content-encoding")
    if encoding is None and length.isdecimal() and int(length) <= wire.MAX_BODY_BYTES:
        return  # the transport reads no more than was said
    httpx, stream = importlib.import_module("httpx2"), response.stream
    if encoding is None:
        content = await wire.limited(stream)
    else:
        packed = httpx.Response(response.status_code, headers={"content-encoding": encoding}, stream=stream)
        content = await wire.limited(packed.aiter_bytes())
        del response.headers["content-encoding"]
    await stream.aclose()
    response.stream = httpx.ByteStream(content)
