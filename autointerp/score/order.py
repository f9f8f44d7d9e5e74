"""The order of the catalog: from scores to the tables `ranks` and `ranking`, and the figures that a run is about."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.explain.stage import explainer_key
from autointerp.hashing import stable_hash
from autointerp.score.ranking import median_of, rank_by_lower_bound
from autointerp.score.simulation import SCORER
from autointerp.score.writing import Scoring


def write_ranks(config: Config, catalog: Catalog, scorings: Mapping[str, Scoring], shuffled: str) -> dict[str, Any]:
    """Write ranks and which scores the catalog shows; returns the summary that reports and the terminal show.

    `shuffled`: the name of that control. The caller holds the transaction.
    """
    metric, key = config.score.rank_by, scorings[SCORER].key
    catalog.connection.execute("DELETE FROM scorings")
    for scoring in scorings.values():
        row = [scoring.name, scoring.key, scoring.simulator, scoring.model]
        catalog.connection.execute("INSERT INTO scorings VALUES (?, ?, ?, ?)", row)
    table = catalog.arrow(
        "SELECT feature_id, control, value, lo, hi FROM scores WHERE score_key = ? AND metric = ? AND value IS NOT NULL "
        "ORDER BY feature_id", [key, metric],
    )  # fmt: skip
    control = np.array(table["control"].to_pylist(), dtype=str)
    feature, value = table["feature_id"].to_numpy().astype(np.int64), table["value"].to_numpy()
    lo, hi = (table[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in ("lo", "hi"))
    ranked = (control == "") & ~np.isnan(lo)
    ranks = rank_by_lower_bound(feature[ranked], value[ranked], lo[ranked], hi[ranked])
    catalog.connection.execute("DELETE FROM ranks")
    catalog.insert("ranks", pa.table({
        "feature_id": feature[ranked].astype(np.uint32), "rank": ranks.rank.astype(np.uint32),
        "rank_lo": ranks.best.astype(np.uint32), "rank_hi": ranks.worst.astype(np.uint32),
    }))  # fmt: skip
    catalog.connection.execute("DELETE FROM ranking")
    catalog.connection.execute(
        "INSERT INTO ranking VALUES (?, ?, ?)", [explainer_key(config, config.explain.explainer), key, metric]
    )
    facts: dict[str, Any] = {"metric": metric, "scorer": SCORER, "simulator": scorings[SCORER].simulator,
                             "explainer": config.explain.explainer, "n_ranked": int(ranked.sum())}  # fmt: skip
    for name, of in (("", control == ""), ("shuffled_", control == shuffled)):
        median = median_of(value[of], stable_hash("median", config.seed, name))
        facts["n_" + (name.rstrip("_") or "scored")] = int(of.sum())
        if median is not None:
            facts |= {f"{name}median": median.value, f"{name}median_lo": median.lo, f"{name}median_hi": median.hi}
    return facts | _detection(config, catalog, scorings, shuffled) | {"n_undefined": _undefined(catalog, key, metric)}


def _detection(config: Config, catalog: Catalog, scorings: Mapping[str, Scoring], shuffled: str) -> dict[str, Any]:
    """The median balanced accuracy of labels and of the shuffled control, where detection is among the scorers."""
    facts: dict[str, Any] = {}
    if "detection" not in scorings:
        return facts
    key = scorings["detection"].key
    for name, control in (("detection", ""), ("shuffled_detection", shuffled)):
        rows = catalog.rows(
            "SELECT value FROM scores WHERE score_key = ? AND metric = 'balanced_accuracy' AND control = ? AND value IS NOT NULL "
            "ORDER BY feature_id", [key, control],
        )  # fmt: skip
        median = median_of(np.array([value for (value,) in rows]), stable_hash("median", config.seed, name))
        if median is not None:
            facts |= {name: median.value, f"{name}_lo": median.lo, f"{name}_hi": median.hi, f"n_{name}": len(rows)}
    return facts


def _undefined(catalog: Catalog, key: str, metric: str) -> dict[str, int]:
    """Reasons why labels have no score, with counts."""
    rows = catalog.rows(
        "SELECT status || ': ' || reason, count(*) FROM scores WHERE score_key = ? AND metric = ? AND control = '' "
        "AND value IS NULL GROUP BY ALL ORDER BY 2 DESC, 1 LIMIT 5", [key, metric],
    )  # fmt: skip
    return dict(rows)
