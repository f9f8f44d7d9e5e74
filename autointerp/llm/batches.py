"""Provider batches: submit what waits, look at what is under way until something has ended, hand over its answers.

The loop is the same for every provider; what differs is a `batch_api.BatchApi`. What is under way is in `batch_store`, so the
process may end at any moment. The one thing that this can't know by itself is whether a submission whose reply never
came was accepted; then the provider is asked for a batch with our token before anything is sent again.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from autointerp.errors import UserError
from autointerp.llm.batch_api import BatchApi, Pace, Status, Unanswered, Undecided
from autointerp.llm.batch_lines import check_lines, read_lines
from autointerp.llm.batch_store import Batch, RequestStore, new_token
from autointerp.llm.provider import CallFailed, Capabilities, Delivered, Provider, Queued, Reply
from autointerp.llm.retry import policy
from autointerp.llm.types import FailureKind, Request

T = TypeVar("T")


class BatchProvider:
    """A `DeferredProvider` over a `BatchApi`. Its state is in `folder`, made at the first request that is queued.

    `name` is that of the live provider, whose payload it takes too: the same question asked live or by batch is the same
    question, so a run may be begun by one and finished by the other.
    """

    def __init__(
        self, label: str, live: Provider, api: BatchApi, folder: Path | None, pace: Pace | None = None
    ) -> None:
        live_can = live.capabilities
        self.name = live.name
        self.capabilities = Capabilities(
            temperature=live_can.temperature, json_schema=live_can.json_schema, tools=live_can.tools, batch=True
        )
        self._label = label
        self._live = live
        self._api = api
        self._folder = folder
        self._pace = pace or Pace()
        self._opened: RequestStore | None = None
        self._most_requests = api.most_requests
        self._serial = False  # one batch at a time: the account takes no more
        self._alone: set[str] = set()  # tokens of batches that were submitted while no other was under way
        self._doubts = 0
        self._shown: dict[str, str] = {}

    def payload(self, model: str, request: Request) -> dict[str, Any]:
        return self._live.payload(model, request)

    def connect(self) -> None:
        self._api.link.connect()

    async def queue(self, request: Queued) -> None:
        self._store.add(request)

    async def collect(self) -> AsyncIterator[Delivered]:
        """See `DeferredProvider.collect`. Raises UserError if the provider refuses a batch, or can't be reached for long."""
        if not self._store.batches() and not self._store.count_waiting():
            return  # without a key
        self.connect()
        pause = self._pace.first_look
        while True:
            await self._resolve_doubts()
            await self._submit_waiting()
            if not self._store.batches():
                return
            handed = 0
            for batch in self._store.batches():
                if batch.remote is None:
                    continue
                status = await self._persist(partial(self._api.status, batch.remote))
                self._show(batch.token, f"{status.done:,} of {status.total or batch.count:,} done ({batch.remote})")
                if status.state == "failed":
                    self._give_up(batch, status)
                elif status.state == "ended":
                    async for delivered in self._hand_over(batch, status):
                        handed += 1
                        yield delivered
            if handed:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, self._pace.longest_look)

    async def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None
        await self._api.link.close()

    @property
    def _store(self) -> RequestStore:
        if self._opened is None:
            if self._folder is None:
                raise UserError(f"{self._label} keeps what is under way on disk, and was given no folder for it")
            self._opened = RequestStore(self._folder / f"{self._label}.sqlite")
            for rest in self._folder.glob(f"{self._label}-*.part"):  # of a process that was killed
                rest.unlink()
        return self._opened

    def _file(self, token: str, what: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{self._label}-{token}-{what}.part"

    async def _submit_waiting(self) -> None:
        """Submit what waits, batch by batch, until nothing is left, one is in doubt, or there is too much under way."""
        while self._store.count_waiting():
            others = self._store.batches()
            if any(batch.remote is None for batch in others):
                return  # which would make it harder to tell that one from this
            if others and self._serial:
                return
            token = new_token()
            if not others:
                self._alone.add(token)
            file = self._file(token, "requests")
            try:
                await self._submit(token, file)
            except OSError as error:
                raise _disk_error(file, error) from error
            finally:
                file.unlink(missing_ok=True)

    async def _submit(self, token: str, file: Path) -> None:
        keys = self._write(token, file)
        since = await self._persist(self._api.newest)
        uploaded = await self._persist(partial(self._api.upload, token, file))
        self._store.intend(token, keys, since)
        try:
            remote = await self._persist(partial(self._create, token, uploaded, file))
        except Unanswered as error:
            self._doubt(error.reason)
            return
        except UserError:  # said by the server, so it has not accepted
            self._store.release(token)
            raise
        self._store.accept(token, remote)
        self._doubts = 0
        self._say(f"batch {remote} submitted: {len(keys):,} requests")

    async def _create(self, token: str, uploaded: str, file: Path) -> str:
        """`BatchApi.create`, whose failures that may hide an acceptance become Unanswered."""
        try:
            return await self._api.create(token, uploaded, file)
        except CallFailed as error:
            if not error.retryable or error.kind is FailureKind.RATE_LIMITED:
                raise
            unanswered = Unanswered(error.reason)
        raise unanswered

    def _write(self, token: str, file: Path) -> list[str]:
        """Write as many of the waiting requests as one batch takes; returns their keys."""
        keys: list[str] = []
        size = 0
        with file.open("wb") as out:
            for queued in self._store.waiting():
                line = self._api.line(token, queued)
                size += len(line)
                if keys and (size > self._api.most_bytes or len(keys) >= self._most_requests):
                    break
                out.write(line)
                keys.append(queued.key)
        return keys

    async def _resolve_doubts(self) -> None:
        """Adopt, or give free, each batch of which we don't know whether the provider has it."""
        for batch in self._store.batches():
            if batch.remote is not None:
                continue
            try:
                remote = await self._find(batch)
            except Undecided as error:
                self._show(batch.token, str(error))
                continue
            if remote is None:
                self._store.release(batch.token)
            else:
                self._store.accept(batch.token, remote)
                self._doubts = 0
                self._say(f"batch {remote} found: {batch.count:,} requests, submitted before")

    async def _find(self, batch: Batch) -> str | None:
        scratch = self._file(batch.token, "found")
        try:
            for last_look in (False, True):
                others = frozenset(other.remote for other in self._store.batches() if other.remote)
                remote = await self._persist(partial(self._api.find, batch, others, scratch))
                if remote is not None or last_look:
                    return remote
                await asyncio.sleep(self._pace.settle)
        finally:
            scratch.unlink(missing_ok=True)
        return None

    def _doubt(self, reason: str) -> None:
        self._doubts += 1
        if self._doubts > self._pace.tries:
            raise UserError(f"no batch could be submitted ({reason}); run again later: nothing is lost")
        self._say(f"a submission brought no reply ({reason}); looking whether it was accepted")

    async def _hand_over(self, batch: Batch, status: Status) -> AsyncIterator[Delivered]:
        """The outcome of every request of an ended batch: answers first, then failures, then what came back with nothing.

        A request that came back twice counts once; its answer counts before its failure.
        """
        assert batch.remote is not None
        file, remote = self._file(batch.token, "results"), batch.remote
        await self._persist(partial(self._fetch, remote, status, file))
        strange = 0
        for answers in (True, False):
            for _, line, _ in read_lines(file):
                try:
                    key, outcome = self._api.read(batch.token, line or {})
                except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
                    strange += answers
                    continue
                if isinstance(outcome, Reply) is not answers:
                    continue
                queued = self._store.get(key, batch.token)
                if queued is not None:
                    self._store.hand_over(queued)
                    yield Delivered(queued, outcome)
                    self._store.handed_over(outcome)
        while (queued := self._store.first(batch.token)) is not None:
            self._store.hand_over(queued)
            yield Delivered(queued, missing := status.missing())
            self._store.handed_over(missing)
        self._store.release(batch.token)
        file.unlink()
        if strange:
            self._say(f"{strange:,} lines of batch {remote}'s results answer no request; they were left out")

    async def _fetch(self, remote: str, status: Status, file: Path) -> None:
        file.unlink(missing_ok=True)
        try:
            file.touch()
            await self._api.fetch(remote, status, file)
        except OSError as error:
            raise _disk_error(file, error) from error
        check_lines(file)

    def _give_up(self, batch: Batch, status: Status) -> None:
        """The provider refused the whole batch: try less of it if there was too much under way, else tell the user."""
        self._store.release(batch.token)
        alone = batch.token in self._alone
        if status.full and not (alone and batch.count == 1):
            self._serial = True
            if alone:
                self._most_requests = max(1, batch.count // 2)
            self._say(
                f"batch {batch.remote} was refused, too much is under way ({status.reason}); going on with one batch at a "
                f"time, of at most {self._most_requests:,} requests"
            )
            return
        raise UserError(
            f"{self._api.link.address} refused the batch {batch.remote} of {batch.count:,} requests as a whole: "
            f"{status.reason or 'no reason given'}; mend that and run again"
        )

    async def _persist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Try a call until it brings a reply, by the one policy. Raises UserError when that lasts too long."""
        try:
            async for attempt in policy(self._pace.tries, self._pace.backoff, self._pace.longest_wait):
                with attempt:
                    try:
                        return await call()
                    except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
                        reason = f"the server's reply can't be read ({type(error).__name__})"
                    raise CallFailed(FailureKind.MALFORMED, reason, retryable=True)
        except CallFailed as error:
            if error.retryable:
                advice = "run again later: what is under way goes on there, and nothing is lost"
            else:
                advice = "mend that and run again"
            failure = UserError(f"{self._label}: {error.reason}; {advice}")
        raise failure

    def _show(self, token: str, text: str) -> None:
        """Say it if it is not what was said of this batch last."""
        if self._shown.get(token) != text:
            self._shown[token] = text
            self._say(text)

    def _say(self, text: str) -> None:
        print(f"{self._label}: {text}", file=sys.stderr, flush=True)


def _disk_error(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} can't be written ({error.strerror}); make room and run again: nothing is lost")
