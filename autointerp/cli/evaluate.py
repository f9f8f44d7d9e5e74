"""The commands `eval …`: how good explainers, simulators and judges are where the truth is known."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autointerp.cli.options import model_options, overrides, score_options
from autointerp.cli.reliability import reliability
from autointerp.cli.tables import print_table
from autointerp.cli.terminal import one_line

if TYPE_CHECKING:
    from autointerp.evaluate import Findings


@click.group(name="eval")
def evaluate() -> None:
    """Test explainers, simulators and judges where the truth is known.

    \b
    autointerp eval explainers
    autointerp eval explainers --provider openai --label-model NAME --to results
    autointerp eval metrics
    autointerp eval reliability RUN_DIR
    """


evaluate.add_command(reliability)


@evaluate.command()
@click.option(
    "--windows",
    type=click.IntRange(min=500),
    default=3000,
    show_default=True,
    help="Windows of the standard library's text, in which concepts are planted.",
)
@click.option(
    "--length",
    type=click.IntRange(min=16),
    default=127,
    show_default=True,
    help="Words of a window; as many as the harvest's windows have tokens.",
)
@click.option(
    "--units",
    "per_family",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Planted features of each of the six families.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=2),
    default=25,
    show_default=True,
    help="Samples of each of eight features a family, for the coverage of the intervals.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of every draw.")
@click.option("--to", type=click.Path(path_type=Path), metavar="FOLDER", help="Write metrics.md there.")
def metrics(windows: int, length: int, per_family: int, trials: int, seed: int, to: Path | None) -> None:
    """Test the scores themselves, with an oracle in place of a model.

    \b
    autointerp eval metrics
    autointerp eval metrics --units 5 --trials 4 --to results

    Does a score fall when a label lacks a part of the truth, or claims something more? Do the intervals hold the true score
    as often as they say? See docs/evaluation.md.
    """
    from autointerp.evaluate.metric_tables import study
    from autointerp.evaluate.tables import markdown_table

    began = time.monotonic()
    found = study(windows, length, per_family, trials, seed)
    for table in found:
        print_table(table, left=2)
    click.echo(f"{time.monotonic() - began:.0f} s")
    if to is not None:
        from autointerp.files import write_text

        write_text(to / "metrics.md", "\n\n".join(markdown_table(table) for table in found) + "\n")
        click.echo(f"written: {to / 'metrics.md'}")


@evaluate.command()
@model_options
@score_options
@click.option(
    "--judge-model",
    metavar="NAME",
    help="The model that compares labels with the true ones. [default: the label model; without one nobody judges]",
)
@click.option(
    "--check-judge", is_flag=True, help="Have the judge judge the false labels, too: how far can it be trusted?"
)
@click.option(
    "--family",
    "families",
    multiple=True,
    metavar="NAME",
    help="Only features of this family, such as numeric; several times for several.",
)
@click.option(
    "--suite",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Your own planted features, NAME.toml. [default: the packaged ones]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("reports/eval-explainers"),
    show_default=True,
    metavar="RUN_DIR",
    help="Where models' answers are kept; a rerun goes on there.",
)
@click.option(
    "--to", type=click.Path(path_type=Path), metavar="FOLDER", help="Write explainers.json and explainers.md there."
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="SECTION.FIELD=VALUE",
    help="Any field of the configuration, for instance --set exemplars.top=20.",
)
@click.option("--seed", type=int, help="Seed of the bootstrap. [default: 0]")  # fmt: skip
def explainers(
    judge_model: str | None,
    check_judge: bool,
    families: tuple[str, ...],
    folder: Path | None,
    out: Path,
    to: Path | None,
    settings: tuple[str, ...],
    **options: Any,
) -> None:
    """Label planted features, whose truth is known, and grade the labels.

    \b
    autointerp eval explainers
    autointerp eval explainers --provider mock --label-model mock --out runs/try

    Each label is scored by simulation on the test split. Where a model is given, a judge compares it with the true label,
    and the simulator is tested: the true label should score above three false ones. See docs/evaluation.md.
    """
    from autointerp.config_reading import load_config
    from autointerp.evaluate import evaluate as run_suite
    from autointerp.evaluate import load_suite

    config = load_config(None, overrides(settings, options))
    suite = load_suite(folder)
    chosen = [feature for feature in suite if not families or feature.family in families]
    if unknown := sorted(set(families) - {feature.family for feature in suite}):
        known = ", ".join(dict.fromkeys(feature.family for feature in suite))
        raise click.BadParameter(f"no family {unknown[0]!r}; there are: {known}", param_hint="--family")
    findings = run_suite(config, out, chosen, judge_model=judge_model, check_judge=check_judge)
    show(findings)
    if to is not None:
        _write(findings, to)


def show(findings: "Findings") -> None:
    """Print the tables and what belongs to them."""
    from autointerp.evaluate.tables import heading, notes, tables

    click.echo(one_line(heading(findings)))
    for one in tables(findings):
        print_table(one)
    for note in notes(findings):
        click.echo(f"- {one_line(note)}")


def _write(findings: "Findings", folder: Path) -> None:
    from autointerp.evaluate.tables import as_json, markdown
    from autointerp.files import write_text

    for name, text in (("explainers.json", as_json(findings)), ("explainers.md", markdown(findings))):
        write_text(folder / name, text)
        click.echo(f"written: {folder / name}")
