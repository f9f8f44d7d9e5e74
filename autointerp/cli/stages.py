"""The commands that do work: run, sample, explain, score, report."""

from pathlib import Path
from typing import Any

import click

from autointerp.cli.options import configure, folder_options, model_options, sample_options, score_options
from autointerp.cli.terminal import one_line
from autointerp.errors import UserError


@click.command()
@folder_options
@sample_options
@model_options
@score_options
def run(**options: Any) -> None:
    """Sample, explain, score, rank and report: the whole job, in one folder.

    Without options it labels the embedded demo SAE. A stage that is complete is left alone, so the same command goes on
    after an interruption, and costs seconds when everything is there.
    """
    from autointerp.pipeline import run_all, run_folder

    config, out = configure(**options)
    with run_folder(out):
        path = run_all(config, out)
    _print_ranking(out)
    click.echo(f'\nreport:  {path.resolve()}\ncatalog: autointerp sql --out {out} "SELECT * FROM catalog LIMIT 10"')


@click.command()
@folder_options
@sample_options
def sample(**options: Any) -> None:
    """Run the model over the corpus and keep, for every feature, exact counts and its top, banded and random contexts."""
    from autointerp.pipeline import run_folder, sample_stage

    config, out = configure(**options)
    with run_folder(out):
        facts = sample_stage(config, out)
    flags = ", ".join(f"{count:,} {flag}" for flag, count in facts["flags"].items())
    click.echo(
        f"{facts['features']:,} features over {facts['tokens']:,} tokens of {facts['documents']:,} documents: {flags}"
    )


@click.command()
@folder_options
@model_options
def explain(**options: Any) -> None:
    """Write a label for every sampled feature that has none yet. Failed ones are tried again."""
    from autointerp.pipeline import explain_stage, run_folder

    config, out = configure(**options)
    with run_folder(out):
        facts = explain_stage(config, out)
    for name, counts in facts.items():
        click.echo(f"{name}: {counts['n_ok']:,} labels, {counts['n_failed']:,} failed")
    _warn_of_failures(out, "explanations")


@click.command()
@folder_options
@model_options
@score_options
def score(**options: Any) -> None:
    """Simulate activations from the labels on the test split, grade them, and rank the catalog."""
    from autointerp.pipeline import run_folder, score_stage

    config, out = configure(**options)
    with run_folder(out):
        score_stage(config, out)
    _print_ranking(out)


@click.command()
@folder_options
@click.option("--title", help="Heading of the report.")
@click.option("--limit", type=int, help="Show only the first so many features of the ranking.")
def report(title: str | None, limit: int | None, **options: Any) -> None:
    """Write RUN_DIR/report.html: one file, no network."""
    from autointerp.pipeline import report_stage, run_folder

    options["settings"] += tuple(
        f"report.{name}={_toml(value)}" for name, value in (("title", title), ("limit", limit)) if value
    )
    config, out = configure(**options)
    with run_folder(out):
        path = report_stage(config, out)
    click.echo(path.resolve())


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
        _warn_of_failures(out, "explanations")
        _warn_of_failures(out, "simulations")
        raise UserError("no feature has a defined score: see the reasons above, or SELECT * FROM catalog")
    who = f"{facts['explainer']}, simulator {facts['simulator']}"
    click.echo(f"{facts['metric']} of {facts['n_scored']:,} labels ({who}): median {_interval(facts, 'median')}")
    if facts.get("shuffled_median") is not None:
        click.echo(f"shuffled labels, {facts['n_shuffled']:,}: median {_interval(facts, 'shuffled_median')}")
    click.echo("")
    for rank, feature, title, value, lo, hi in rows:
        click.echo(f"{rank:>4}  {value:.2f} [{lo:.2f}, {hi:.2f}]  {feature:>7}  {one_line(title)}")
    _warn_of_failures(out, "explanations")
    _warn_of_failures(out, "simulations")


def _interval(facts: dict[str, Any], name: str) -> str:
    return f"{facts[name]:.3f} [{facts[f'{name}_lo']:.3f}, {facts[f'{name}_hi']:.3f}]"


def _warn_of_failures(out: Path, table: str) -> None:
    from autointerp.catalog.store import Catalog
    from autointerp.pipeline import catalog_path

    with Catalog.open(catalog_path(out)) as catalog:
        rows = catalog.rows(
            f"SELECT reason, count(*) FROM {table} WHERE status = 'failed' GROUP BY ALL ORDER BY 2 DESC, 1 LIMIT 3"
        )
    for reason, count in rows:
        click.echo(f"{count:,} {table} failed: {one_line(reason)}; run the same command again to retry them", err=True)
