"""The command `doctor`: is everything there, does it fit together, and what to do where not."""

import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import click

from autointerp.cli.options import REMEMBERED, configure, folder_options, model_options, sample_options, score_options
from autointerp.cli.terminal import one_line
from autointerp.errors import UserError

if TYPE_CHECKING:
    from autointerp.config import Config

_PACKAGES = ("torch", "transformers", "duckdb", "openai", "anthropic")
_KEYS = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}


@click.command(epilog=REMEMBERED)
@folder_options
@sample_options
@model_options
@score_options
def doctor(**options: Any) -> None:
    """Check the environment, the model, the SAE (by the conformance gate) and the keys; say what to do.

    Takes the options of `run`. Exit code 2 if something would stop a run.
    """
    config, _ = configure(**(options | {"out": options["out"] or _nowhere()}))
    click.echo("packages: " + ", ".join(f"{name} {_version(name)}" for name in _PACKAGES))
    problems = 0
    for name, check in (("machine", _machine), ("prompts", _prompts), ("keys", _keys), ("model and SAE", _fit)):
        try:
            for line in check(config):
                click.echo(f"ok       {name}: {line}")
        except UserError as error:
            problems += 1
            click.echo(f"problem  {name}: {error}")
    if problems:
        raise UserError(f"{problems} problem{'s' * (problems > 1)} found; see above")
    click.echo("everything needed for this run is here")


def _nowhere() -> Any:
    from pathlib import Path

    return Path("reports/demo")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _machine(config: "Config") -> Iterator[str]:
    import shutil

    import torch

    free = shutil.disk_usage(".").free / 1e9
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU (the harvest runs on the CPU)"
    yield f"{os.cpu_count()} cores, {torch.get_num_threads()} threads for torch, {gpu}, {free:.0f} GB of disk free here"


def _prompts(config: "Config") -> Iterator[str]:
    from autointerp.resources import packaged

    yield f"{len(list(packaged('prompts').glob('*.j2')))} templates in the package"


def _keys(config: "Config") -> Iterator[str]:
    """Of the providers that this run asks; of the others nothing is said."""
    from pathlib import Path

    from autointerp.explain import explainers
    from autointerp.llm.session import check_access
    from autointerp.score.parts import scorers_for

    name = config.explain.explainer
    asking = {}
    if explainers.get(name).needs_model:
        asking[f"explainer {name}"] = config.explaining()
    for scorer, part in scorers_for(config).items():
        if part.wants.model:
            asking[f"scorer {scorer}"] = config.simulating()
    if not asking:
        yield f"none is needed: explainer {name} and its scores ask no model"
    for by, access in asking.items():
        check_access(access, Path(), by)
        variable = access.api_key_env or _KEYS.get(access.provider.removesuffix("-batch"))
        key = "needs no key" if variable is None else f"key in {variable}"
        yield f"{by} asks {access.provider}, model {one_line(access.model or '')}: {key}"


def _fit(config: "Config") -> Iterator[str]:
    """Loads the model and every SAE, then measures L0 and FVU on the first 20 thousand tokens of the corpus."""
    import tempfile
    from pathlib import Path

    from autointerp.harvest.conformance import check_conformance
    from autointerp.harvest.features import parse_features
    from autointerp.harvest.plan import PlanSettings, make_plan
    from autointerp.harvest.runs import runs_of
    from autointerp.harvest.setup import open_readers
    from autointerp.subject.corpora import open_corpus

    readers = open_readers(runs_of(config, Path()))
    for reader in readers:
        parse_features(config.sample.features, reader.sae.d_sae)
        yield f"{reader.subject.name}; {reader.sae.format} SAE, {reader.sae.d_in} → {reader.sae.d_sae} features"
    shift = readers[0].shift
    hookpoints = ", ".join(str(reader.hookpoint) for reader in readers)
    yield f"hookpoint {hookpoints}, windows {'begin with BOS' if shift else 'without BOS'}"
    with tempfile.TemporaryDirectory() as folder:
        settings = PlanSettings(config.corpus.window - shift, 22_000, 8, config.seed, 1024)
        documents = open_corpus(config.corpus.source, config.corpus.text_field)
        plan = make_plan(documents, readers[0].subject.tokenizer, Path(folder), settings, "doctor")
        for reader in readers:
            yield _described(check_conformance(reader, plan, allow=False, loss=config.sample.loss_recovered))


def _described(found: Any) -> str:
    from autointerp.harvest.conformance import describe

    return describe(found)
