"""Batches on the loaded model, in the worker's thread: what fits, what fails, what is halved when memory runs out."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from autointerp.devices import free_memory, is_out_of_memory
from autointerp.errors import DataError
from autointerp.llm.local.jobs import Job
from autointerp.llm.local.loaded import Loaded, free_bytes
from autointerp.llm.local.prefixes import Prefixes
from autointerp.llm.local.reading import read
from autointerp.llm.local.schema import Matcher, Schemas
from autointerp.llm.local.writing import write
from autointerp.llm.provider import CallFailed
from autointerp.llm.types import FailureKind

_PREFIX_SHARE = 0.1  # of the free memory


class Engine:
    """`served`: the name that replies report. `most`: the largest batch."""

    def __init__(self, loaded: Loaded, served: str, most: int) -> None:
        self.most = most
        self._loaded = loaded
        self._served = served
        self._memory = free_bytes(loaded.device)
        self._prefixes = Prefixes(loaded, int(_PREFIX_SHARE * self._memory) // max(1, loaded.cache_bytes))
        self._schemas: Schemas | None = None

    def prepare(self, job: Job) -> bool:
        """Make the request tokens. False if that cannot be run, and the job is delivered the reason."""
        prompts, window = self._loaded.prompts, self._loaded.window
        try:
            job.prompt = prompts.encode(job.request.messages)
        except DataError as error:
            job.deliver(CallFailed(FailureKind.REJECTED, str(error)))
            return False
        if job.request.continuation is not None:
            job.forced = prompts.encode_continuation(job.request.continuation)
        reason = ""
        if job.request.continuation is not None and not job.forced:
            reason = "the continuation is empty; expected the tokens whose log-probabilities are asked for"
        elif window is not None and job.length + (not job.forced) > window:
            given = f" and a continuation of {len(job.forced):,}" if job.forced else ""
            reason = f"a prompt of {len(job.prompt):,} tokens{given} does not fit into the model's {window:,}; ask with less text"
        if reason:
            job.deliver(CallFailed(FailureKind.REJECTED, reason))
        return not reason

    def fitting(self, jobs: Sequence[Job]) -> int:
        """How many of `jobs`, from the first on, fit into memory together; at least one."""
        row = 0
        for count, job in enumerate(jobs[: self.most], start=1):
            written = 0 if job.forced else job.request.max_tokens
            kept = len(job.forced) + len(job.request.slots or job.forced) * bool(job.request.among)
            row = max(row, self._loaded.row_bytes(job.length, written, max(1, kept)))
            if row * count > self._memory:
                return max(1, count - 1)
        return min(len(jobs), self.most)

    def run(self, jobs: Sequence[Job]) -> None:
        """Deliver to every job, all of one kind. A batch that memory is too small for is run again in halves."""
        try:
            with torch.inference_mode():
                if jobs[0].forced:
                    read(self._loaded, self._prefixes, jobs, self._served)
                else:
                    write(self._loaded, self._prefixes, jobs, self._served, self._matcher)
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = f"out of memory: {str(error).strip().splitlines()[0][:200]}"
        self._shrink(jobs, reason)

    def _shrink(self, jobs: Sequence[Job], reason: str) -> None:
        """Run again, in halves, what was not delivered. Called when the failed batch's tensors are gone."""
        self._prefixes.clear()
        free_memory()
        if len(jobs) == 1:
            job = jobs[0]
            job.deliver(CallFailed(FailureKind.SERVER_ERROR, f"{reason} (one request of {job.length:,} tokens alone)"))
            return
        half = self.most = max(1, len(jobs) // 2)
        left = [job for job in jobs if not job.done and not job.cancelled]
        for start in range(0, len(left), half):
            self.run(left[start : start + half])

    def _matcher(self, schema: Mapping[str, Any]) -> Matcher:
        if self._schemas is None:
            prompts = self._loaded.prompts
            self._schemas = Schemas(prompts.tokenizer, self._loaded.vocabulary, sorted(self._loaded.stops))
        return self._schemas.matcher(schema)
