"""Why something failed: many reasons in a few words, one for all that differ by words in quotes and figures only; and what helps.

A reason begins with its kind (`autointerp.llm.types.FailureKind`) and a colon. Three sorts of kinds:
- `PASSING`: no answer came, and another time one may. The same command tries again.
- an answer came and is of no use (refused, truncated, malformed). It is what it is; `autointerp retry` asks for another one.
- `LASTING`: the question itself cannot be answered, with these settings and this server.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

PARTICULAR = r'"([^"\\]|\\.)*"|[0-9]+([.,][0-9]+)*'
"""What differs between failures of one sort, as a regular expression of Python's and DuckDB's: words in quotes, figures."""
_SHOWN = 3
PASSING = ("timeout", "rate_limited", "server_error", "over_budget")
LASTING = ("rejected", "no_evidence", "too_large")


def advice(kind: str) -> str:
    """What to do about failures of a kind, for the end of a line that names them; empty where nothing is to be done."""
    if kind in PASSING:
        return "run the same command again"
    if kind == "no_evidence":
        return ""
    if kind in LASTING:
        return f"another run would fare no better; if the server has changed: autointerp retry --kind {kind}"
    return "for other answers: autointerp retry"


@dataclass(frozen=True, slots=True)
class Alike:
    """`n` failures of one sort. `reason` is one of theirs; whether there are `various`."""

    reason: str
    various: bool
    n: int


def alike(reasons: Iterable[str]) -> list[Alike]:
    """The sorts of reasons, the commonest first."""
    sorts: dict[str, Counter[str]] = {}
    for reason in reasons:
        sorts.setdefault(re.sub(PARTICULAR, "#", reason), Counter())[reason] += 1
    found = [Alike(min(counts), len(counts) > 1, counts.total()) for counts in sorts.values()]
    return sorted(found, key=lambda one: (-one.n, one.reason))


def in_short(sorts: Sequence[Alike]) -> str:
    """The first of them, each with its count where there are several."""
    told = [("for instance " if one.various else "") + one.reason for one in sorts]
    if len(told) == 1:
        return told[0]
    named = [f"{text} ({one.n:,})" for text, one in zip(told[:_SHOWN], sorts, strict=False)]
    more = len(told) - _SHOWN
    return "; ".join(
        named + ([f"and {more:,} other reasons" if more > 1 else "and another reason"] if more > 0 else [])
    )
