"""The order of the catalog: from scores to the tables `ranks` and `ranking`, and how many labels are in it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from autointerp.catalog.controls import is_gate
from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.explain.stage import explainer_key
from autointerp.score.gates import write_gates
from autointerp.score.random_null import write_p_values
from autointerp.score.rankable import rankable
from autointerp.score.ranking import rank_by_lower_bound
from autointerp.score.writing import Scoring


def write_ranks(config: Config, catalog: Catalog, scorings: Mapping[str, Scoring]) -> dict[str, Any]:
    """Write ranks and which scores the catalog shows; returns what the terminal says of them.

    The caller holds the transaction.
    """
    scorer, metric = config.score.ranked()
    key = scorings[scorer].key
    catalog.connection.execute("DELETE FROM scorings")
    for scoring in scorings.values():
        row = [scoring.name, scoring.key, scoring.simulator, scoring.model]
        catalog.connection.execute("INSERT INTO scorings VALUES (?, ?, ?, ?)", row)
    table = catalog.arrow(
        "SELECT feature_id, value, lo, hi FROM scores WHERE score_key = ? AND metric = ? AND control = '' "
        "AND value IS NOT NULL ORDER BY feature_id", [key, metric],
    )  # fmt: skip
    feature, value = table["feature_id"].to_numpy().astype(np.int64), table["value"].to_numpy()
    lo, hi = (table[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in ("lo", "hi"))
    ranked, n_scored = ~np.isnan(lo), len(lo)
    _check(config, catalog, scorings, scorer, metric, n_scored, int(ranked.sum()))
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
    return {
        "metric": metric, "scorer": scorer, "simulator": scorings[scorer].simulator, "explainer": config.explain.explainer,
        "n_ranked": int(ranked.sum()), "n_scored": n_scored, "n_undefined": _undefined(catalog, key, metric),
        **_controls(config, catalog, scorings),
    }  # fmt: skip


def _check(
    config: Config,
    catalog: Catalog,
    scorings: Mapping[str, Scoring],
    scorer: str,
    metric: str,
    n_defined: int,
    n_ranked: int,
) -> None:
    """Raise UserError where no label could ever be ranked by the metric, with those that have intervals."""
    key = scorings[scorer].key
    known = catalog.value("SELECT count(*) FROM scores WHERE score_key = ? AND metric = ?", [key, metric])
    if (known and not n_defined) or n_ranked:
        return
    if not known and not catalog.value("SELECT count(*) FROM scores WHERE score_key = ?", [key]):
        return  # no label was graded at all: others say why
    by_chance = catalog.value(
        "SELECT bool_and(coalesce(contains(reason, 'no interval'), false)) FROM scores "
        "WHERE score_key = ? AND metric = ? AND value IS NOT NULL AND control = ''", [key, metric],
    )  # fmt: skip
    if known and by_chance:
        return  # the metric has intervals, but not with so few contexts: the rows say so
    rows = catalog.rows(
        "SELECT scorer, metric FROM scores WHERE score_key IN (SELECT unnest(?)) AND control = '' GROUP BY ALL "
        "HAVING count(lo) > 0 ORDER BY ALL", [[one.key for one in scorings.values()]],
    )  # fmt: skip
    names = ", ".join(f"{name}.{one}" for name, one in rows if (name, one) in rankable(config))
    if not known or names:
        what = "has no interval to rank by" if known else "is no metric of this run"
        raise UserError(f"score.rank_by: {scorer}.{metric} {what}; expected one of: {names}")


def _controls(config: Config, catalog: Catalog, scorings: Mapping[str, Scoring]) -> dict[str, Any]:
    """p-values and gates, and how many of the latter passed, failed, or are inconclusive."""
    write_p_values(catalog, scorings)
    gates = write_gates(catalog, scorings, config.score.ranked(), config.score.controls)
    judged = [gate for gate in gates if is_gate(gate.control, gate.expected)]
    return {
        "gates": {
            "passed": sum(gate.passed is True for gate in judged),
            "failed": [f"{gate.scorer}.{gate.metric}, {gate.control}" for gate in judged if gate.passed is False],
            "inconclusive": sum(gate.passed is None for gate in judged),
        }
    }


def _undefined(catalog: Catalog, key: str, metric: str) -> dict[str, int]:
    """Reasons why labels have no score, with counts."""
    rows = catalog.rows(
        "SELECT status || ': ' || reason, count(*) FROM scores WHERE score_key = ? AND metric = ? AND control = '' "
        "AND value IS NULL GROUP BY ALL ORDER BY 2 DESC, 1 LIMIT 5", [key, metric],
    )  # fmt: skip
    return dict(rows)
