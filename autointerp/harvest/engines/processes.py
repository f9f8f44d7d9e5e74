"""Worker processes on this machine: on CPUs with a share of the threads each, on GPUs with one GPU each."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from autointerp.harvest.crew import Crew
from autointerp.harvest.engine import Job, check_options, engines
from autointerp.harvest.worker import Task, attempt, log_path
from autointerp.progress import Advance

_COMMAND = [sys.executable, "-m", "autointerp.harvest.engines.processes"]
_SECONDS_TO_STOP = 5.0
_TOLD = 3  # exit code of a worker that has printed what `attempt` returned

Worker = subprocess.Popen[str]


class Processes:
    """Fresh processes rather than forks: threads and CUDA do not survive a fork."""

    help = "in worker processes of this machine"

    def check(self, workers: int | None, options: Mapping[str, Any]) -> None:
        check_options("processes", options, {"threads": "count"})

    def run(self, job: Job, advance: Advance) -> None:
        gpus = visible_gpus(job.config.subject.device)
        count, threads = size(job.workers, len(gpus))
        crew = Crew(job, count, job.options.get("threads", threads), advance)
        running: dict[int, tuple[Task, Worker]] = {}
        try:
            for task in crew.tasks:
                gpu = gpus[(task.index - 1) % len(gpus)] if gpus else None
                running[task.index] = (task, _start(task, crew.out, gpu))
            crew.attend(running, lambda worker: worker.poll() is not None, _note_end)
        finally:
            _stop([worker for _, worker in running.values()])
        crew.finish()


def size(workers: int | None, n_gpus: int) -> tuple[int, int]:
    """How many workers, and torch threads for each: one worker a GPU, else one for four cores and at least two."""
    import torch

    cores = torch.get_num_threads()
    count = workers or n_gpus or max(2, cores // 4)
    return count, max(1, cores // count)


def visible_gpus(device: str) -> list[str]:
    """Names, for CUDA_VISIBLE_DEVICES, of the GPUs that workers can be given; none if one is named, or the CPU."""
    import torch

    if device not in ("auto", "cuda"):
        return []
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    count = torch.cuda.device_count()
    return named[:count] if named else [str(index) for index in range(count)]


def _start(task: Task, out: Path, gpu: str | None) -> Worker:
    """Start a worker. Its standard input stays open: when it closes, for whatever reason, the worker ends itself.

    In a process group of its own Ctrl-C does not reach it: this process is the one to stop it.
    """
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    if task.threads is not None:
        environment["OMP_NUM_THREADS"] = str(task.threads)
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    with log_path(out, task.index).open("w") as log:
        worker = subprocess.Popen(
            _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment,
            process_group=0,
        )  # fmt: skip
    stdin = cast(Any, worker.stdin)
    with suppress(BrokenPipeError):  # it has ended already; how, is seen when it is looked for
        stdin.write(json.dumps(asdict(task)) + "\n")
        stdin.flush()
    return worker


def _note_end(crew: Crew, task: Task, worker: Worker) -> None:
    code, answer = worker.returncode, cast(Any, worker.stdout).read()
    _close(worker)
    if code == _TOLD:
        crew.told(task, json.loads(answer))
    elif code < 0:
        crew.failed(task, f"was killed (signal {-code}, {_signal_name(-code)})")
    else:
        log = log_path(crew.out, task.index)
        last = (log.read_text(errors="replace").split("\n")[-2:] or [""])[0].strip()
        crew.failed(task, f"failed with {last or f'exit code {code}'} (all it printed is in {log})")


def _signal_name(number: int) -> str:
    if number == signal.SIGKILL:
        return "SIGKILL: by hand, or for want of memory"
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _stop(workers: list[Worker]) -> None:
    for worker in workers:
        worker.terminate()
    for worker in workers:
        try:
            worker.wait(_SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
        _close(worker)


def _close(worker: Worker) -> None:
    for stream in (worker.stdin, worker.stdout):
        with suppress(BrokenPipeError):  # what it did not read
            cast(Any, stream).close()


def main() -> None:
    """A worker: the task from standard input, what `attempt` returned to standard output."""
    task = Task(**json.loads(sys.stdin.readline()))
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing else that is printed mixes with the answer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with answer:
        json.dump(attempt(task), answer)
    os._exit(_TOLD)  # not through the interpreter's end, where a thread still waits for standard input


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


engines.register("processes")(Processes())

if __name__ == "__main__":
    main()
