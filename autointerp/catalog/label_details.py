"""The query of what a label says beyond title, description and kind, as far as a page shows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autointerp.catalog.pages import select

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, slots=True)
class LabelDetails:
    """`sides_agree`: whether the output label is of one concept with the input label; None if nobody judged."""

    feature_id: int
    explanation_id: str
    confidence: str | None
    safety: list[str] | None
    output_title: str | None
    output_description: str | None
    sides_agree: bool | None


def label_details(connection: "duckdb.DuckDBPyConnection", explanation_ids: Sequence[str]) -> list[LabelDetails]:
    """Of these labels, by feature. None of a catalog that has no room for them: an older one, opened for reading only."""
    with connection.cursor() as cursor:
        known = "SELECT 1 FROM duckdb_columns() WHERE table_name = 'explanations' AND column_name = 'sides_agree'"
        if not cursor.execute(known).fetchall():
            return []
    source = (
        "FROM explanations WHERE explanation_id IN (SELECT unnest($1::VARCHAR[])) ORDER BY feature_id, explanation_id"
    )
    return select(connection, LabelDetails, source, [list(explanation_ids)])
