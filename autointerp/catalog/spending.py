"""The table `spend`: what the journal says was asked of language models."""

from collections.abc import Sequence
from typing import Protocol

from autointerp.catalog.store import Catalog


class _Usage(Protocol):
    input: int
    cached: int
    output: int


class _Spend(Protocol):
    purpose: str
    model: str
    replies: int
    failed: int
    usage: _Usage


def write_spend(catalog: Catalog, spent: Sequence[_Spend]) -> None:
    """Replace the table by the journal's sums."""
    with catalog.transaction():
        catalog.connection.execute("DELETE FROM spend")
        for item in spent:
            used = item.usage
            row = [item.purpose, item.model, item.replies, item.failed, used.input, used.cached, used.output]
            catalog.connection.execute("INSERT INTO spend VALUES (?, ?, ?, ?, ?, ?, ?)", row)
