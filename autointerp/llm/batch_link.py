"""What batches need of the official clients beside one POST: lists, uploads, and downloads straight to disk.

The clients have no timeouts here, and no broker covers these calls: each has its own.
"""

import asyncio
import importlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path
from typing import Any

from autointerp.errors import UserError
from autointerp.llm.provider import CallFailed
from autointerp.llm.sdk import SdkLink
from autointerp.llm.types import FailureKind

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
        """Append the content to `to`. `opening` is the client's streaming response, not entered yet."""
        async with aclosing(self._pieces(opening)) as pieces:
            with to.open("ab") as file:
                async for piece in pieces:
                    file.write(piece)

    async def listed(
        self, path: str, cursor: str, since: float, created: Callable[[dict[str, Any]], float]
    ) -> AsyncIterator[dict[str, Any]]:
        """The account's batches, newest first, down to those that were `created` before `since`.

        `cursor` is the query's name for the id after which the next page begins.
        """
        query: dict[str, Any] = {"limit": _PAGE}
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
            query[cursor] = batches[-1]["id"]

    def redact(self, text: object) -> str:
        """A server's text on one line, not long, without the key."""
        return self._message(text, "")

    @property
    def client(self) -> Any:
        """The official client, once connected."""
        return self._client

    async def _reply(self, method: str, path: str, length: int, **request: Any) -> dict[str, Any]:
        failure: CallFailed | UserError
        limit = _REPLY_S + length / _SLOWEST_BYTES_PER_S
        try:
            async with asyncio.timeout(limit):
                send = getattr(self._client, method)
                response = await send(path, cast_to=importlib.import_module("httpx2").Response, **request)
        except self._sdk.APIStatusError as error:
            failure = self._status_failure(error.response)
        except TimeoutError:
            failure = CallFailed(FailureKind.TIMEOUT, f"no reply within {limit:.0f} s", retryable=True)
        except self._lost as error:
            failure = CallFailed(FailureKind.SERVER_ERROR, self._lost_reason(error), retryable=True)
        else:
            return self._read_reply(response)
        raise failure  # outside the blocks: the client's errors hold the key

    async def _pieces(self, opening: AbstractAsyncContextManager[Any]) -> AsyncGenerator[bytes, None]:
        failure: CallFailed | UserError
        lost = (*self._lost, importlib.import_module("httpx2").HTTPError)
        try:
            async with opening as response:
                pieces = response.iter_bytes(2**20)
                while True:
                    async with asyncio.timeout(_REPLY_S):
                        piece = await anext(pieces, None)
                    if piece is None:
                        return
                    yield piece
        except self._sdk.APIStatusError as error:
            failure = self._status_failure(error.response)
        except TimeoutError:
            failure = CallFailed(FailureKind.TIMEOUT, f"a download stood still for {_REPLY_S:.0f} s", retryable=True)
        except lost as error:
            failure = CallFailed(FailureKind.SERVER_ERROR, self._lost_reason(error), retryable=True)
        raise failure

    def _abort_reason(self, status: int, code: str, reason: str) -> str | None:
        if status == 404:
            return (
                f"{self.address} knows no such batch, file or path ({reason}); check --base-url, and that the key in "
                f"{self._key_env} is of the account that submitted it"
            )
        return super()._abort_reason(status, code, reason)


def id_of(reply: Mapping[str, Any], what: str) -> str:
    """The id in a reply. Raises CallFailed (retryable) if it holds none; `what` says what it should have been."""
    found = reply.get("id")
    if not isinstance(found, str) or not found:
        raise CallFailed(FailureKind.MALFORMED, f"the server's reply is not {what}", retryable=True)
    return found


def check_lines(path: Path) -> None:
    """Raise CallFailed (retryable) if a downloaded JSONL file was cut short or damaged."""
    with path.open("rb") as file:
        for line in file:
            try:
                whole = isinstance(json.loads(line), dict) if line.strip() else True
            except ValueError:
                whole = False
            if not whole:
                raise CallFailed(FailureKind.MALFORMED, "the results are not JSON lines", retryable=True)
