"""The thread that answers: it gathers what waits, takes the oldest with those most like it, and runs them together."""

import threading
import time
from collections.abc import Sequence
from typing import Protocol

from autointerp.llm.local.jobs import Job
from autointerp.llm.provider import CallFailed
from autointerp.llm.types import FailureKind

_PAUSE_S = 0.005  # with nothing new for this long, the batch is full enough
_PATIENCE_S = 0.05  # a batch waits no longer than this for others to join
_NEAR = 64  # tokens of padding that are never too many


class Runs(Protocol):
    """What the worker needs of the engine."""

    most: int

    def prepare(self, job: Job) -> bool: ...

    def fitting(self, jobs: Sequence[Job]) -> int: ...

    def run(self, jobs: Sequence[Job]) -> None: ...


class Worker:
    """Jobs are given and cancelled on the event loop; all else happens in the thread."""

    def __init__(self, engine: Runs) -> None:
        self._engine = engine
        self._changed = threading.Condition()
        self._new: list[Job] = []
        self._waiting: list[Job] = []  # prepared, oldest first; the thread's own
        self._running: list[Job] = []
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="autointerp-local-model", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        with self._changed:
            if self._closing:
                job.deliver(_closed())
                return
            self._new.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """A waiting job is not run; one that is running is dropped at the next token."""
        job.cancelled = True

    def close(self) -> None:
        """Drop every job and wait for the thread to end; at most for one forward pass. Blocks."""
        with self._changed:
            self._closing = True
            for job in [*self._new, *self._running]:
                job.cancelled = True
            self._changed.notify()
        self._thread.join()
        for job in [*self._new, *self._waiting, *self._running]:
            job.deliver(_closed())

    def _work(self) -> None:
        while self._gather():
            batch = self._take()
            with self._changed:
                self._running = batch
                if self._closing:
                    return
            if not batch:
                continue
            try:
                self._engine.run(batch)
            except Exception as error:  # a fault of ours or of a library: those who wait must hear of it
                for job in batch:
                    job.deliver(error)

    def _gather(self) -> bool:
        """Wait until there is work, and a moment more for others to join; then prepare it. False at the end."""
        with self._changed:
            while not self._new and not self._waiting and not self._closing:
                self._changed.wait()
            patience = time.monotonic() + _PATIENCE_S
            while len(self._new) + len(self._waiting) < self._engine.most and time.monotonic() < patience:
                known = len(self._new)
                self._changed.wait(_PAUSE_S)
                if len(self._new) == known or self._closing:
                    break
            if self._closing:
                return False
            new, self._new = self._new, []
        for job in new:
            try:
                if not job.cancelled and self._engine.prepare(job):
                    self._waiting.append(job)
            except Exception as error:  # see _work
                job.deliver(error)
        return True

    def _take(self) -> list[Job]:
        """The oldest job, and of its kind those nearest in length."""
        self._waiting = [job for job in self._waiting if not job.cancelled]
        if not self._waiting:
            return []
        oldest = self._waiting[0]
        reach = max(_NEAR, oldest.length // 2)
        alike = [
            job
            for job in self._waiting
            if bool(job.forced) == bool(oldest.forced) and abs(job.length - oldest.length) <= reach
        ]
        alike.sort(key=lambda job: (job is not oldest, abs(job.length - oldest.length)))
        batch = alike[: self._engine.fitting(alike)]
        taken = set(map(id, batch))
        self._waiting = [job for job in self._waiting if id(job) not in taken]
        return sorted(batch, key=lambda job: job.length)


def _closed() -> CallFailed:
    return CallFailed(FailureKind.SERVER_ERROR, "the model was closed before the answer was there")
