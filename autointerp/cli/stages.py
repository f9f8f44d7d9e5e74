"""The commands that do work: run, sample, negatives, steer, explain, score, report, retry, rederive."""

from pathlib import Path
from typing import Any

import click

from autointerp.cli.options import (
    configure,
    engine_options,
    folder_options,
    model_options,
    sample_options,
    score_options,
)
from autointerp.cli.terminal import one_line
from autointerp.errors import UserError

# Those of `autointerp.llm.types.FailureKind`, which is not imported for a help text; a test compares them.
_KINDS = (
    "refused", "truncated", "malformed", "timeout", "rate_limited", "server_error", "rejected", "over_budget", "no_evidence",
    "too_large",
)  # fmt: skip


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


@click.command()
@folder_options
@sample_options
@engine_options
@model_options
@score_options
def run(engine: str, workers: int | None, engine_options: dict[str, Any], **options: Any) -> None:
    """Sample, explain, score, rank and report: the whole job, in one folder.

    Without options it labels the embedded demo SAE. A stage that is complete is left alone, so the same command goes on
    after an interruption, and costs seconds when everything is there.
    """
    from autointerp.harvest.runs import runs_of
    from autointerp.pipeline import run_all, run_folder

    config, out = configure(**options)
    with run_folder(out):
        reports = run_all(config, out, engine=engine, workers=workers, engine_options=engine_options)
    for one, path in zip(runs_of(config, out), reports, strict=True):
        _print_ranking(one.out)
        click.echo(
            f'\nreport:  {path.resolve()}\ncatalog: autointerp sql --out {one.out} "SELECT * FROM catalog LIMIT 10"'
        )


@click.command()
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
    from autointerp.pipeline import run_folder, sample_shard_stage, sample_stage

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


@click.command()
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
    from autointerp.pipeline import negatives_stage, run_folder

    config, out = configure(**options)
    with run_folder(out):
        found = negatives_stage(config, out)
    for one, facts in zip(runs_of(config, out), found, strict=True):
        near, token = (
            f"{facts[kind]['windows']:,} for {facts[kind]['features']:,} features" for kind in ("near", "token")
        )
        click.echo(f"{one.out}: near: {near}; token: {token} ({facts['windows_read']:,} windows read)")


@click.command()
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
    from autointerp.pipeline import run_folder, steer_stage

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


@click.command()
@folder_options
@model_options
def explain(**options: Any) -> None:
    """Write a label for every sampled feature that has none yet. Failed ones are tried again."""
    from autointerp.harvest.runs import runs_of
    from autointerp.pipeline import explain_stage, run_folder

    config, out = configure(**options)
    with run_folder(out):
        for one in runs_of(config, out):
            for name, counts in explain_stage(one.config, one.out).items():
                click.echo(f"{name}: {counts['n_ok']:,} labels, {counts['n_failed']:,} failed")
            _warn_of_failures(one.out, "explanations")


@click.command()
@folder_options
@model_options
@score_options
def score(**options: Any) -> None:
    """Simulate activations from the labels on the test split, grade them, and rank the catalog."""
    from autointerp.harvest.runs import runs_of
    from autointerp.pipeline import run_folder, score_stage

    config, out = configure(**options)
    with run_folder(out):
        for one in runs_of(config, out):
            score_stage(one.config, one.out)
            _print_ranking(one.out)


@click.command()
@folder_options
@click.option("--title", help="Heading of the report.")
@click.option("--limit", type=int, help="Show only the first so many features of the ranking.")
def report(title: str | None, limit: int | None, **options: Any) -> None:
    """Write RUN_DIR/report.html: one file, no network."""
    from autointerp.harvest.runs import runs_of
    from autointerp.pipeline import report_stage, run_folder

    options["settings"] += tuple(
        f"report.{name}={_toml(value)}" for name, value in (("title", title), ("limit", limit)) if value
    )
    config, out = configure(**options)
    with run_folder(out):
        for one in runs_of(config, out):
            click.echo(report_stage(one.config, one.out).resolve())


@click.command()
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
    """Ask again, for fresh answers, what failed: labels and simulations without a usable answer.

    explain and score try failed requests again, too; but an answer that came and could not be used (malformed) is in the
    journal, and they find it there again. Here another one is asked for.

    \b
    autointerp retry --out RUN_DIR --kind malformed --kind timeout
    autointerp sql --out RUN_DIR "SELECT reason, count(*) FROM explanations WHERE status = 'failed' GROUP BY ALL"
    """
    from autointerp.harvest.runs import runs_of
    from autointerp.pipeline import retry_stage, run_folder

    config, out = configure(**options)
    with run_folder(out):
        for one in runs_of(config, out):
            tried = retry_stage(one.config, one.out, kinds)
            if not any(tried.values()):
                asked = one.config.explain
                by = asked.explainer + (f", {asked.provider}, model {asked.model}" if asked.model else "")
                click.echo(
                    f"nothing to try again: no label or simulation ({by}) has failed" + " in this way" * bool(kinds)
                )
                continue
            click.echo(f"tried again: labels: {tried['labels']:,}; grades with failures: {tried['grades']:,}")
            _print_ranking(one.out)


@click.command()
@folder_options
@model_options
@score_options
def rederive(**options: Any) -> None:
    """Derive labels and scores anew from the journal, with no request sent.

    For instance after a parser was mended, or a metric: what was paid for is not paid for again. What the journal cannot
    answer is left as it is.
    """
    from autointerp.harvest.runs import runs_of
    from autointerp.pipeline import rederive_stage, run_folder

    config, out = configure(**options)
    with run_folder(out):
        for one in runs_of(config, out):
            rederive_stage(one.config, one.out)
            _print_ranking(one.out)


def _toml(value: object) -> str:
    import json

    return json.dumps(value)


def _print_ranking(out: Path) -> None:
    """The figures that a run is about, and the first labels."""
    from autointerp.catalog.store import Catalog
    from autointerp.pipeline import catalog_path

    with Catalog.open(catalog_path(out)) as catalog:
        facts = catalog.stage_facts("score")
        rows = catalog.rows("SELECT rank, feature_id, title, score, lo, hi FROM catalog WHERE rank <= 10 ORDER BY rank")
    if facts.get("median") is None:
        _warn_of_all_failures(out)
        raise UserError("no feature has a defined score: see the reasons above, or SELECT * FROM catalog")
    who = f"{facts['explainer']}, simulator {facts['simulator']}"
    click.echo(f"{facts['metric']} of {facts['n_scored']:,} labels ({who}): median {_interval(facts, 'median')}")
    if facts.get("shuffled_median") is not None:
        click.echo(f"shuffled labels, {facts['n_shuffled']:,}: median {_interval(facts, 'shuffled_median')}")
    for name, what in (("detection", "labels"), ("shuffled_detection", "shuffled labels")):
        if facts.get(name) is not None:
            click.echo(
                f"balanced accuracy of {facts[f'n_{name}']:,} {what} in detection: median {_interval(facts, name)}"
            )
    click.echo("\nrank  score and interval   feature  label")
    for rank, feature, title, value, lo, hi in rows:
        click.echo(f"{rank:>4}  {value:.2f} [{lo:.2f}, {hi:.2f}]  {feature:>7}  {one_line(title)}")
    _warn_of_all_failures(out)


def _interval(facts: dict[str, Any], name: str) -> str:
    return f"{facts[name]:.3f} [{facts[f'{name}_lo']:.3f}, {facts[f'{name}_hi']:.3f}]"


def _warn_of_all_failures(out: Path) -> None:
    for table in ("explanations", "simulations", "judgements", "written_texts"):
        _warn_of_failures(out, table)


def _warn_of_failures(out: Path, table: str) -> None:
    from autointerp.catalog.store import Catalog
    from autointerp.pipeline import catalog_path

    key, shown = ("explainer_key", "ranking") if table == "explanations" else ("score_key", "scorings")
    with Catalog.open(catalog_path(out)) as catalog:
        rows = catalog.rows(
            f"SELECT split_part(reason, ':', 1), any_value(reason), count(DISTINCT feature_id) FROM {table} "
            f"WHERE status = 'failed' AND {key} IN (SELECT {key} FROM {shown}) GROUP BY 1 ORDER BY 3 DESC, 1 LIMIT 5"
        )
    for kind, reason, count in rows:
        advice = "" if kind == "no_evidence" else "; run the same command again, or autointerp retry"
        features = "feature" if count == 1 else "features"
        click.echo(f"{table} of {count:,} {features} failed: {one_line(reason)}{advice}", err=True)
