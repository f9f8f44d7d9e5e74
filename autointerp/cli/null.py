"""The command `null`: what labels of random directions score."""

from typing import Any

import click

from autointerp.cli.options import REMEMBERED, configure, folder_options, model_options, score_options
from autointerp.cli.outcomes import print_ranking


@click.command(epilog=REMEMBERED)
@folder_options
@model_options
@score_options
@click.option("--directions", type=click.IntRange(1, 512), help="How many. [default: score.random_directions, else 64]")
def null(directions: int | None, **options: Any) -> None:
    """Explain and score random directions, as dense as features: what do labels of nothing score?

    They are sampled, labelled and graded with the run's own settings in RUN_DIR/null, at the cost of so many features more.
    Then every score has a p-value (how many random directions score as high) and a false discovery rate over all features.

    \b
    autointerp null --out RUN_DIR --directions 64
    autointerp sql --out RUN_DIR "SELECT feature_id, title, score, p_random, q_random FROM catalog WHERE q_random > 0.05"
    """
    from autointerp.harvest.runs import runs_of
    from autointerp.pipeline import null_stage
    from autointerp.run_folder import run_folder

    config, out = configure(**options)
    with run_folder(out):
        null_stage(config, out, directions or config.score.random_directions or 64)
        for one in runs_of(config, out):
            print_ranking(one.out)
