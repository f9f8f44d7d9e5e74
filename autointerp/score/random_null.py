"""The null of random directions in the catalog: taken over from the run that graded them; and every feature's p and q."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from autointerp.catalog.store import Catalog
from autointerp.score.null_values import Array, p_values, q_values
from autointerp.score.writing import Scoring

# Metrics of which a higher value does not speak for a label.
_NO_MERIT = ("ess_", "quantisation_ceiling", "false_alarms", "recall", "lexical_gain", "base_rate")
_NULL = pa.schema(
    [("scorer", pa.string()), ("score_key", pa.string()), ("metric", pa.string()), ("direction", pa.uint32()),
     ("matched", pa.uint32()), ("density", pa.float64()), ("value", pa.float64()), ("lo", pa.float64()), ("hi", pa.float64()),
     ("status", pa.string()), ("reason", pa.string())]
)  # fmt: skip


def take_over(catalog: Catalog, null: Catalog, matched: Mapping[int, int]) -> int:
    """Copy the scores of random directions from their own catalog, in place of earlier ones with the same keys; how many
    directions have scores. `matched`: direction → the feature whose density it has."""
    names = ("scorer", "score_key", "metric", "direction", "density", "value", "lo", "hi", "status", "reason")
    rows = null.rows(
        "SELECT s.scorer, s.score_key, s.metric, s.feature_id, f.density, s.value, s.lo, s.hi, s.status, s.reason "
        "FROM scores s JOIN scorings USING (score_key) JOIN features f USING (feature_id) WHERE s.control = '' "
        "ORDER BY s.score_key, s.metric, s.feature_id"
    )
    found = [dict(zip(names, row, strict=True)) for row in rows]
    with catalog.transaction():
        keys = sorted({row["score_key"] for row in found})
        catalog.rows("DELETE FROM null_scores WHERE score_key IN (SELECT unnest(?))", [keys])
        table = [row | {"matched": matched[row["direction"]]} for row in found]
        catalog.insert("null_scores", pa.Table.from_pylist(table, schema=_NULL))
    return len({row["direction"] for row in found})


def write_p_values(catalog: Catalog, scorings: Mapping[str, Scoring]) -> None:
    """p and q of every feature's own label, for each metric that random directions were graded by. The caller holds the
    transaction. A direction without a value counts as none: it could only make the others look better."""
    for scoring in scorings.values():
        catalog.rows("UPDATE scores SET p_random = NULL, q_random = NULL WHERE score_key = ? AND p_random IS NOT NULL",
                     [scoring.key])  # fmt: skip
        query = "SELECT DISTINCT metric FROM null_scores WHERE score_key = ? AND value IS NOT NULL ORDER BY metric"
        for (metric,) in catalog.rows(query, [scoring.key]):
            if not metric.startswith(_NO_MERIT):
                _write(catalog, scoring.key, metric)


def null_of(catalog: Catalog, key: str, metric: str) -> Array:
    """The defined scores of random directions, by direction."""
    rows = catalog.rows("SELECT value FROM null_scores WHERE score_key = ? AND metric = ? AND value IS NOT NULL "
                        "ORDER BY direction", [key, metric])  # fmt: skip
    return np.array([value for (value,) in rows], dtype=np.float64)


def _write(catalog: Catalog, key: str, metric: str) -> None:
    rows = catalog.rows(
        "SELECT feature_id, value FROM scores WHERE score_key = ? AND metric = ? AND control = '' AND value IS NOT NULL "
        "ORDER BY feature_id", [key, metric],
    )  # fmt: skip
    if not rows:
        return
    feature, value = zip(*rows, strict=True)
    p = p_values(np.array(value, dtype=np.float64), null_of(catalog, key, metric))
    catalog.connection.register("incoming", pa.table({"feature_id": feature, "p": p, "q": q_values(p)}))
    try:
        catalog.rows(
            "UPDATE scores SET p_random = incoming.p, q_random = incoming.q FROM incoming WHERE scores.score_key = ? "
            "AND scores.metric = ? AND scores.control = '' AND scores.feature_id = incoming.feature_id", [key, metric],
        )  # fmt: skip
    finally:
        catalog.connection.unregister("incoming")
