"""The commands that do over what was done: retry, rederive."""

from typing import Any

import click

from autointerp.cli.options import REMEMBERED, configure, folder_options, model_options, score_options
from autointerp.cli.outcomes import print_ranking

# Those of `autointerp.llm.types.FailureKind`, which is not imported for a help text; a test compares them.
_KINDS = (
    "refused", "truncated", "malformed", "timeout", "rate_limited", "server_error", "rejected", "over_budget", "no_evidence",
    "too_large",
)  # fmt: skip


@click.command(epilog=REMEMBERED)
@folder_options
@model_options
@score_options
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(_KINDS),
    help="Only failures of this kind; several times for more.",
)
def retry(kinds: tuple[str, ...], **options: Any) -> None:
    """Ask again, for fresh answers, what failed: labels, simulations and judgements without a usable answer.

    explain and score try again what no answer came for (timeout, rate_limited, server_error, over_budget). Here other answers
    are asked for, too, where one came and was of no use (malformed, truncated, refused), or the server rejected the question.

    \b
    autointerp retry --out RUN_DIR --kind malformed --kind timeout
    autointerp sql --out RUN_DIR "SELECT reason, count(*) FROM explanations WHERE status = 'failed' GROUP BY ALL"
    """
    from autointerp.again import retry_stage
    from autointerp.harvest.runs import runs_of
    from autointerp.run_folder import run_folder

    config, out = configure(**options)
    with run_folder(out):
        for one in runs_of(config, out):
            tried = retry_stage(one.config, one.out, kinds)
            if not any(tried.values()):
                asked = one.config.explain
                by = asked.explainer + (f", {asked.provider}, model {asked.model}" if asked.model else "")
                click.echo(
                    f"nothing to try again: no label, simulation or judgement ({by}) has failed"
                    + " in this way" * bool(kinds)
                )
                continue
            click.echo(
                f"tried again: labels: {tried['labels']:,}; grades with failures: {tried['grades']:,} (a label has one, its "
                "control another)"
            )
            print_ranking(one.out)


@click.command(epilog=REMEMBERED)
@folder_options
@model_options
@score_options
def rederive(**options: Any) -> None:
    """Derive labels and scores anew from the journal, with no request sent.

    For instance after a parser was mended, or a metric: what was paid for is not paid for again. What the journal cannot
    answer is left as it is.
    """
    from autointerp.again import rederive_stage
    from autointerp.harvest.runs import runs_of
    from autointerp.run_folder import run_folder

    config, out = configure(**options)
    with run_folder(out):
        for one in runs_of(config, out):
            rederive_stage(one.config, one.out)
            print_ranking(one.out)
