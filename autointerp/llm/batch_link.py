"""What batches need of the official clients beside one POST: lists, uploads, and downloads straight to disk.

The clients have no timeouts here, and no broker covers these calls: each has its own.
"""

import asyncio
import importlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, cast

from autointerp.errors import UserError
from autointerp.llm.provider import CallFailed
from autointerp.llm.sdk import SdkLink, to_disk
from autointerp.llm.types import FailureKind
from autointerp.llm.wire import WireReply

_REPLY_S = 120.0  # for a reply, and for the next piece of a download
_PAGE = 100  # batches in one list
_SLOWEST_BYTES_PER_S = 100_000  # an upload gets this much longer


class BatchLink(SdkLink):
    """Every method is one attempt, and raises CallFailed or UserError only, as `SdkLink.post` does."""

    async def get(self, path: str, query: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object at `path`."""
        return await self._reply("get", path, 0, options={"params": dict(query)})

    async def post_json(self, path: str, content: bytes) -> dict[str, Any]:
        """POST a body that is JSON already, however long."""
        headers = {"Content-Type": "application/json"}
        return await self._reply("post", path, len(content), content=content, options={"headers": headers})

    async def upload(self, path: str, name: str, file: Path, form: Mapping[str, str]) -> dict[str, Any]:
        """POST a file as a form; it is read as it is sent."""
        with file.open("rb") as content:
            return await self._reply(
                "post", path, file.stat().st_size, body=dict(form),
                files=[("file", (name, content, "application/jsonl"))],
                options={"headers": {"Content-Type": "multipart/form-data"}},
            )  # fmt: skip

    async def download(self, opening: AbstractAsyncContextManager[Any], to: Path) -> None:
        """Append the content to `to`, without the key. `opening` is the client's streaming response, not entered yet."""
        async with aclosing(self._pieces(opening)) as pieces:
            with to.open("ab") as file:
                async for piece in self._reader.pieces_without_key(pieces):
                    file.write(piece)

    async def listed(
        self, path: str, cursor: str, since: float, created: Callable[[dict[str, Any]], float]
    ) -> AsyncIterator[dict[str, Any]]:
        """The account's batches, newest first, down to those that were `created` before `since`.

        `cursor` is the query's name for the id after which the next page begins. Raises UserError where the server does not
        heed it, and would send the same page for ever.
        """
        query: dict[str, Any] = {"limit": _PAGE}
        asked: set[str] = set()
        while True:
            page = await self.get(path, query)
            batches = page.get("data")
            if not isinstance(batches, list) or not all(isinstance(b, dict) and "created_at" in b for b in batches):
                raise CallFailed(FailureKind.MALFORMED, "the server's reply is not a list of batches", retryable=True)
            recent = [batch for batch in batches if created(batch) >= since]
            for batch in recent:
                yield batch
            if not recent or not page.get("has_more"):
                return
            last = id_of(batches[-1], "a list of batches with ids")
            if last in asked:
                raise UserError(
                    f"{self._address} sends the same page of its list of batches again and again (it does not heed "
                    f"{cursor!r}), so that a submission can't be found; ask who runs it to mend that, or ask it live"
                )
            asked.add(last)
            query[cursor] = last

    def redact(self, text: object) -> str:
        """A server's text on one line, not long, without the key."""
        return self._reader.clean(text)

    @property
    def client(self) -> Any:
        """The official client, once connected."""
        return self._client

    async def _reply(self, method: str, path: str, length: int, **request: Any) -> dict[str, Any]:
        outcome = await self._tried(method, path, _REPLY_S + length / _SLOWEST_BYTES_PER_S, request)
        if isinstance(outcome, WireReply):
            return outcome.body
        raise outcome

    async def _tried(
        self, method: str, path: str, limit: float, request: dict[str, Any]
    ) -> WireReply | CallFailed | UserError:
        """Returns what `_reply` raises: raised in here it would carry the client's errors, which hold the key."""
        try:
            async with asyncio.timeout(limit):
                response = await getattr(self._client, method)(path, cast_to=self._response_type, **request)
        except self._sdk.APIStatusError as error:
            response = error.response
        except TimeoutError:
            return CallFailed(FailureKind.TIMEOUT, f"no reply within {limit:.0f} s", retryable=True)
        except self._lost as error:
            return self._reader.lost(self._address, error)
        return self._judged(response.status_code, response.headers, response.content)

    def _judged(self, status: int, headers: Mapping[str, str], content: bytes) -> WireReply | CallFailed | UserError:
        if status == 404:
            return UserError(
                f"{self._address} knows no such batch, file or path (HTTP 404); check --base-url, and that the key in "
                f"{self._key_env} is of the account that submitted it"
            )
        return self._reader.read(self._address, status, headers, content)

    async def _pieces(self, opening: AbstractAsyncContextManager[Any]) -> AsyncGenerator[bytes, None]:
        failure: CallFailed | UserError
        lost = (*self._lost, importlib.import_module("httpx2").HTTPError)
        try:
            async with AsyncExitStack() as stack:
                with to_disk():
                    response = await stack.enter_async_context(opening)
                pieces = response.iter_bytes(2**20)
                while True:
                    async with asyncio.timeout(_REPLY_S):
                        piece = await anext(pieces, None)
                    if piece is None:
                        return
                    yield piece
        except self._sdk.APIStatusError as error:
            found = self._judged(error.response.status_code, error.response.headers, error.response.content)
            failure = cast(CallFailed | UserError, found)  # of a status that is none of success
        except TimeoutError:
            failure = CallFailed(FailureKind.TIMEOUT, f"a download stood still for {_REPLY_S:.0f} s", retryable=True)
        except lost as error:
            failure = self._reader.lost(self._address, error)
        raise failure


def id_of(reply: Mapping[str, Any], what: str) -> str:
    """The id in a reply. Raises CallFailed (retryable) if it holds none; `what` says what it should have been."""
    found = reply.get("id")
    if not isinstance(found, str) or not found:
        raise CallFailed(FailureKind.MALFORMED, f"the server's reply is not {what}", retryable=True)
    return found
