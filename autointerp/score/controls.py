"""Labels that stand in for a feature's own. A score means something only as far as it is above what they get.

- `shuffled`: the label of another feature of like density. It is as well written as the feature's own, and wrong.
- `generic`: one sentence for all features that is true of nearly every text. What it scores needs no knowledge of the feature.
- `empty`: no description. What it scores, the simulator's notion of what features are like has earned.

They are graded by every scorer that looks at a label, on a seeded sample of the features: the same first ones for each
control, so that controls can be compared feature by feature. Fixed labels have no rule, and the lexicon simulator, which
reads rules, skips them.
"""

from collections.abc import Mapping

import numpy as np

from autointerp.catalog.records import Label
from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.hashing import sample_key, stable_hash
from autointerp.score.parts import asking, scorers_for
from autointerp.score.simulating import BASELINE
from autointerp.score.simulation import shuffled_partner

SHUFFLED, GENERIC, EMPTY = "shuffled", "generic", "empty"
# The generic sentence must leave a simulator something to choose, or what it predicts is constant and has no correlation.
FIXED: Mapping[str, Label] = {
    GENERIC: Label("common words in text", "common words and names, in any kind of text"),
    EMPTY: Label("no description", "(no description)"),
}
_OF_A_MODEL = {SHUFFLED: 50, GENERIC: 20, EMPTY: 20}  # features, where every answer costs money
_FREE = 1000  # more say nothing new: the interval of a median over 1,000 features is a hundredth wide or so

StandIn = int | Label
"""Whose label is graded in place of a feature's own: that of the feature with this number, or a fixed one."""


def stand_ins(config: Config, catalog: Catalog, labelled: list[int]) -> dict[str, dict[int, StandIn]]:
    """Of each control the features that are in it, ascending, each with what stands in for its label."""
    if not labelled:
        return {}
    found: dict[str, dict[int, StandIn]] = {}
    for control in dict.fromkeys(config.score.controls):
        chosen = _chosen(config, control, labelled)
        if control in FIXED:
            found[control] = dict.fromkeys(chosen, FIXED[control])
        elif len(labelled) > 1:
            density = dict(catalog.rows("SELECT feature_id, density FROM features"))
            partner = shuffled_partner(labelled, [density[feature] for feature in labelled], config.seed)
            found[control] = {feature: partner[feature] for feature in chosen}
    return found


def can_grade(control: str, simulator: str) -> bool:
    """Whether a scorer with this simulator has anything to read in the labels of the control."""
    return control not in FIXED or simulator != BASELINE


def _chosen(config: Config, control: str, labelled: list[int]) -> list[int]:
    limit = config.score.control_features
    if limit is None:
        limit = _OF_A_MODEL[control] if asking(scorers_for(config)) else _FREE
    keys = sample_key(config.seed, stable_hash("control"), np.array(labelled, np.uint64))
    order = np.argsort(keys, kind="stable")[:limit]
    return sorted(int(feature) for feature in np.array(labelled)[order])
