"""The workers of an engine, as seen from the process that starts them: their tasks, their progress, how they ended."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.harvest.engine import Job
from autointerp.harvest.shards import finished_shards, missing_parts
from autointerp.harvest.worker import Task, progress_path
from autointerp.progress import Advance

_SECONDS_BETWEEN_LOOKS = 1.0
_AGAIN = "run the same command again: only the missing parts are done"


Started = TypeVar("Started")


class Crew:
    """Workers that one run of an engine has started."""

    def __init__(self, job: Job, count: int, threads: int | None, advance: Advance) -> None:
        self.out = job.out.absolute()
        shutil.rmtree(self.out / "workers", ignore_errors=True)  # of an earlier run
        (self.out / "workers").mkdir(parents=True)
        self.tasks = _tasks(job, count, threads)
        self._advance = advance
        self._tokens = dict.fromkeys((task.index for task in self.tasks), 0)
        self._ended: dict[int, str | None] = {}
        self._mistakes: list[str] = []

    def attend(
        self, running: dict[int, tuple[Task, Started]], has_ended: Callable[[Started], bool],
        note_end: Callable[["Crew", Task, Started], None],
    ) -> None:  # fmt: skip
        """Look after the workers until all have ended; those that have are taken out of `running`."""
        while running:
            for index, (task, started) in list(running.items()):
                if has_ended(started):
                    note_end(self, task, started)
                    del running[index]
            self.watch()
            if running:
                time.sleep(_SECONDS_BETWEEN_LOOKS)

    def watch(self) -> None:
        """Show what the workers have done since the last call."""
        started = 0
        new = 0
        for index, before in self._tokens.items():
            try:
                tokens = int(json.loads(progress_path(self.out, index).read_text(encoding="utf-8"))["tokens"])
            except (OSError, ValueError):  # not begun
                continue
            started += index not in self._ended
            if tokens > before:  # fewer where a worker was killed and begins again
                self._tokens[index] = tokens
                new += tokens - before
        failed = sum(problem is not None for problem in self._ended.values())
        self._advance(new, f"{started} of {len(self.tasks)} workers at work" + (f", {failed} failed" if failed else ""))

    def told(self, task: Task, message: str | None) -> None:
        """The worker has ended, and this is what `attempt` returned."""
        self._ended[task.index] = message
        if message is not None:
            self._mistakes.append(message)

    def failed(self, task: Task, how: str) -> None:
        """The worker has ended otherwise; `how` goes on the sentence "worker 2 of 4 …"."""
        self._ended[task.index] = f"{task.name} {how}"

    def finish(self) -> None:
        """To be called when all workers have ended. Raises UserError if one has failed; the user's own mistakes go first."""
        self.watch()
        problems = [problem for problem in self._ended.values() if problem is not None]
        if self._mistakes:
            raise UserError(self._mistakes[0])
        if problems:
            more = f" ({len(problems) - 1} more failed)" if len(problems) > 1 else ""
            raise UserError(f"{problems[0]}{more}; {_AGAIN}")
        shutil.rmtree(self.out / "workers", ignore_errors=True)  # a cluster may still hold its logs


def _tasks(job: Job, count: int, threads: int | None) -> list[Task]:
    """The missing parts of a job, dealt out to `count` workers, or fewer if there are not so many parts."""
    harvest = job.harvest
    missing = missing_parts(harvest.plan.n_parts, finished_shards(harvest.shards, harvest.fingerprint))
    count = min(count, len(missing))
    common: dict[str, Any] = {
        "config": job.config.model_dump(mode="json"), "out": str(job.out.absolute()), "cwd": _cwd(job.config),
        "plan_fingerprint": harvest.plan_fingerprint, "fingerprint": harvest.fingerprint, "count": count, "threads": threads,
    }  # fmt: skip
    shares = [missing[i * len(missing) // count : (i + 1) * len(missing) // count] for i in range(count)]
    return [Task(parts=parts, index=index, **common) for index, parts in enumerate(shares, start=1)]


def _cwd(config: Config) -> str | None:
    """This folder, if a path of the configuration is relative to it."""
    given = [config.subject.model, config.corpus.source, config.sample.features, config.sae.path]
    given += [sae.path for sae in config.also]
    return str(Path.cwd()) if any(_is_relative(text) for text in given) else None


def _is_relative(text: str) -> bool:
    path = Path(text)
    try:
        return not path.is_absolute() and path.exists()
    except OSError:  # a list of ids too long to be a file name
        return False
