"""Explainers that experiment, and the subject model that they get."""

from collections.abc import Callable
from typing import cast

from autointerp.catalog.records import Step
from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.explain import Experimenter, Explainer
from autointerp.explain.bench import Bench, BrokenBenchError
from autointerp.explain.experiments import MadeUpBench, NoBench


def open_bench(config: Config, catalog: Catalog) -> Bench:
    """The subject model and its dictionary at hand. Raises UserError where they cannot be had."""
    from autointerp.harvest.bench import open_bench as opened  # it imports the model's libraries

    return opened(config, catalog)


def experiments(explainer: Explainer) -> bool:
    """Whether the explainer is an `Experimenter`."""
    return getattr(explainer, "wants_bench", False)


def at_bench(
    config: Config, catalog: Catalog, explainer: Explainer, explanation: Callable[[int], str], *, anew: bool
) -> Explainer:
    """The explainer with a bench if it wants one.

    Labels that are made `anew` take what their first investigations found; `explanation` gives a feature's explanation id.
    Raises BrokenBenchError where the device has failed: that is no reason to explain otherwise.
    """
    if not experiments(explainer):
        return explainer
    bench: Bench
    try:
        bench = open_bench(config, catalog)
    except BrokenBenchError:
        raise
    except UserError as error:
        bench = NoBench(str(error))

    def recall(feature: int) -> list[Step]:
        query = "SELECT tool, arguments, result FROM investigation_steps WHERE explanation_id = ? ORDER BY step"
        return [Step(*row) for row in catalog.rows(query, [explanation(feature)])]

    return cast(Experimenter, explainer).at(bench, recall if anew else None)


def rehearsed(explainer: Explainer) -> Explainer:
    """The explainer for an estimate: what it asks of the subject model is made up."""
    return cast(Experimenter, explainer).at(MadeUpBench()) if experiments(explainer) else explainer
