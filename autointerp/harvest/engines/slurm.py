"""Workers as the jobs of a Slurm array, through submitit. A job that is preempted or out of time is queued again and goes on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autointerp.errors import UserError
from autointerp.harvest.crew import Crew
from autointerp.harvest.engine import Job, check_options, engines
from autointerp.harvest.worker import Task, attempt
from autointerp.progress import Advance

_CLUSTERS = ("slurm", "local")
_OURS = ("cluster", "threads")
_DEFAULTS = {"timeout_min": 24 * 60, "name": "autointerp"}  # submitit's own limit is 5 minutes
_WORKERS = 4


class Slurm:
    """Options are those of submitit's AutoExecutor; and `cluster` (slurm, or local for processes here) and `threads`."""

    help = "in the jobs of a Slurm array"

    def check(self, workers: int | None, options: Mapping[str, Any]) -> None:
        _executor(Path("."), options)

    def run(self, job: Job, advance: Advance) -> None:
        threads = job.options.get("threads", job.options.get("cpus_per_task"))
        crew = Crew(job, job.workers or _WORKERS, threads, advance)
        jobs = _executor(crew.out / "workers", job.options).map_array(Work(), crew.tasks)
        running = {task.index: (task, started) for task, started in zip(crew.tasks, jobs, strict=True)}
        try:
            crew.attend(running, lambda job: job.done(), _note_end)
        finally:
            for _, started in running.values():
                started.cancel(check=False)
        crew.finish()


class Work:
    """`attempt`, as submitit wants it to queue it again: what was finished is not done again, so nothing is to be saved."""

    def __call__(self, task: Task) -> str | None:
        return attempt(task)

    def checkpoint(self, task: Task) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, task)


def _executor(folder: Path, options: Mapping[str, Any]) -> Any:
    """submitit's executor. Raises UserError if there is no submitit, no Slurm, or no such option."""
    try:
        import submitit
    except ImportError:
        raise UserError("--engine slurm needs the package submitit: pip install 'autointerp[slurm]'") from None
    check_options(
        "slurm", {name: options[name] for name in _OURS if name in options}, {"cluster": "text", "threads": "count"}
    )
    cluster = options.get("cluster", "slurm")
    if cluster not in _CLUSTERS:
        raise UserError(f"--engine-option cluster={cluster}: expected {' or '.join(_CLUSTERS)}")
    for name in ("nodes", "tasks_per_node"):
        if options.get(name, 1) != 1:
            raise UserError(
                f"--engine-option {name}={options[name]}: a worker is one process; give their number by --workers"
            )
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster)
    except RuntimeError:
        raise UserError("--engine slurm: there is no Slurm here (no srun on the PATH); run it where jobs are submitted, or use "
                        "--engine processes") from None  # fmt: skip
    try:
        executor.update_parameters(**_DEFAULTS | {name: value for name, value in options.items() if name not in _OURS})
    except (AssertionError, NameError, TypeError, ValueError) as error:
        raise UserError(f"--engine-option: {' '.join(str(error).split())}") from None
    return executor


def _note_end(crew: Crew, task: Task, job: Any) -> None:
    from submitit.core.utils import FailedJobError

    error = job.exception()
    if error is None:
        crew.told(task, job.result())
    elif isinstance(error, FailedJobError):
        last = str(error).split("-" * 22)[1].strip().splitlines()[-1]
        crew.failed(task, f"failed with {last} (job {job.job_id}; all it printed is in {job.paths.stderr})")
    else:
        crew.failed(task, f"ended without an answer, as when it is killed (job {job.job_id}, state {job.state}; all it printed "
                          f"is in {job.paths.stderr})")  # fmt: skip


engines.register("slurm")(Slurm())
