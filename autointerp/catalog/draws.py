"""The table `draws`: how often a failed item was tried anew with fresh answers; see `autointerp retry`."""

from collections.abc import Sequence

from autointerp.catalog.store import Catalog

Item = tuple[int, str]  # feature and control


def read_draws(catalog: Catalog, stage: str, key: str) -> dict[Item, int]:
    """(feature, control) → number of the draw; items that are not there are at their first, 0."""
    rows = catalog.rows("SELECT feature_id, control, draw FROM draws WHERE stage = ? AND key = ?", [stage, key])
    return {(feature, control): draw for feature, control, draw in rows}


def draw_again(catalog: Catalog, stage: str, key: str, items: list[Item]) -> None:
    """Give every item its next draw."""
    before = read_draws(catalog, stage, key)
    given = {
        "stage": stage,
        "key": key,
        "features": [feature for feature, _ in items],
        "controls": [c for _, c in items],
    }
    next_ = [before.get(item, 0) + 1 for item in items]
    with catalog.transaction():
        catalog.rows("DELETE FROM draws WHERE stage = $stage AND key = $key AND (feature_id, control) IN "
                     "(SELECT unnest($features), unnest($controls))", given)  # fmt: skip
        catalog.rows("INSERT INTO draws SELECT $stage, $key, unnest($features), unnest($controls), unnest($next)",
                     given | {"next": next_})  # fmt: skip


def failed_items(catalog: Catalog, stage: str, key: str, kinds: Sequence[str] = ()) -> list[Item]:
    """Items that failed, wholly or in part, for a reason of the given kinds (`FailureKind`); without kinds, for any."""
    source = (
        "SELECT feature_id, '' AS control, reason FROM explanations WHERE explainer_key = $key AND status = 'failed'"
        if stage == "explain"
        else "SELECT feature_id, control, reason FROM simulations WHERE score_key = $key AND status = 'failed' "
        "UNION ALL SELECT feature_id, control, reason FROM judgements WHERE score_key = $key AND status = 'failed' "
        "UNION ALL SELECT feature_id, control, reason FROM written_texts WHERE score_key = $key AND status = 'failed'"
    )
    return catalog.rows(
        f"SELECT DISTINCT feature_id, control FROM ({source}) WHERE len($kinds) = 0 "
        "OR list_contains($kinds, split_part(reason, ':', 1)) ORDER BY ALL",
        {"key": key, "kinds": list(kinds)},
    )
