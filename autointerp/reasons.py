"""Many reasons why something failed, in a few words: one for all that differ by words in quotes and figures only."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

PARTICULAR = r'"([^"\\]|\\.)*"|[0-9]+([.,][0-9]+)*'
"""What differs between failures of one sort, as a regular expression of Python's and DuckDB's: words in quotes, figures."""
_SHOWN = 3


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
