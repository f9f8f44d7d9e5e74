"""Stages done over: `retry` asks anew what failed, `rederive` takes all from the journal once more."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autointerp.announce import say_explainer, say_scorers
from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.run_folder import sampled_catalog, save_config


def retry_stage(config: Config, out: Path, kinds: Sequence[str] = ()) -> dict[str, int]:
    """Ask again for labels, simulations and judgements that failed, of all `kinds` or some, with fresh answers; counts of what
    was tried.

    Labels that come of it are scored. What was never tried is left to the stages themselves.
    """
    from autointerp.catalog.draws import draw_again, failed_items
    from autointerp.explain.stage import STAGE as EXPLAIN
    from autointerp.explain.stage import explain, explainer_key
    from autointerp.score.keys import scorings
    from autointerp.score.rankable import require_rank
    from autointerp.score.stage import STAGE as SCORE
    from autointerp.score.stage import score

    require_rank(config)
    name = config.explain.explainer
    with sampled_catalog(config, out) as catalog:
        labels = failed_items(catalog, EXPLAIN, explainer_key(config, name), kinds)
        by_key = {scoring.key: scoring for scoring in scorings(config).values()}
        grades = {key: failed_items(catalog, SCORE, key, kinds) for key in by_key}
        if labels:
            say_explainer(config)
            draw_again(catalog, EXPLAIN, explainer_key(config, name), labels)
            explain(config, catalog, out, name, "failed", only=[feature for feature, _ in labels])
        for key, items in grades.items():
            draw_again(catalog, SCORE, by_key[key].asked, items)
        graded = {item for items in grades.values() for item in items}
        if labels or graded:
            say_scorers(config)
            again = [(key, *item) for key, items in grades.items() for item in items]
            score(config, catalog, out, only=_tried(config, catalog, list(by_key), [*labels, *graded]), again=again)
            save_config(config, out)
    return {"labels": len(labels), "grades": len(graded)}


def _tried(
    config: Config, catalog: Catalog, keys: Sequence[str], failed: Sequence[tuple[int, str]]
) -> frozenset[int] | None:
    """The features that were scored before, and the `failed` ones; None, which is all, where features are compared."""
    from autointerp.score.adaptive import plan_of

    plan = plan_of(config)
    if plan is not None and plan.compares:
        return None
    scored = catalog.rows("SELECT DISTINCT feature_id FROM scores WHERE score_key IN (SELECT unnest(?))", [list(keys)])
    return frozenset(feature for (feature,) in scored) | {feature for feature, _ in failed}


def rederive_stage(config: Config, out: Path) -> dict[str, Any]:
    """Labels and scores once more from the journal alone, for instance after a parser was mended; the score's facts.

    What the journal cannot answer is left as it is.
    """
    from autointerp.explain import explainers
    from autointerp.explain.stage import explain
    from autointerp.score.parts import asking, embedding, scorers_for
    from autointerp.score.rankable import require_rank
    from autointerp.score.stage import score

    require_rank(config)
    name, scorers = config.explain.explainer, scorers_for(config)
    asks = explainers.get(name).needs_model, bool(asking(scorers) or embedding(scorers))
    with sampled_catalog(config, out) as catalog:
        if not any(asks):
            raise UserError(
                f"{out}: neither {name} labels nor their scores come from a model's answers; there is nothing to rederive"
            )
        if asks[0]:
            explain(config, catalog, out, name, "all", offline=True)
        facts = score(config, catalog, out, "all", offline=True)
    save_config(config, out)
    return facts
