"""The harvest in this very process."""

from collections.abc import Mapping
from typing import Any

from autointerp.errors import UserError
from autointerp.harvest.engine import Job, check_options, engines
from autointerp.harvest.shards import finished_shards, missing_parts
from autointerp.progress import Advance


class Here:
    """All missing parts, one after the other."""

    help = "in this process"

    def check(self, workers: int | None, options: Mapping[str, Any]) -> None:
        check_options("here", options, {})
        if workers not in (None, 1):
            raise UserError(f"--workers {workers}: one process has one worker; add --engine processes, slurm or ray")

    def run(self, job: Job, advance: Advance) -> None:
        harvest = job.harvest
        harvest.harvest(
            missing_parts(harvest.plan.n_parts, finished_shards(harvest.shards, harvest.fingerprint)), advance
        )


engines.register("here")(Here())
