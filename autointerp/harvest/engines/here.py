"""The harvest in this very process."""

from autointerp.errors import UserError
from autointerp.harvest.engine import Advance, Job, engines
from autointerp.harvest.shards import finished_shards, missing_parts


class Here:
    """All missing parts, one after the other."""

    help = "in this process"

    def run(self, job: Job, advance: Advance) -> None:
        if job.workers not in (None, 1):
            raise UserError(
                f"--workers {job.workers}: one process has one worker; add --engine processes, slurm or ray"
            )
        harvest = job.harvest
        harvest.harvest(
            missing_parts(harvest.plan.n_parts, finished_shards(harvest.shards, harvest.fingerprint)), advance
        )


engines.register("here")(Here())
