"""Reads what steering changed: the table `steered_tokens`, and the facts of the stage that fills it."""

from collections import defaultdict
from collections.abc import Sequence

from autointerp.catalog.records import Steered
from autointerp.catalog.store import Catalog

STAGE = "steer"


def read_steered(catalog: Catalog, feature_ids: Sequence[int]) -> dict[int, Steered]:
    """Of the features that were steered, and moved something: the tokens, strongest first, and the KL that was reached."""
    rows = catalog.rows(
        "SELECT feature_id, direction, token, kl FROM steered_tokens WHERE feature_id IN (SELECT unnest($ids)) "
        "ORDER BY feature_id, direction, rank",
        {"ids": [int(feature) for feature in feature_ids]},
    )
    tokens: dict[tuple[int, str], list[int]] = defaultdict(list)
    reached: dict[int, float] = {}
    for feature, direction, token, kl in rows:
        tokens[feature, direction].append(token)
        reached[feature] = kl
    return {feature: Steered(tokens[feature, "up"], tokens[feature, "down"], kl) for feature, kl in reached.items()}


def steered_features(catalog: Catalog) -> set[int]:
    """Features with rows."""
    return {feature for (feature,) in catalog.rows("SELECT DISTINCT feature_id FROM steered_tokens")}


def unmoved_features(catalog: Catalog) -> set[int]:
    """Features that were steered and changed nothing: their decoder direction is zero, or no strength could be measured."""
    return set(catalog.stage_facts(STAGE).get("unmoved", ()))
