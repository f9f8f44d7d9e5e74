"""What to say where the labels that are to be scored are not there: whose were looked for, and whose there are."""

from collections.abc import Iterator

from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.explain import explainers

_SHOWN = 5


def no_labels(config: Config, catalog: Catalog, key: str) -> UserError:
    """The refusal to score labels with the explainer key `key`, of which there are none, or none that is not failed."""
    asked, out = config.explain, catalog.path.parent
    wanted = f"the explainer {asked.explainer}"
    options = f"--explainer {asked.explainer}"
    if explainers.get(asked.explainer).needs_model:
        wanted += f" (provider {asked.provider}, model {asked.model})"
        options += f" --provider {asked.provider}" + (f" --label-model {asked.model}" if asked.model else "")
    found = catalog.rows(
        "SELECT explainer, model, count(*), explainer_key FROM explanations WHERE status = 'ok' "
        "GROUP BY ALL ORDER BY 3 DESC, 1, 2"
    )
    there = "; ".join(_named(found))
    if any(explainer == asked.explainer for explainer, *_ in found):
        there += f"; those of {asked.explainer} were written with other settings, or by another version of autointerp"
    return UserError(
        f"no labels by {wanted} with these settings are in {out} (there are: {there or 'none'}); write them first: autointerp "
        f"explain --out {out} {options}"
        + ("; or name with --explainer and --label-model one that is there" if found else "")
    )


def _named(found: list[tuple[str, str | None, int, str]]) -> Iterator[str]:
    """Each explainer and model with its number of labels."""
    for explainer, model, count, _ in found[:_SHOWN]:
        yield f"{explainer}{f' (model {model})' if model else ''}: {count:,}"
    if len(found) > _SHOWN:
        yield f"and {len(found) - _SHOWN} more"
