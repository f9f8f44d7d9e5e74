"""Workers as tasks of a Ray cluster: one that is there, or one on this machine for the time of the harvest.

A task whose process dies is run again by Ray, and goes on where it was.
"""

import math
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from autointerp.errors import UserError
from autointerp.harvest.crew import Crew
from autointerp.harvest.engine import Job, check_options, engines
from autointerp.harvest.engines.processes import size, visible_gpus
from autointerp.harvest.worker import Task, attempt
from autointerp.progress import Advance

_OPTIONS = {"address": "text", "num_cpus": "amount", "num_gpus": "amount", "threads": "count", "max_retries": "count"}
_RETRIES = 3
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_TO_ANSWER = 10
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class Ray:
    """Options: `address` (auto, HOST:PORT, ray://…; none: a cluster of our own), `num_cpus` and `num_gpus` of each worker."""

    help = "as tasks of a Ray cluster"

    def check(self, workers: int | None, options: Mapping[str, Any]) -> None:
        _import_ray()
        check_options("ray", options, _OPTIONS)

    def run(self, job: Job, advance: Advance) -> None:
        options = job.options
        wanted, cores = size(job.workers, len(visible_gpus(job.config.subject.device)))
        local = "address" not in options
        num_cpus = options.get("num_cpus", cores if local else 1)
        with _cluster(options.get("address"), wanted * num_cpus) as ray:
            there = ray.cluster_resources()
            takes_gpu = job.config.subject.device in ("auto", "cuda") and there.get("GPU", 0) >= 1
            num_gpus = options.get("num_gpus", 1 if takes_gpu else 0)
            _check_room(ray, num_cpus, num_gpus)
            if not local and job.workers is None:
                wanted = int(there["GPU"] // num_gpus if num_gpus else there["CPU"] // (num_cpus or 1))
            crew = Crew(job, wanted, options.get("threads", max(1, int(num_cpus))), advance)
            retries = options.get("max_retries", _RETRIES)
            remote = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=retries)(attempt)
            _wait(ray, crew, {remote.remote(task): task for task in crew.tasks})
        crew.finish()


def _wait(ray: Any, crew: Crew, running: dict[Any, Task]) -> None:
    """Until every task has ended; if this process is stopped, stop them."""
    try:
        while running:
            ended, _ = ray.wait(list(running), timeout=_SECONDS_BETWEEN_LOOKS)
            for reference in ended:
                _note_end(ray, crew, running.pop(reference), reference)
            crew.watch()
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _note_end(ray: Any, crew: Crew, task: Task, reference: Any) -> None:
    try:
        crew.told(task, ray.get(reference))
    except ray.exceptions.RayTaskError as error:
        crew.failed(task, f"failed with {str(error).strip().splitlines()[-1]}")
    except ray.exceptions.RayError as error:  # its process or its node died, more often than it is tried
        crew.failed(task, f"was killed ({type(error).__name__}: {str(error).strip().splitlines()[0]})")


def _check_room(ray: Any, num_cpus: float, num_gpus: float) -> None:
    """Raise UserError if no node can hold a worker: Ray would wait for one for ever."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(one.get("CPU", 0) >= num_cpus and one.get("GPU", 0) >= num_gpus for one in resources):
        raise UserError(f"--engine ray: a worker takes {num_cpus:g} CPUs and {num_gpus:g} GPUs, and no node of the cluster has "
                        "as many; set --engine-option num_cpus=N and num_gpus=N")  # fmt: skip


@contextmanager
def _cluster(address: str | None, num_cpus: float) -> Iterator[Any]:
    """Ray, connected. A cluster of our own ends with the block; one that was there is left, and so is an open connection."""
    ray = _import_ray()
    if ray.is_initialized():
        yield ray
        return
    common = {"log_to_driver": False, "logging_level": "error"}
    where = "no local cluster could be started" if address is None else f"no cluster answers at {address}"
    try:
        if address is None:
            ray.init(num_cpus=math.ceil(num_cpus), include_dashboard=False, **common)
        else:
            _knock(address)
            ray.init(address=address, **common)
    except (ConnectionError, RuntimeError, ValueError, AssertionError, ImportError, OSError) as error:
        raise UserError(f"--engine ray: {where} ({' '.join(str(error).split())[:300]})") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError if nobody listens: Ray itself goes on trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_ANSWER).close()


def _import_ray() -> Any:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise UserError("--engine ray needs the package ray: pip install 'autointerp[ray]'") from None
    return ray


engines.register("ray")(Ray())
