"""The command `eval reliability`."""

from pathlib import Path
from typing import Any

import click

from autointerp.cli.options import model_options, overrides
from autointerp.cli.tables import print_table
from autointerp.cli.terminal import one_line
from autointerp.metric_names import USUAL


@click.command()
@click.argument("run", metavar="RUN_DIR", type=click.Path(path_type=Path))
@model_options
@click.option(
    "--by",
    "simulators",
    multiple=True,
    metavar="SIMULATOR[@MODEL]",
    help="A simulator, and its model; several times to cross them. [default: the one that suits the labels]",
)
@click.option(
    "--features", "count", type=click.IntRange(2), default=100, show_default=True, help="How many, drawn by hash."
)
@click.option("--samples", type=click.IntRange(1), default=3, show_default=True, help="Explanations of each feature.")
@click.option(
    "--metric", default=USUAL.metric, show_default=True, metavar="METRIC", help="One of the scorer simulation."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("reports/eval-reliability"),
    show_default=True,
    metavar="FOLDER",
    help="Where models' answers are kept; a rerun goes on there.",
)
@click.option("--to", type=click.Path(path_type=Path), metavar="FOLDER", help="Write reliability.json and .md there.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.FIELD=VALUE", help="Any field of the configuration.")
@click.option("--seed", type=int, help="Seed of the run. [default: the run's]")
def reliability(
    run: Path,
    simulators: tuple[str, ...],
    count: int,
    samples: int,
    metric: str,
    out: Path,
    to: Path | None,
    settings: tuple[str, ...],
    **options: Any,
) -> None:
    """Cross contexts, explanations and simulators: how much of the scores' variance is due to the features?

    RUN_DIR is a sampled run; it is only read. Each of the features gets several explanations, and each of these is scored on
    two disjoint draws of contexts by every simulator.

    \b
    autointerp eval reliability RUN_DIR --explainer lexicon --samples 1
    autointerp eval reliability RUN_DIR --provider openai --label-model A --by logprob_free@A --by logprob_free@B --to results
    """
    from autointerp.config_reading import load_config
    from autointerp.evaluate.reliability import parse_by, study
    from autointerp.evaluate.reliability_tables import analysed, as_json, heading, markdown, notes, tables
    from autointerp.files import write_text
    from autointerp.run_folder import run_folder, saved_config
    from autointerp.score.parts import simulator_name

    config = load_config(None, overrides(settings, options), base=saved_config(run))
    model = config.simulating().model
    by = [parse_by(text, model) for text in simulators or (simulator_name(config),)]
    with run_folder(out):
        found = study(config, run, out, by, features=count, samples=samples, metric=metric)
    result = analysed(found, config.seed)
    click.echo(one_line(heading(found)))
    for table in tables(found, result):
        print_table(table)
    click.echo()
    for note in notes(found, result):
        click.echo(f"- {one_line(note)}")
    if to is not None:
        for name, text in (("reliability.json", as_json(found, result)), ("reliability.md", markdown(found, result))):
            write_text(to / name, text)
            click.echo(f"written: {to / name}")
