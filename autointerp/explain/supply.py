"""What explainers are shown that stages of their own find: hard negatives, and what steering changed.

Labels that were made with them, without them, or from others are other labels: an explainer's key knows of both (`supplied`).
"""

import json
import sys

from autointerp.catalog.steered import STAGE as STEERING
from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.explain import Explainer
from autointerp.harvest.features import features_identity


def with_negatives(config: Config, explainer: Explainer) -> bool:
    """Whether the explainer's evidence is to hold hard negatives: it wants them, and they are configured."""
    return config.negatives.per_kind > 0 and _wants_negatives(config, explainer)


def with_steered(config: Config, explainer: Explainer) -> bool:
    """Whether the explainer's evidence is to hold what steering changed."""
    return explainer.wants_steered and config.steering.enabled


def supplied(config: Config, explainer: Explainer) -> list[str]:
    """Tells apart what the explainer is supplied with; empty where that is nothing."""
    found = ["negatives", config.negatives.identity()] if with_negatives(config, explainer) else []
    if with_steered(config, explainer):
        found += [str(config.steering.identity()), features_identity(config.steering.features)]
    return found


def require_supplies(config: Config, catalog: Catalog, explainer: Explainer) -> None:
    """Raise UserError where the explainer is to be shown what nobody has looked for with these settings."""
    if with_negatives(config, explainer) and not negatives_found(config, catalog):
        raise UserError(
            f"negatives.per_kind is {config.negatives.per_kind}, but hard negatives were not looked for with these settings; run "
            f"first: autointerp negatives --out {catalog.path.parent}, or explain without: --set negatives.per_kind=0"
        )
    require_steered(config, catalog, explainer)


def negatives_found(config: Config, catalog: Catalog) -> bool:
    """Whether hard negatives were looked for with these settings."""
    found = catalog.value("SELECT config FROM stages WHERE stage = 'negatives'")
    return found is not None and json.loads(found) == {"negatives": config.negatives.model_dump(), "seed": config.seed}


def require_steered(config: Config, catalog: Catalog, explainer: Explainer) -> None:
    """Raise UserError where the explainer is to be shown what steering changed and that was not measured."""
    if not with_steered(config, explainer):
        return
    settings, facts = config.steering, catalog.stage_facts(STEERING)
    measured = catalog.value("SELECT config FROM stages WHERE stage = ?", [STEERING])
    same = measured is not None and json.loads(measured)["steering"] == settings.identity()
    if not same or facts["which"] != features_identity(settings.features) or facts["missing"]:
        raise UserError("steering.enabled is true, but not all of it is measured with these settings; run: autointerp steer "
                        f"--out {catalog.path.parent}, or leave it out with --set steering.enabled=false")  # fmt: skip


def warn_of_no_negatives(config: Config, catalog: Catalog, explainer: Explainer) -> None:
    """Say on stderr where the explainer wants hard negatives and none are configured: random silent texts stand in."""
    if _wants_negatives(config, explainer) and not config.negatives.per_kind:
        found_by = f"autointerp negatives --out {catalog.path.parent} --per-kind 20"
        print(f"no hard negatives were looked for; random silent texts stand in, and tell less. To find some: {found_by}",
              file=sys.stderr)  # fmt: skip


def _wants_negatives(config: Config, explainer: Explainer) -> bool:
    return explainer.wants_negatives or config.exemplars.negatives > 0
