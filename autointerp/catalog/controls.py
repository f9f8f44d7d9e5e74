"""What the controls came to, for people: the rows of the table `controls`, and one line of each gate that failed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import duckdb

Verdict = Literal["passed", "FAILED", "undecided", "for comparison"]


@dataclass(frozen=True, slots=True)
class ControlRow:
    """One control of one metric; see docs/catalog.md. `lo` and `hi`: the 95 % interval of the median over `n` features.

    `ranks`: the catalog is ordered by this metric.
    """

    scorer: str
    metric: str
    control: str
    n: int
    value: float | None
    lo: float | None
    hi: float | None
    expected: float | None
    passed: bool | None
    reason: str | None
    ranks: bool

    @property
    def verdict(self) -> Verdict:
        if self.expected is None:
            return "for comparison"
        return "undecided" if self.passed is None else "passed" if self.passed else "FAILED"

    @property
    def warning(self) -> str | None:
        """What is to be said, loudly, of a gate that failed."""
        if self.verdict != "FAILED":
            return None
        value = "" if self.value is None else f": {self.value:.3f}"
        interval = "" if self.lo is None or self.hi is None else f" [{self.lo:.3f}, {self.hi:.3f}]"
        return f"{self.scorer}.{self.metric}, {self.control}{value}{interval} over {self.n:,} features: {self.reason}"


def read_controls(connection: "duckdb.DuckDBPyConnection") -> list[ControlRow]:
    """All rows, those of the ranking's metric first; none in a catalog without the table."""
    if not connection.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'controls'").fetchall()[0][0]:
        return []
    rows = connection.execute(
        "SELECT c.scorer, c.metric, c.control, c.n, c.value, c.lo, c.hi, c.expected, c.passed, c.reason, "
        "m.metric IS NOT NULL AS ranks FROM controls c "
        "LEFT JOIN (SELECT s.scorer, r.metric FROM scorings s JOIN ranking r USING (score_key)) m "
        "ON m.scorer = c.scorer AND m.metric = c.metric ORDER BY NOT ranks, c.rowid"
    ).fetchall()
    return [ControlRow(*row) for row in rows]
