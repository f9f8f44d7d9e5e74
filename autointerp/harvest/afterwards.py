"""What is measured on a finished run, because it was asked for only then: the catalog's facts are filled in, nothing else."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.harvest.forward import Reader
from autointerp.harvest.loss import measure_loss_recovered
from autointerp.harvest.plan import finished_plan
from autointerp.harvest.stage import (
    catalog_path,
    load_subject_and_sae,
    resolve_hook,
    sample_fingerprint,
    wants_bos,
)


def add_loss_recovered(config: Config, out: Path) -> dict[str, Any]:
    """Measure the loss recovered on the finished run in `out`, store it in the facts of its sampling, and return them.

    Raises UserError where the plan, which holds the windows, is gone.
    """
    plan = finished_plan(out / "plan", sample_fingerprint(config))
    if plan is None:
        raise UserError(f"{out}: the sampling is complete without the loss recovered, and its windows ({out / 'plan'}) are "
                        "gone, so that it cannot be measured now; leave --loss-recovered out "
                        "(--set sample.loss_recovered=false)")  # fmt: skip
    subject, sae = load_subject_and_sae(config)
    hookpoint = resolve_hook(config, subject, sae)
    reader = Reader(subject, sae, hookpoint, prepend_bos=wants_bos(config, subject, sae))
    found = measure_loss_recovered(reader, plan.part(0))
    click.echo(f"conformance: {found.describe()}", err=True)
    with Catalog.open(catalog_path(out), write=True) as catalog:
        facts = catalog.stage_facts("sample")
        facts["conformance"]["loss"] = asdict(found)
        catalog.connection.execute(
            "UPDATE stages SET facts = ? WHERE stage = 'sample'", [json.dumps(facts, sort_keys=True)]
        )
    return facts
