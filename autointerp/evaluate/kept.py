"""Simulations and verdicts as the catalog keeps them, back as records."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from autointerp.catalog.store import Catalog
from autointerp.score import Judged, Simulated


@dataclass(frozen=True, slots=True)
class Kept:
    """Of one feature, by one scorer."""

    simulated: list[Simulated] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)


def read_kept(catalog: Catalog, score_key: str, feature_ids: Sequence[int], control: str = "") -> dict[int, Kept]:
    """feature → what was kept of its grading; features without anything are left out."""
    found: dict[int, Kept] = defaultdict(Kept)
    which = {"key": score_key, "ids": list(feature_ids), "control": control}
    where = "WHERE score_key = $key AND control = $control AND feature_id IN (SELECT unnest($ids)) ORDER BY ALL"
    for feature, window, status, reason, expected in catalog.rows(
        f"SELECT feature_id, window_id, status, reason, expected FROM simulations {where}", which
    ):
        values = None if expected is None else np.array(expected, np.float32)
        found[feature].simulated.append(Simulated(window, values, status, reason))
    for feature, *fields in catalog.rows(
        "SELECT feature_id, window_id, kind, truth, answer, status, reason, probability, value, marked, item "
        f"FROM judgements {where}", which,
    ):  # fmt: skip
        found[feature].judged.append(Judged(*fields))
    return dict(found)
