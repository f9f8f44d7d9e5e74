"""The table `spend`: what the journal says was asked of language models."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

from autointerp.catalog.store import Catalog


@dataclass(frozen=True, slots=True)
class SpendRow:
    """What was asked of one model for one purpose; the fields are columns of the table.

    `money` is in US dollars and the sum of what is known, None where no price is; `n_unpriced` of the requests are not
    in it.
    """

    purpose: str
    provider: str
    model: str
    requests: int
    failed: int
    input_tokens: int
    cached_tokens: int
    written_tokens: int
    output_tokens: int
    money: float | None
    n_unpriced: int


def write_spend(catalog: Catalog, rows: Sequence[SpendRow]) -> None:
    """Replace the table."""
    names = [field.name for field in fields(SpendRow)]
    query = f"INSERT INTO spend ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
    with catalog.transaction():
        catalog.connection.execute("DELETE FROM spend")
        for row in rows:
            catalog.connection.execute(query, list(astuple(row)))
