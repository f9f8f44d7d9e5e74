"""OpenAI's and Anthropic's batch APIs on 127.0.0.1, which count what they accept and misbehave by script.

    with BatchServer() as server:
        server.script("create", status(500), accepted_but_lost())   # the next two creations; then as it should be
        server.fate = lambda question: "expired" if question == "question 3" else "ok"

Steps are upload, create, list, status and download. A batch ends `takes` seconds after its creation, its results shuffled.
"""

import asyncio
import json
import random
import re
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from tests.llm.server import Behaviour, add_calls, anthropic_reply, openai_reply

_REPLIES = {"ok": "stop", "length": "length"}  # fate → how the reply ends


def accepted_but_lost() -> Behaviour:
    """The request does what it asks for, but the connection is reset before the reply."""
    return Behaviour("lost")


@dataclass
class Job:
    """A batch at the server. `requests`: custom id to question."""

    id: str
    created: float
    requests: dict[str, dict[str, Any]]
    metadata: Mapping[str, str] = field(default_factory=dict)
    whole: str = "completed"
    error: Mapping[str, Any] | None = None
    results: list[dict[str, Any]] = field(default_factory=list)

    def question(self, custom_id: str) -> str:
        content = self.requests[custom_id]["messages"][-1]["content"]
        if isinstance(content, list):  # Anthropic's results of calls, or a text that is marked for the cache
            content = content[-1].get("text") or content[-1]["content"]
        return str(content)


class BatchServer:
    """`accepted` counts the questions in batches that were created, `created` the batches, `delivered` the downloads that
    went through.

    `fate` of a question: ok, length, twice, missing, expired, or an HTTP status such as "400". `whole(job)` of a batch:
    completed, expired, cancelled, or failed (with `reason`). `unlisted_s`: how long a new batch is not in lists. `calls_of` a
    question: the tools that its answer calls, and then its text is empty.
    """

    def __init__(self) -> None:
        self.accepted: Counter[str] = Counter()
        self.delivered: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.jobs: dict[str, Job] = {}
        self.takes = 0.0
        self.unlisted_s = 0.0
        self.fate: Callable[[str], str] = lambda question: "ok"
        self.calls_of: Callable[[str], list[tuple[str, str, str]]] = lambda question: []
        self.whole: Callable[[Job], str] = lambda job: "completed"
        self.reason: Mapping[str, Any] = {"code": "invalid_json_line", "message": "line 1 is no JSON", "line": 1}
        self.keys: set[str] = set()
        self._scripts: dict[str, deque[Behaviour]] = {}
        self._files: dict[str, bytes] = {}
        self._chance = random.Random(0)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batch-server", daemon=True)

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

    @property
    def openai_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def anthropic_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def script(self, step: str, *behaviours: Behaviour) -> None:
        self._scripts.setdefault(step, deque()).extend(behaviours)

    def script_is_played(self) -> bool:
        return not any(self._scripts.values())

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._closing = asyncio.Event()
        app = web.Application(client_max_size=256 * 2**20)
        for method, path, step, handler in (
            ("POST", "/v1/files", "upload", self._upload),
            ("GET", "/v1/files/{id}/content", "download", self._content),
            ("POST", "/v1/batches", "create", self._create_openai),
            ("GET", "/v1/batches", "list", self._list_openai),
            ("GET", "/v1/batches/{id}", "status", self._status_openai),
            ("POST", "/v1/messages/batches", "create", self._create_anthropic),
            ("GET", "/v1/messages/batches", "list", self._list_anthropic),
            ("GET", "/v1/messages/batches/{id}", "status", self._status_anthropic),
            ("GET", "/v1/messages/batches/{id}/results", "download", self._results_anthropic),
        ):
            app.router.add_route(method, path, self._scripted(step, handler))
        runner = web.AppRunner(app, access_log=None, handler_cancellation=False, shutdown_timeout=0.1)
        await runner.setup()
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = listener.getsockname()[1]
        await web.SockSite(runner, listener).start()
        self._ready.set()
        await self._closing.wait()
        await runner.cleanup()

    def _scripted(self, step: str, handler: Callable[[web.Request], Any]) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.StreamResponse:
            self.calls[step] += 1
            self.keys.add(request.headers.get("authorization", "") or request.headers.get("x-api-key", ""))
            script = self._scripts.get(step)
            behaviour = script.popleft() if script else Behaviour()
            if behaviour.kind == "status":
                text = behaviour.error if isinstance(behaviour.error, str) else json.dumps({"error": behaviour.error})
                return web.Response(status=behaviour.status, text=text, headers=behaviour.headers)
            if behaviour.kind == "reset":
                return _reset(request)
            content: bytes = await handler(request)
            if behaviour.kind == "lost":
                return _reset(request)
            if behaviour.kind == "malformed":
                return web.Response(body=content[: len(content) // 2], content_type="application/json")
            return await self._send(request, content, half=behaviour.kind == "half")

        return handle

    async def _send(self, request: web.Request, content: bytes, *, half: bool) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/json", "content-length": str(len(content))})
        await response.prepare(request)
        if half:
            await response.write(content[: len(content) // 2])
            await asyncio.sleep(0.02)
            return _reset(request)
        await response.write(content)
        await response.write_eof()
        if request.path.endswith(("/content", "/results")):
            self.delivered[request.path] += 1
        return response

    async def _upload(self, request: web.Request) -> bytes:
        form = await request.post()
        assert form["purpose"] == "batch", form
        upload = form["file"]
        assert isinstance(upload, web.FileField)
        name = f"file-{len(self._files)}"
        self._files[name] = upload.file.read()
        return json.dumps({"id": name, "object": "file", "filename": upload.filename}).encode()

    async def _content(self, request: web.Request) -> bytes:
        return self._files[request.match_info["id"]]

    async def _create_openai(self, request: web.Request) -> bytes:
        body = await request.json()
        assert (body["endpoint"], body["completion_window"]) == ("/v1/chat/completions", "24h")
        lines = [json.loads(line) for line in self._files[body["input_file_id"]].splitlines()]
        assert all(line["method"] == "POST" and line["url"] == "/v1/chat/completions" for line in lines)
        job = Job(f"batch_{len(self.jobs)}", time.time(), {line["custom_id"]: line["body"] for line in lines},
                  body.get("metadata") or {})  # fmt: skip
        assert len(job.requests) == len(lines) <= 50_000
        self._begin(job)
        return json.dumps(self._openai(job)).encode()

    async def _create_anthropic(self, request: web.Request) -> bytes:
        requests = (await request.json())["requests"]
        assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", line["custom_id"]) for line in requests)
        job = Job(f"msgbatch_{len(self.jobs)}", time.time(), {line["custom_id"]: line["params"] for line in requests})
        assert len(job.requests) == len(requests) <= 100_000
        self._begin(job)
        return json.dumps(self._anthropic(job)).encode()

    def _begin(self, job: Job) -> None:
        job.whole = self.whole(job)
        if job.whole == "failed":
            job.error = self.reason
        else:
            self.accepted.update(job.question(name) for name in job.requests)
        self.jobs[job.id] = job

    def _ended(self, job: Job) -> bool:
        return time.time() - job.created >= self.takes

    def _listed(self) -> list[Job]:
        return [job for job in reversed(self.jobs.values()) if time.time() - job.created >= self.unlisted_s]

    def _page(self, request: web.Request, after: str | None) -> tuple[list[Job], bool]:
        jobs, limit = self._listed(), min(3, int(request.query["limit"]))  # short pages, so that there are several
        if after is not None:
            jobs = jobs[[job.id for job in jobs].index(after) + 1 :]
        return jobs[:limit], len(jobs) > limit

    async def _list_openai(self, request: web.Request) -> bytes:
        jobs, more = self._page(request, request.query.get("after"))
        return json.dumps({"object": "list", "data": [self._openai(job) for job in jobs], "has_more": more}).encode()

    async def _status_openai(self, request: web.Request) -> bytes:
        return json.dumps(self._openai(self.jobs[request.match_info["id"]])).encode()

    def _openai(self, job: Job) -> dict[str, Any]:
        ended = self._ended(job)
        shown: dict[str, Any] = {
            "id": job.id, "object": "batch", "created_at": int(job.created), "metadata": job.metadata,
            "status": job.whole if ended else "in_progress", "errors": None, "output_file_id": None,
            "error_file_id": None, "request_counts": {"total": len(job.requests), "completed": 0, "failed": 0},
        }  # fmt: skip
        if ended and job.error is not None:
            shown["errors"] = {"object": "list", "data": [job.error]}
        elif ended:
            lines = [(name, fate) for name in job.requests for fate in self._fates(job, name)]
            self._chance.shuffle(lines)
            good = [self._openai_line(job, name, fate) for name, fate in lines if fate in _REPLIES]
            bad = [self._openai_line(job, name, fate) for name, fate in lines if fate not in _REPLIES]
            for what, found in (("output", good), ("error", bad)):
                if found:
                    self._files[f"{job.id}-{what}"] = b"".join(json.dumps(line).encode() + b"\n" for line in found)
                    shown[f"{what}_file_id"] = f"{job.id}-{what}"
            shown["request_counts"] |= {"completed": len(good), "failed": len(bad)}
        return shown

    def _fates(self, job: Job, name: str) -> list[str]:
        fate = self.fate(job.question(name))
        return {"twice": ["ok", "ok"], "missing": []}.get(fate, [fate])

    def _openai_line(self, job: Job, name: str, fate: str) -> dict[str, Any]:
        if fate in _REPLIES:
            reply = self._answer(openai_reply, job, name, fate)
            return {"id": "r", "custom_id": name, "error": None, "response": {"status_code": 200, "body": reply}}
        if fate == "expired":
            error = {"code": "batch_expired", "message": "This request could not be executed in time."}
            return {"id": "r", "custom_id": name, "response": None, "error": error}
        error = {"message": f"fate {fate}", "type": "invalid_request_error" if fate < "429" else "server_error"}
        return {
            "id": "r", "custom_id": name, "error": None,
            "response": {"status_code": int(fate), "body": {"error": error}},
        }  # fmt: skip

    def _answer(
        self, reply: Callable[[Any, str, str], dict[str, Any]], job: Job, name: str, fate: str
    ) -> dict[str, Any]:
        question = job.question(name)
        calls = self.calls_of(question)
        made = reply(job.requests[name], "" if calls else f"answer to {question}", _REPLIES[fate])
        if calls:
            add_calls(made, calls)
        return made

    async def _list_anthropic(self, request: web.Request) -> bytes:
        jobs, more = self._page(request, request.query.get("after_id"))
        return json.dumps({"data": [self._anthropic(job) for job in jobs], "has_more": more}).encode()

    async def _status_anthropic(self, request: web.Request) -> bytes:
        return json.dumps(self._anthropic(self.jobs[request.match_info["id"]])).encode()

    def _anthropic(self, job: Job) -> dict[str, Any]:
        ended, count = self._ended(job), len(job.requests)
        counts = {"processing": 0 if ended else count, "succeeded": count if ended else 0, "errored": 0, "canceled": 0,
                  "expired": 0}  # fmt: skip
        created = datetime.fromtimestamp(job.created, UTC).isoformat().replace("+00:00", "Z")
        return {
            "id": job.id, "type": "message_batch", "processing_status": "ended" if ended else "in_progress",
            "request_counts": counts, "created_at": created, "expires_at": created, "ended_at": created,
            "archived_at": None, "cancel_initiated_at": None,
            "results_url": f"{self.anthropic_url}/v1/messages/batches/{job.id}/results" if ended else None,
        }  # fmt: skip

    async def _results_anthropic(self, request: web.Request) -> bytes:
        job = self.jobs[request.match_info["id"]]
        lines = [self._anthropic_line(job, name, fate) for name in job.requests for fate in self._fates(job, name)]
        self._chance.shuffle(lines)
        return b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    def _anthropic_line(self, job: Job, name: str, fate: str) -> dict[str, Any]:
        if fate in _REPLIES:
            message = self._answer(anthropic_reply, job, name, fate)
            return {"custom_id": name, "result": {"type": "succeeded", "message": message}}
        if fate in ("expired", "canceled"):
            return {"custom_id": name, "result": {"type": fate}}
        kind = "invalid_request_error" if fate == "400" else "api_error"
        error = {"type": "error", "error": {"type": kind, "message": f"fate {fate}"}}
        return {"custom_id": name, "result": {"type": "errored", "error": error}}


def _reset(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
