"""The table `spend`: what the journal says was asked of language models."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

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


def write_spending(catalog: Catalog, journal_folder: Path) -> None:
    """Replace the table by what the journal in that folder says; nothing is done where there is none."""
    from autointerp.llm.journal import Journal

    if not journal_folder.is_dir():
        return
    with Journal(journal_folder, read_only=True) as journal:
        rows = [
            SpendRow(
                purpose=spend.purpose, provider=spend.provider, model=spend.model, requests=spend.replies, failed=spend.failed,
                input_tokens=spend.usage.input, cached_tokens=spend.usage.cached, written_tokens=spend.usage.written,
                output_tokens=spend.usage.output, money=spend.money, n_unpriced=spend.n_unpriced,
            )
            for spend in journal.spend()
        ]  # fmt: skip
    write_spend(catalog, rows)
