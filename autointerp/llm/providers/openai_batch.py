"""OpenAI's Batch API: half the price, answers within 24 hours (https://developers.openai.com/api/docs/guides/batch).

Requests go up as a JSONL file, a batch is created from it, and results come back as one file of answers and one of
errors. A batch carries metadata: our token is there, so that a submission whose reply was lost is found again for certain.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autointerp.llm.batch_api import Outcome, Pace, Status
from autointerp.llm.batch_lines import json_line
from autointerp.llm.batch_link import BatchLink, id_of
from autointerp.llm.batch_store import Batch
from autointerp.llm.batches import BatchProvider
from autointerp.llm.chat import read_completion, wire_body
from autointerp.llm.embeddings import read_embedding
from autointerp.llm.provider import CallFailed, DeferredProvider, ProviderOptions, Queued, providers
from autointerp.llm.providers.openai import OpenAIProvider
from autointerp.llm.types import FailureKind

ENDPOINT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
_TOKEN = "autointerp"  # the name of our token in a batch's metadata
_ENDINGS: Mapping[str, Any] = {"completed": "completed", "expired": "expired", "cancelled": "cancelled"}
_LASTING = ("insufficient_quota", "billing_hard_limit_reached")


class OpenAIBatches:
    """See `BatchApi`."""

    most_requests = 50_000
    most_bytes = 190_000_000  # the API takes 200 MB

    def __init__(self, options: ProviderOptions) -> None:
        self.link = BatchLink("openai", "AsyncOpenAI", "OPENAI_API_KEY", options)

    def line(self, token: str, queued: Queued) -> bytes:
        return request_line(queued.key, wire_body(queued.payload, self.link.address))

    async def upload(self, token: str, file: Path) -> str:
        reply = await self.link.upload("/files", f"autointerp-{token}.jsonl", file, {"purpose": "batch"})
        return id_of(reply, "a file")

    async def create(self, token: str, uploaded: str, file: Path) -> str:
        body = {
            "input_file_id": uploaded,
            "endpoint": ENDPOINT,
            "completion_window": "24h",
            "metadata": {_TOKEN: token},
        }
        return id_of((await self.link.post("/batches", body)).body, "a batch")

    async def newest(self) -> float:
        async for batch in self.link.listed("/batches", "after", 0.0, _created):
            return _created(batch)
        return 0.0

    async def find(self, batch: Batch, others: frozenset[str], scratch: Path) -> str | None:
        async for found in self.link.listed("/batches", "after", batch.since, _created):
            if (found.get("metadata") or {}).get(_TOKEN) == batch.token:
                return str(found["id"])
        return None

    async def status(self, remote: str) -> Status:
        batch = await self.link.get(f"/batches/{remote}", {})
        counts = batch.get("request_counts") or {}
        done, total = int(counts.get("completed") or 0) + int(counts.get("failed") or 0), int(counts.get("total") or 0)
        state = str(batch.get("status"))
        if state == "failed":
            errors = [error for error in (batch.get("errors") or {}).get("data") or [] if isinstance(error, dict)]
            full = any(error.get("code") == "token_limit_exceeded" for error in errors)
            return Status("failed", done, total, reason=self._reasons(errors), full=full)
        files = tuple(str(batch[name]) for name in ("output_file_id", "error_file_id") if batch.get(name))
        # A batch may be reported as completed a little before its files are there.
        if state not in _ENDINGS or (state == "completed" and done > 0 and not files):
            return Status("running", done, total)
        return Status("ended", done, total, _ENDINGS[state], files)

    async def fetch(self, remote: str, status: Status, to: Path) -> None:
        for name in status.files:
            await self.link.download(self.link.client.files.with_streaming_response.content(name), to)

    def read(self, token: str, line: Mapping[str, Any]) -> tuple[str, Outcome]:
        return read_result(line, self.link.redact)

    def _reasons(self, errors: list[dict[str, Any]]) -> str:
        shown = [
            self.link.redact(error.get("message")) + (f" (line {error['line']})" if error.get("line") else "")
            for error in errors[:3]
        ]
        return "; ".join(shown) + (f"; and {len(errors) - 3} more" if len(errors) > 3 else "")


def request_line(key: str, body: Mapping[str, Any]) -> bytes:
    """One request in the format of OpenAI's batch input files."""
    url = EMBEDDINGS if "input" in body else ENDPOINT
    return json_line({"custom_id": key, "method": "POST", "url": url, "body": body})


def read_result(line: Mapping[str, Any], redact: Callable[[object], str]) -> tuple[str, Outcome]:
    """Key and outcome of one line of OpenAI's batch output or error file. `redact` cleans a server's text.

    Raises KeyError, TypeError or ValueError if it is no such line.
    """
    key, response, error = line["custom_id"], line.get("response") or {}, line.get("error")
    if not isinstance(key, str) or not isinstance(response, dict) or not (response or error):
        raise ValueError("no result")
    status, body = int(response.get("status_code") or 0), response.get("body")
    if status == 200 and isinstance(body, dict) and not error:
        try:
            return key, read_embedding(body) if "data" in body else read_completion(body)
        except CallFailed as failure:
            return key, failure
    told = error or (body.get("error") if isinstance(body, dict) else None) or {}
    nested = told.get("error") if isinstance(told, dict) else None
    told = nested if isinstance(nested, dict) else told
    code = str(told.get("code") or told.get("type") or "") if isinstance(told, dict) else ""
    return key, _failure(status, code, redact(told or body))


def _failure(status: int, code: str, text: str) -> CallFailed:
    reason = f"HTTP {status}: {text}" if status else text
    if code in ("batch_expired", "request_timeout") or status == 408:
        return CallFailed(FailureKind.TIMEOUT, reason, retryable=True)
    if code == "batch_cancelled":  # by the user, who would not want it back at once
        return CallFailed(FailureKind.SERVER_ERROR, reason)
    if status == 429:
        return CallFailed(FailureKind.RATE_LIMITED, reason, retryable=code not in _LASTING)
    if 400 <= status < 500 and status != 409:
        refused = code in ("content_filter", "content_policy_violation")
        return CallFailed(FailureKind.REFUSED if refused else FailureKind.REJECTED, reason)
    return CallFailed(FailureKind.SERVER_ERROR, reason, retryable=True)


def _created(batch: Mapping[str, Any]) -> float:
    return float(batch["created_at"])


class OpenAIBatchProvider(BatchProvider):
    """Key and base URL as the live provider takes them."""

    def __init__(self, options: ProviderOptions, pace: Pace | None = None) -> None:
        super().__init__("openai-batch", OpenAIProvider(options), OpenAIBatches(options), options.folder, pace)


@providers.register("openai-batch")
def openai_batch(options: ProviderOptions) -> DeferredProvider:
    """OpenAI's batches: half the price, answers within a day."""
    return OpenAIBatchProvider(options)
