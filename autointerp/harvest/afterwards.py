"""What is measured on a finished run, because it was asked for only then: the catalog's facts are filled in, nothing else."""

import json
from dataclasses import asdict
from typing import Any

import click

from autointerp.catalog.store import Catalog
from autointerp.errors import UserError
from autointerp.harvest.conformance import first_windows
from autointerp.harvest.loss import measure_loss_recovered
from autointerp.harvest.plan import finished_plan
from autointerp.harvest.runs import Run, plan_fingerprint
from autointerp.harvest.setup import open_readers


def add_loss_recovered(run: Run) -> dict[str, Any]:
    """Measure the loss recovered on the finished run, store it in the facts of its sampling, and return them.

    Raises UserError where the plan, which holds the windows, is gone.
    """
    [reader] = open_readers([run])
    fingerprint = plan_fingerprint(run.config, prepend_bos=bool(reader.shift))
    # A run among several of one pass shares the plan of the folder above.
    plans = [finished_plan(folder / "plan", fingerprint) for folder in (run.out, run.out.parent)]
    plan = next((found for found in plans if found is not None), None)
    if plan is None:
        raise UserError(f"{run.out}: the sampling is complete without the loss recovered, and its windows ({run.out / 'plan'}) "
                        "are gone, so that it cannot be measured now; leave --loss-recovered out "
                        "(--set sample.loss_recovered=false)")  # fmt: skip
    found = measure_loss_recovered(reader, first_windows(plan))
    click.echo(f"conformance: {found.describe()}", err=True)
    with Catalog.open(run.catalog, write=True) as catalog:
        facts = catalog.stage_facts("sample")
        facts["conformance"]["loss"] = asdict(found)
        catalog.connection.execute(
            "UPDATE stages SET facts = ? WHERE stage = 'sample'", [json.dumps(facts, sort_keys=True)]
        )
    return facts
