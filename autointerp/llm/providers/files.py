"""Through files: the questions go out as `requests.jsonl`, somebody answers them, `responses.jsonl` comes back.

For clusters without a network, engines of one's own, and people. Both files are of OpenAI's batch format, which vLLM's
`run-batch` and others read and write.
"""

import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from autointerp.errors import UserError, WaitingError
from autointerp.files import write_atomically
from autointerp.llm.batch_api import Outcome
from autointerp.llm.batch_lines import read_lines
from autointerp.llm.batch_store import RequestStore
from autointerp.llm.embeddings import read_embedding
from autointerp.llm.provider import (
    CallFailed,
    Capabilities,
    DeferredProvider,
    Delivered,
    ProviderOptions,
    Queued,
    Reply,
    providers,
)
from autointerp.llm.providers.openai import OpenAIProvider
from autointerp.llm.providers.openai_batch import read_result, request_line
from autointerp.llm.readable import write_readable
from autointerp.llm.tools import calls_of
from autointerp.llm.types import FailureKind, Request

_DAMAGED_SHOWN = 5  # lines of one file


class FilesProvider:
    """Questions and answers in the folder `options.argument`, or in `options.folder`, where the state is too."""

    name = "files"
    capabilities = Capabilities(temperature=True, json_schema=True, tools=True, embeddings=True, batch=True)

    def __init__(self, options: ProviderOptions) -> None:
        self._live = OpenAIProvider(ProviderOptions())  # for its payload
        self._folder = Path(options.argument).expanduser() if options.argument else options.folder
        self._state = options.folder or self._folder
        self._opened: RequestStore | None = None
        self._failed: set[str] = set()  # whose error lines were handed over by this process
        self._said: set[str] = set()

    def payload(self, model: str, request: Request) -> dict[str, Any]:
        return self._live.payload(model, request)

    def connect(self) -> None:
        """Nothing to open, no key to read."""

    async def queue(self, request: Queued) -> None:
        self._store.add(request)

    async def collect(self) -> AsyncIterator[Delivered]:
        """Yield what the response files answer of what was queued; if that is nothing, write the requests and stop.

        The first answer to a request stands. A line that reports an error counts only where no answer is, and once a
        process. Raises WaitingError after it wrote the requests.
        """
        store, handed = self._store, 0
        store.remember_keys()
        for answers in (True, False):
            for key, outcome in self._outcomes(report=answers):
                if isinstance(outcome, Reply) is not answers or key in self._failed:
                    continue
                queued = store.get(key)
                if queued is None:
                    continue
                if not answers:
                    self._failed.add(key)
                store.hand_over(queued)
                yield Delivered(queued, outcome)
                store.handed_over(outcome)
                handed += 1
        store.commit()
        waiting = store.count_waiting()
        if not waiting:
            self._requests.unlink(missing_ok=True)
            self._readable.unlink(missing_ok=True)
        elif not handed:
            raise self._publish(waiting)

    async def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    @property
    def _store(self) -> RequestStore:
        if self._opened is None:
            if self._state is None:
                raise UserError("the provider files was given no folder; name one: --provider files:DIR")
            self._opened = RequestStore(self._state / "files.sqlite")
        return self._opened

    @property
    def _where(self) -> Path:
        assert self._folder is not None  # `_store` comes first
        return self._folder

    @property
    def _requests(self) -> Path:
        return self._where / "requests.jsonl"

    @property
    def _readable(self) -> Path:
        return self._where / "requests.md"

    def _outcomes(self, *, report: bool) -> Iterator[tuple[str, Outcome]]:
        """Ids and outcomes in all response files, line by line; with `report` says what lines are no use."""
        whole = self._where / "responses.jsonl"
        for path in (whole, *sorted(self._where.glob("responses-*.jsonl"))):
            if path.is_file():
                try:
                    yield from self._outcomes_in(path, report)
                except OSError as error:
                    raise UserError(f"{path} can't be read ({error.strerror})") from error

    def _outcomes_in(self, path: Path, report: bool) -> Iterator[tuple[str, Outcome]]:
        damaged: list[int] = []
        unknown = 0
        for number, line, whole in read_lines(path):
            if line is None and not whole:
                continue  # it is still being written
            try:
                key, outcome = _read(line or {})
            except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
                damaged.append(number)
                continue
            if isinstance(outcome, CallFailed) and outcome.kind is FailureKind.MALFORMED:
                damaged.append(number)
            elif self._store.is_known(key):
                yield key, outcome
            else:
                unknown += 1
        if report and damaged:
            lines = ", ".join(str(number) for number in damaged[:_DAMAGED_SHOWN])
            more = f" and {len(damaged) - _DAMAGED_SHOWN:,} more" if len(damaged) > _DAMAGED_SHOWN else ""
            self._say(f"{path}, line {lines}{more}: no result of a batch; left out, their requests stay open")
        if report and unknown:
            lines = "line answers" if unknown == 1 else "lines answer"
            self._say(f"{path}: {unknown:,} {lines} no request of this run; left out")

    def _publish(self, count: int) -> UserError:
        """Write the requests that wait; returns what to tell the user."""
        try:
            write_atomically(self._requests, self._write_requests)
            write_atomically(self._readable, partial(write_readable, requests=self._store.waiting(), count=count))
        except OSError as error:
            return UserError(f"{self._where} can't be written ({error.strerror}); make room and run again")
        answers = self._where / "responses.jsonl"
        return WaitingError(
            f"{count:,} requests wait in {self._requests} (to read: {self._readable.name}); put their answers into "
            f"{answers}, all or some, and run the same command again: it goes on from there"
        )

    def _write_requests(self, path: Path) -> None:
        with path.open("wb") as out:
            for queued in self._store.waiting():
                out.write(request_line(queued.key, queued.payload))

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            print(text, file=sys.stderr, flush=True)


def _read(line: dict[str, Any]) -> tuple[str, Outcome]:
    """Key and outcome of a line: a batch's result, or just {"custom_id", "text", "calls"} or {"custom_id", "embedding"}.

    Raises as `read_result`.
    """
    if "embedding" in line:
        key = line["custom_id"]
        if not isinstance(key, str):
            raise ValueError("no result")
        return key, read_embedding({"data": [line], "model": line.get("model")})
    if "text" not in line and "calls" not in line:
        return read_result(line, _on_one_line)
    key, text = line["custom_id"], line.get("text") or ""
    calls = calls_of((None, call["name"], call.get("arguments")) for call in line.get("calls") or ())
    if not isinstance(key, str) or not isinstance(text, str) or calls is None:
        raise ValueError("no result")
    return key, Reply(text, "stop" if calls or text.strip() else "empty", str(line.get("model") or ""), calls=calls)


def _on_one_line(told: object) -> str:
    text = told.get("message") if isinstance(told, dict) else told
    return " ".join(str(text).split())[:300]


@providers.register("files")
def files(options: ProviderOptions) -> DeferredProvider:
    """Questions into a file, answers out of one: for clusters without a network, and for people."""
    return FilesProvider(options)
