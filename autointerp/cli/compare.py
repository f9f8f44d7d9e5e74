"""The command `compare`: two runs, two explainers of one run, or two simulators of the same labels."""

from pathlib import Path

import click

from autointerp.cli.tables import print_table
from autointerp.cli.terminal import one_line
from autointerp.metric_names import parse_metric


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option(
    "--metric",
    metavar="[SCORER.]METRIC",
    help="What is compared: a metric of the scorer simulation, or scorer.metric such "
    "as detection.balanced_accuracy. [default: what A is ranked by, else r_corpus]",
)
@click.option(
    "--unpaired",
    is_flag=True,
    help="Compare two groups of features that are not the same ones: other corpora, seeds or dictionaries.",
)
@click.option("--top", type=click.IntRange(0), default=5, show_default=True, help="Features shown at either end.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the bootstrap.")
@click.option(
    "--to", type=click.Path(path_type=Path), metavar="FOLDER", help="Write compare.json and compare.md there."
)
def compare(first: str, second: str, metric: str | None, unpaired: bool, top: int, seed: int, to: Path | None) -> None:
    """Compare scores feature by feature: two runs, two explainers of a run, two simulators.

    A and B are RUN_DIR, RUN_DIR:EXPLAINER, RUN_DIR@SIMULATOR, RUN_DIR:EXPLAINER@MODEL. Differences are paired by contexts where
    both sides were scored on the same ones, with intervals and a false-discovery rate over features. No model is asked.

    \b
    autointerp compare runs/mine:highlighted runs/mine:lexicon
    autointerp compare runs/mine@gpt-small runs/mine@llama-large --metric r_corpus --to results
    autointerp compare runs/mine runs/other --metric detection.balanced_accuracy
    """
    from autointerp.evaluate.comparison import compare as compare_sides
    from autointerp.evaluate.comparison_tables import as_json, heading, markdown, notes, tables

    found = compare_sides(
        first, second, metric=parse_metric(metric) if metric else None, is_paired=not unpaired, seed=seed
    )
    click.echo(one_line(heading(found)))
    for table in tables(found, top):
        print_table(table)
    click.echo()
    for note in notes(found):
        click.echo(f"- {one_line(note)}")
    if to is not None:
        from autointerp.files import write_text

        for name, text in (("compare.json", as_json(found)), ("compare.md", markdown(found))):
            write_text(to / name, text)
            click.echo(f"written: {to / name}")
