"""What the controls came to, for people: the rows of the table `controls`, and what is to be said of the gates that failed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import duckdb

STAND_INS = ("shuffled", "generic", "empty")
"""Other labels in place of a feature's own; a run has those that score.controls names."""
CHECKS = ("always_yes", "always_no")
"""Constant answers: they say nothing of labels, and check the scorer's arithmetic."""
Verdict = Literal["passed", "FAILED", "inconclusive", "for comparison"]
_NAMED = 3  # metrics in a sentence about a gate that failed


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
        return "inconclusive" if self.passed is None else "passed" if self.passed else "FAILED"

    @property
    def is_gate(self) -> bool:
        """Whether it says something of the labels; see `is_gate`."""
        return is_gate(self.control, self.expected)

    @property
    def finding(self) -> str:
        """Of which metric it is, and what it came to."""
        value = "" if self.value is None else f" {self.value:z.3f}"
        interval = "" if self.lo is None or self.hi is None else f" [{self.lo:z.3f}, {self.hi:z.3f}]"
        return f"{self.scorer}.{self.metric}{value}{interval} over {self.n:,} features"


def is_gate(control: str, expected: float | None) -> bool:
    """Whether a control has something to pass that depends on the labels, and not on arithmetic alone."""
    return expected is not None and control not in CHECKS


@dataclass(frozen=True, slots=True)
class Failure:
    """A kind of control that failed. `findings`: of which metrics and what it came to, a few of them; `more` failed, too."""

    control: str
    reason: str
    findings: Sequence[str]
    more: int

    @property
    def words(self) -> str:
        """Why it failed, and where."""
        more = f"; and {self.more} more {'metric' if self.more == 1 else 'metrics'}" if self.more else ""
        return f"{self.reason} ({'; '.join(self.findings)}{more})"


def failures(rows: Sequence[ControlRow]) -> list[Failure]:
    """What is to be said, loudly, of the gates and checks that failed: each kind once, with the metrics that it failed for."""
    said = []
    failed = [row for row in rows if row.verdict == "FAILED"]
    for control in dict.fromkeys(row.control for row in failed):
        alike = _one_a_scorer_first([row for row in failed if row.control == control])
        reason = (alike[0].reason or "no reason recorded").split(";")[0]
        named = [row.finding for row in alike[:_NAMED]]
        said.append(Failure(control, reason, named, len(alike) - len(named)))
    return said


def _one_a_scorer_first(rows: Sequence[ControlRow]) -> list[ControlRow]:
    """In their order, but second metrics of a scorer after the first ones of all."""
    first = {row.scorer: row for row in reversed(rows)}
    return sorted(rows, key=lambda row: row is not first[row.scorer])


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


def switched_off(connection: "duckdb.DuckDBPyConnection") -> frozenset[str]:
    """The stand-ins that the last scoring did not have: what an earlier one left of them is not shown."""
    with connection.cursor() as cursor:
        row = cursor.execute("SELECT config FROM stages WHERE stage = 'score' ORDER BY rowid DESC LIMIT 1").fetchone()
    config = json.loads(row[0]) if row else None
    wanted = config.get("controls") if isinstance(config, dict) else None
    return frozenset(STAND_INS) - frozenset(wanted) if isinstance(wanted, list) else frozenset()
