"""The table `spend`: what the journal says was asked of language models."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from autointerp.catalog.store import Catalog


@dataclass(frozen=True, slots=True)
class SpendRow:
    """What was asked of one model for one purpose; the fields are the table's columns."""

    purpose: str
    model: str
    requests: int
    failed: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int


def write_spend(catalog: Catalog, rows: Sequence[SpendRow]) -> None:
    """Replace the table."""
    with catalog.transaction():
        catalog.connection.execute("DELETE FROM spend")
        for row in rows:
            catalog.connection.execute("INSERT INTO spend VALUES (?, ?, ?, ?, ?, ?, ?)", list(astuple(row)))
