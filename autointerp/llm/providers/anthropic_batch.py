"""Anthropic's Message Batches: half the price, answers within 24 hours
(https://platform.claude.com/docs/en/build-with-claude/batch-processing).

A batch is one POST and carries no metadata, and while it runs nobody can see what is in it. So a submission whose reply
was lost is found like this: among the batches created since, those with as many requests may be ours; when one has ended,
its results bear our token in their ids or they don't. Until then nothing is submitted a second time. What remains: a batch
that takes longer than `Pace.settle` to be listed would be submitted again.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from autointerp.llm.batch_api import Outcome, Pace, Status, Undecided
from autointerp.llm.batch_lines import check_lines, json_line, read_lines
from autointerp.llm.batch_link import BatchLink, id_of
from autointerp.llm.batch_store import Batch
from autointerp.llm.batches import BatchProvider
from autointerp.llm.provider import CallFailed, DeferredProvider, ProviderOptions, Queued, providers
from autointerp.llm.providers.anthropic import AnthropicProvider, read_message, wire_body
from autointerp.llm.types import FailureKind

_PATH = "/v1/messages/batches"
_REJECTED = (
    "invalid_request_error", "request_too_large", "not_found_error", "permission_error", "authentication_error",
    "billing_error",
)  # fmt: skip
_KINDS = {"rate_limit_error": FailureKind.RATE_LIMITED, "timeout_error": FailureKind.TIMEOUT}


class AnthropicBatches:
    """See `BatchApi`."""

    most_requests = 100_000
    most_bytes = 100_000_000  # the API takes 256 MB; a batch is one body, and is in memory while it is sent

    def __init__(self, options: ProviderOptions) -> None:
        self.link = BatchLink("anthropic", "AsyncAnthropic", "ANTHROPIC_API_KEY", options)

    def line(self, token: str, queued: Queued) -> bytes:
        return json_line({"custom_id": f"{queued.key}-{token}", "params": wire_body(queued.payload)})

    async def upload(self, token: str, file: Path) -> str:
        return ""  # a batch is one POST

    async def create(self, token: str, uploaded: str, file: Path) -> str:
        body = b'{"requests":[' + file.read_bytes().rstrip(b"\n").replace(b"\n", b",") + b"]}"
        return id_of(await self.link.post_json(_PATH, body), "a batch")

    async def newest(self) -> float:
        async for batch in self.link.listed(_PATH, "after_id", 0.0, _created):
            return _created(batch)
        return 0.0

    async def find(self, batch: Batch, others: frozenset[str], scratch: Path) -> str | None:
        running: list[str] = []
        async for found in self.link.listed(_PATH, "after_id", batch.since, _created):
            if found["id"] in others or _total(found) != batch.count:
                continue
            if found.get("processing_status") != "ended":
                running.append(str(found["id"]))
            elif found.get("results_url") and await self._is_ours(str(found["id"]), batch.token, scratch):
                return str(found["id"])
        if running:
            raise Undecided(
                f"a submission of {batch.count:,} requests brought no reply, and {', '.join(running)} may be it: "
                "waiting until that ends, so that nothing is paid for twice"
            )
        return None

    async def status(self, remote: str) -> Status:
        batch = await self.link.get(f"{_PATH}/{remote}", {})
        counts, total = batch.get("request_counts") or {}, _total(batch)
        done = total - int(counts.get("processing") or 0)
        if batch.get("processing_status") != "ended" or not batch.get("results_url"):
            return Status("running", done, total)
        return Status("ended", done, total)

    async def fetch(self, remote: str, status: Status, to: Path) -> None:
        await self.link.download(self.link.client.messages.batches.with_streaming_response.results(remote), to)

    def read(self, token: str, line: Mapping[str, Any]) -> tuple[str, Outcome]:
        key, dash, named = line["custom_id"].rpartition("-")
        if not dash or named != token:
            raise ValueError("not of this batch")
        result = line["result"]
        if result["type"] == "succeeded":
            try:
                return key, read_message(result["message"])
            except CallFailed as failure:
                return key, failure
        return key, self._failure(result)

    def _failure(self, result: Mapping[str, Any]) -> CallFailed:
        if result["type"] == "expired":
            return CallFailed(FailureKind.TIMEOUT, "its batch expired before it was answered", retryable=True)
        if result["type"] == "canceled":  # by the user, who would not want it back at once
            return CallFailed(FailureKind.SERVER_ERROR, "its batch was cancelled before it was answered")
        if result["type"] != "errored":
            raise ValueError("no result")
        error = result.get("error")
        inner = error.get("error") if isinstance(error, dict) else None
        code = str(inner.get("type")) if isinstance(inner, dict) else ""
        reason = f"{code}: {self.link.redact(error)}"
        if code in _REJECTED:
            return CallFailed(FailureKind.REJECTED, reason)
        return CallFailed(_KINDS.get(code, FailureKind.SERVER_ERROR), reason, retryable=True)

    async def _is_ours(self, remote: str, token: str, scratch: Path) -> bool:
        scratch.unlink(missing_ok=True)
        await self.fetch(remote, Status("ended"), scratch)
        check_lines(scratch)
        return any(str((line or {}).get("custom_id")).endswith(f"-{token}") for _, line, _ in read_lines(scratch))


def _created(batch: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(str(batch["created_at"])).timestamp()


def _total(batch: Mapping[str, Any]) -> int:
    return sum(int(count) for count in (batch.get("request_counts") or {}).values())


class AnthropicBatchProvider(BatchProvider):
    """Key and base URL as the live provider takes them."""

    def __init__(self, options: ProviderOptions, pace: Pace | None = None) -> None:
        super().__init__("anthropic-batch", AnthropicProvider(options), AnthropicBatches(options), options.folder, pace)


@providers.register("anthropic-batch")
def anthropic_batch(options: ProviderOptions) -> DeferredProvider:
    """Anthropic's batches: half the price, answers within a day."""
    return AnthropicBatchProvider(options)
