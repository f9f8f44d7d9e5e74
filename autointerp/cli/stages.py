"""The commands that do work: run, sample, negatives, steer, explain, score, null, report, retry, rederive."""

from shlex import quote
from typing import Any

import click

from autointerp.cli.options import (
    DEMO_FOLDER,
    REMEMBERED,
    configure,
    engine_options,
    folder_options,
    model_options,
    only_option,
    sample_options,
    score_options,
)
from autointerp.cli.outcomes import print_labels, print_ranking
from autointerp.errors import UserError

_GLANCE = '"SELECT rank, feature_id, title, score, lo, hi FROM catalog LIMIT 20"'


def _parse_shard(context: click.Context, option: click.Parameter, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    index, slash, count = text.partition("/")
    if (
        not slash
        or not (text.isascii() and index.isdecimal() and count.isdecimal())
        or not 1 <= int(index) <= int(count)
    ):
        raise click.BadParameter(f"{text!r} is not a share: expected I/N with 1 ≤ I ≤ N, such as 3/8")
    return int(index), int(count)


@click.command(epilog=REMEMBERED)
@folder_options
@sample_options
@engine_options
@model_options
@score_options
def run(engine: str, workers: int | None, engine_options: dict[str, Any], **options: Any) -> None:
    """Sample, explain, score, rank and report: the whole job, in one folder.

    Without options it labels the embedded demo SAE. A stage that is complete is left alone, so the same command goes on
    after an interruption, and costs seconds when everything is there.

    With --features only these are sampled; in a folder that is sampled already, only these are labelled and scored this time.
    """
    from autointerp.harvest.runs import runs_of
    from autointerp.pipeline import run_all
    from autointerp.run_folder import is_sampled, run_folder

    only = "all"
    if options["features"] is not None and is_sampled(options["out"] or DEMO_FOLDER):
        only, options["features"] = options["features"], None
    config, out = configure(**options)
    with run_folder(out):
        reports = run_all(config, out, only, engine=engine, workers=workers, engine_options=engine_options)
    for one, path in zip(runs_of(config, out), reports, strict=True):
        print_ranking(one.out)
        click.echo(f"\nreport:  {path.resolve()}\ncatalog: autointerp sql --out {quote(str(one.out))} {_GLANCE}")


@click.command(epilog=REMEMBERED)
@folder_options
@sample_options
@engine_options
@click.option("--shard", metavar="I/N", callback=_parse_shard,
              help="Harvest only the I-th of N shares, beside other processes that share the folder; when all are done, the "
                   "same command without --shard merges them.")  # fmt: skip
def sample(
    engine: str, workers: int | None, engine_options: dict[str, Any], shard: tuple[int, int] | None, **options: Any
) -> None:
    """Run the model over the corpus and keep, for every feature, exact counts and its top, banded and random contexts.

    Several --sae are read in one pass; each gets a run folder of its own below --out.

    \b
    On a cluster with a shared folder, as an array of 8 jobs and a last one:
        autointerp sample … --out RUN_DIR --shard 1/8      (2/8, … 8/8)
        autointerp sample … --out RUN_DIR
    """
    from autointerp.harvest.runs import runs_of
    from autointerp.pipeline import sample_shard_stage, sample_stage
    from autointerp.run_folder import run_folder

    config, out = configure(**options)
    if shard is not None:
        if engine != "here" or workers or engine_options:
            raise UserError("--shard harvests in this process; leave out --engine, --workers and --engine-option")
        with run_folder(out, shared=True):
            click.echo(sample_shard_stage(config, out, *shard))
        return
    with run_folder(out):
        found = sample_stage(config, out, engine=engine, workers=workers, engine_options=engine_options)
    for one, facts in zip(runs_of(config, out), found, strict=True):
        flags = ", ".join(f"{count:,} {flag}" for flag, count in facts["flags"].items())
        where = f"{one.out.name}: " if len(found) > 1 else ""
        click.echo(f"{where}{facts['sae']} at {facts['hookpoint']}: {facts['features']:,} features over {facts['tokens']:,} "
                   f"tokens of {facts['documents']:,} documents: {flags}")  # fmt: skip


@click.command(epilog=REMEMBERED)
@folder_options
@click.option("--per-kind", type=click.IntRange(1),
              help="Negatives of each kind for each feature, shared out over the splits. [default: as configured]")  # fmt: skip
def negatives(**options: Any) -> None:
    """Find hard negatives: windows where a near feature fires or the feature's top token stands, and it is silent.

    They go into the catalog as contexts of the kinds near and token. The model reads the windows in question once more.

    \b
    autointerp negatives --out RUN_DIR --per-kind 20
    autointerp sql --out RUN_DIR "SELECT kind, count(*) FROM contexts GROUP BY kind"
    """
    from autointerp.harvest.runs import runs_of
    from autointerp.pipeline import negatives_stage
    from autointerp.run_folder import run_folder

    config, out = configure(**options)
    with run_folder(out):
        found = negatives_stage(config, out)
    for one, facts in zip(runs_of(config, out), found, strict=True):
        near, token = (
            f"{facts[kind]['windows']:,} for {facts[kind]['features']:,} features" for kind in ("near", "token")
        )
        click.echo(f"{one.out}: near: {near}; token: {token} ({facts['windows_read']:,} windows read)")


@click.command(epilog=REMEMBERED)
@folder_options
@click.option("--features", "steered", metavar="WHICH",
              help="all that fire, ids and ranges such as 0-999,2048, or a file of them. [default: all]")  # fmt: skip
@click.option("--kl", type=click.FloatRange(0, min_open=True),
              help="How far the predictions are to move, in nats. [default: 0.25]")  # fmt: skip
def steer(**options: Any) -> None:
    """Switch each feature on by force, and keep which next tokens become likelier and which less likely.

    The explainers output and dual are shown them from then on. The model's layers from the hookpoint on are run over a few
    random texts, some four times a feature.

    \b
    autointerp steer --out RUN_DIR
    autointerp explain --out RUN_DIR --explainer output --label-model NAME
    """
    from autointerp.harvest.runs import runs_of
    from autointerp.pipeline import steer_stage
    from autointerp.run_folder import run_folder

    config, out = configure(**options)
    with run_folder(out):
        found = steer_stage(config, out)
    for one, facts in zip(runs_of(config, out), found, strict=True):
        weak = facts["features"] - facts["reached"]
        reached = (
            f"{facts['kl']:g} nats reached by {facts['reached']:,}, less by {weak:,}, none by {len(facts['unmoved']):,}"
        )
        if facts["unlisted"]:
            reached += f"; {len(facts['unlisted']):,} moved only tokens below steering.floor, and have none listed"
        texts = f"{facts['prompts']} texts of {facts['length']} tokens"
        click.echo(f"{one.out}: {facts['features']:,} features steered over {texts}: {reached}")


@click.command(epilog=REMEMBERED)
@folder_options
@model_options
@only_option
def explain(only: str, **options: Any) -> None:
    """Write a label for every sampled feature that has none yet. Those for which no answer came are tried again.

    \b
    A few first, to see what labels are like and what they cost, then the rest:
        autointerp explain --out RUN_DIR --provider openai --label-model NAME --features 57,81,300-310
        autointerp explain --out RUN_DIR
    """
    from autointerp.harvest.runs import runs_of
    from autointerp.pipeline import explain_stage
    from autointerp.run_folder import run_folder

    config, out = configure(**options)
    with run_folder(out):
        for one in runs_of(config, out):
            print_labels(explain_stage(one.config, one.out, only), one.config, one.out)


@click.command(epilog=REMEMBERED)
@folder_options
@model_options
@score_options
@only_option
def score(only: str, **options: Any) -> None:
    """Grade the labels on the test split, by simulated activations and whatever scorers are configured, and rank the catalog.

    \b
    autointerp score --out RUN_DIR
    autointerp score --out RUN_DIR --features 57,81,300-310      these first; the same without --features does the rest
    autointerp score --out RUN_DIR --adaptive --top-k 50         only until the 50 best are known
    autointerp score --out RUN_DIR --set score.scorers=simulation,detection --rank-by detection.balanced_accuracy
    """
    from autointerp.harvest.runs import runs_of
    from autointerp.pipeline import score_stage
    from autointerp.run_folder import run_folder

    config, out = configure(**options)
    with run_folder(out):
        for one in runs_of(config, out):
            score_stage(one.config, one.out, only)
            print_ranking(one.out)


@click.command(epilog=REMEMBERED)
@folder_options
@click.option("--title", help="Heading of the report.")
@click.option("--limit", type=int, help="Show only the first so many features of the ranking.")
def report(title: str | None, limit: int | None, **options: Any) -> None:
    """Write RUN_DIR/report.html: one file, no network."""
    from autointerp.harvest.runs import runs_of
    from autointerp.pipeline import report_stage
    from autointerp.run_folder import run_folder

    options["settings"] += tuple(
        f"report.{name}={_toml(value)}" for name, value in (("title", title), ("limit", limit)) if value
    )
    config, out = configure(**options)
    with run_folder(out):
        for one in runs_of(config, out):
            click.echo(report_stage(one.config, one.out).resolve())


def _toml(value: object) -> str:
    import json

    return json.dumps(value)
