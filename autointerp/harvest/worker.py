"""A worker of the harvest: a process, on this machine or another, that does some of the missing parts.

It is handed a `Task` and shares the run's folder with the process that started it: it finds the plan there and leaves shards
there. It never makes a plan, passes no gate and holds no lock: all that was done before it began. How far it is it writes into
workers/<index>.json, which is all that the process that started it reads while it works.
"""

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.files import write_text
from autointerp.harvest.plan import finished_plan
from autointerp.harvest.runs import runs_of
from autointerp.harvest.shards import finished_shards, missing_parts

if TYPE_CHECKING:
    from autointerp.harvest.passes import Pass

_SECONDS_BETWEEN_REPORTS = 1.0


@dataclass(frozen=True, slots=True)
class Task:
    """What worker `index` of `count` is to do; plain values, so that it can be pickled or written as JSON.

    `cwd`: where paths of the configuration are relative to; None if none is. `threads` of torch; None leaves them alone.
    """

    config: dict[str, Any]
    out: str
    cwd: str | None
    plan_fingerprint: str
    fingerprint: str
    parts: Sequence[int]
    index: int
    count: int
    threads: int | None

    @property
    def name(self) -> str:
        return f"worker {self.index} of {self.count}"


def attempt(task: Task) -> str | None:
    """`work`; returns the message of a UserError in place of raising it: exceptions lose their type on the way back."""
    try:
        work(task)
    except UserError as error:
        return str(error)
    return None


def work(task: Task) -> None:
    """Do those parts of the task that are missing. Raises UserError where the run's folder or its inputs are not in sight."""
    harvest = _open(task)
    if task.threads is not None:
        import torch

        torch.set_num_threads(task.threads)
    missing = set(missing_parts(harvest.plan.n_parts, finished_shards(harvest.shards, harvest.fingerprint)))
    parts = [part for part in task.parts if part in missing]  # an earlier attempt may have done some
    report = _Reporter(task, harvest.plan.part_tokens(task.parts) - harvest.plan.part_tokens(parts))
    harvest.harvest(parts, report)
    report.write()


def _open(task: Task) -> "Pass":
    """The pass that the task belongs to: the same plan, model and SAEs, or a UserError."""
    from autointerp.harvest.conformance import check_type
    from autointerp.harvest.passes import Pass
    from autointerp.harvest.setup import open_readers

    where = f"{task.name}, on {platform.node()},"
    if task.cwd is not None:
        try:
            os.chdir(task.cwd)
        except OSError as error:
            raise UserError(f"{where} cannot enter {task.cwd}, which relative paths of the configuration start from "
                            f"({error.strerror}); give absolute paths, on a disk that all workers share") from None  # fmt: skip
    out = Path(task.out)
    plan = finished_plan(out / "plan", task.plan_fingerprint)
    if plan is None:
        raise UserError(f"{where} does not find the plan in {out / 'plan'}; choose an --out on a disk that all workers share "
                        "under the same path")  # fmt: skip
    runs = runs_of(Config.model_validate(task.config), out)
    harvest = Pass(runs, (), plan, out / "shards", task.plan_fingerprint)
    if harvest.fingerprint != task.fingerprint:
        raise UserError(f"{where} does not find the same files of model, SAE and corpus as the process that started it; "
                        "put them on a disk that all workers share under the same path")  # fmt: skip
    readers = open_readers(runs)
    check_type(readers[0], harvest.shards)
    return replace(harvest, readers=readers)


class _Reporter:
    """Keeps workers/<index>.json up to date, by at most one write a second."""

    def __init__(self, task: Task, tokens: int) -> None:
        self._path = progress_path(Path(task.out), task.index)
        self._tokens = tokens
        self.write()

    def __call__(self, tokens: int, note: str) -> None:
        self._tokens += tokens
        if time.monotonic() - self._last >= _SECONDS_BETWEEN_REPORTS:
            self.write()

    def write(self) -> None:
        self._last = time.monotonic()
        write_text(self._path, json.dumps({"tokens": self._tokens, "pid": os.getpid(), "host": platform.node()}))


def progress_path(out: Path, index: int) -> Path:
    """File into which worker `index` writes how far it is."""
    return out / "workers" / f"{index}.json"


def log_path(out: Path, index: int) -> Path:
    """File for whatever worker `index` prints."""
    return out / "workers" / f"{index}.log"
