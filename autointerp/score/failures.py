"""Which grades another run may mend: those with items that failed because no answer came.

What has failed for good is counted in its scores and shown with its reason; it is graded, and left alone until a setting changes
(then it has another key) or `autointerp retry` asks for other answers.
"""

from collections.abc import Collection

from autointerp.catalog.store import Catalog
from autointerp.reasons import PASSING

Place = tuple[str, int, str]
"""Score key, feature and control: one grade."""


def unsettled(catalog: Catalog, keys: Collection[str]) -> dict[Place, bool]:
    """Of each grade with one of these keys whether another run may mend a failure of it."""
    found = catalog.rows(
        "SELECT score_key, feature_id, control, coalesce(bool_or(passing), false) FROM "
        "(SELECT DISTINCT score_key, feature_id, control FROM scores WHERE score_key IN (SELECT unnest($keys))) LEFT JOIN ("
        "SELECT score_key, feature_id, control, split_part(reason, ':', 1) IN (SELECT unnest($passing)) AS passing FROM ("
        + " UNION ALL ".join(
            f"SELECT score_key, feature_id, control, reason FROM {table} WHERE status = 'failed'"
            for table in ("simulations", "judgements", "written_texts")
        )
        + ") WHERE score_key IN (SELECT unnest($keys))) USING (score_key, feature_id, control) GROUP BY ALL",
        {"keys": list(keys), "passing": list(PASSING)},
    )
    return {(key, feature, control): mendable for key, feature, control, mendable in found}
