"""The gates: what each control came to over its features, and whether that is what it must show. The table `controls`.

The unit is the feature. A control's value is the median over its features, with the interval that the sign test gives:
between two order statistics, at least 95 % whatever the distribution. A gate has three outcomes, by where the interval lies:

- *near* chance (`shuffled` only from above, `permuted_across` from both sides): passed if all of it is within a tolerance of
  0.05 of chance; failed if all of it is beyond that; else nothing can be said. So a thousandth above chance, which a thousand
  features make significant, fails nobody, and three features that happen to be right prove nothing.
- *better* (`over_…`: the label's score minus the control's, feature by feature): passed if all of the interval is above 0;
  failed if all of it is below the tolerance; else nothing can be said.
- for comparison: no verdict, since nothing in particular is expected.

Fewer than ten features say nothing. Features of which one side has no value are left out, and counted in the reason.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from autointerp.catalog.store import Catalog
from autointerp.score.agreement import swaps
from autointerp.score.controls import EMPTY, GENERIC, SHUFFLED
from autointerp.score.evidence_controls import ACROSS, BREADTH, NO, WITHIN, YES, chance
from autointerp.score.null_values import Array
from autointerp.score.random_null import null_of
from autointerp.score.writing import Scoring

TOLERANCE = 0.05
FEW = 10
RANDOM = "random_directions"
_ROUNDING = 1e-9
Verdict = tuple[bool | None, str | None]
Values = Mapping[int, float | None]  # feature → score; None where it is undefined


@dataclass(frozen=True, slots=True)
class Spread:
    """A median over n features with its 95 % interval, which few features do not have."""

    n: int
    value: float | None
    lo: float | None
    hi: float | None


@dataclass(frozen=True, slots=True)
class Gate:
    """A row of the table `controls`. `passed` None: nothing can be said, or nothing is expected; the reason says which."""

    scorer: str
    metric: str
    control: str
    spread: Spread
    expected: float | None
    passed: bool | None
    reason: str | None


def median_interval(values: Array) -> Spread:
    """The median of n defined values, and the order statistics k and n + 1 − k around it, with the largest k for which a
    binomial of n fair coins is below k with a chance of at most 2.5 % (Conover 1999, section 3.2). n < 6: no interval."""
    ordered, n = np.sort(np.asarray(values, dtype=np.float64)), len(values)
    if not n:
        return Spread(0, None, None, None)
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2) for k in range(n // 2 + 1)
    ]
    below = np.cumsum(np.exp(logs))  # P(at most k heads)
    k = int(np.searchsorted(below, 0.025, side="right"))
    if not k:
        return Spread(n, float(np.median(ordered)), None, None)
    return Spread(n, float(np.median(ordered)), float(ordered[k - 1]), float(ordered[n - k]))


def near(spread: Spread, expected: float, *, both_sides: bool) -> Verdict:
    """Whether a control is at its expected value, or at most as high; and a reason where it is not, or cannot be told."""
    if (little := _too_little(spread)) is not None:
        return None, little
    assert spread.lo is not None and spread.hi is not None
    if spread.lo > expected + TOLERANCE:
        return (
            False,
            f"above the {expected:g} that answers without knowledge give: part of every score is not the label's",
        )
    if both_sides and spread.hi < expected - TOLERANCE:
        return False, f"below the {expected:g} that answers without knowledge give"
    if spread.hi <= expected + TOLERANCE and (not both_sides or spread.lo >= expected - TOLERANCE):
        return True, None
    return None, "nothing can be said: the interval is too wide; more features are needed"


def better(spread: Spread, than: str) -> Verdict:
    """Whether differences label − control are above 0; and a reason where they are not, or it cannot be told."""
    if (little := _too_little(spread)) is not None:
        return None, little
    assert spread.lo is not None and spread.hi is not None
    if spread.lo > 0:
        return True, None
    if spread.hi < TOLERANCE:
        return False, f"the labels score no better than {than}"
    return None, f"nothing can be said: that the labels score better than {than} is not shown; more features are needed"


def _too_little(spread: Spread) -> str | None:
    if spread.n < FEW or spread.lo is None or spread.hi is None:
        return f"nothing can be said of {spread.n} features with a value; {FEW} or more are needed"
    return None


_THAN = {SHUFFLED: "labels of other features", GENERIC: "one sentence for all features", EMPTY: "no label at all",
         WITHIN: "the right texts with the tokens at random", RANDOM: "labels of random directions",
         "lexicon": "the token lexicon"}  # fmt: skip


def write_gates(catalog: Catalog, scorings: Mapping[str, Scoring], ranked: tuple[str, str]) -> list[Gate]:
    """Fill the table `controls` from the scores; the gates. `ranked`: scorer and metric of the ranking, gated whatever they
    are.

    The caller holds the transaction.
    """
    found = [gate for scoring in scorings.values() for gate in _of_scorer(catalog, scoring, ranked)]
    catalog.connection.execute("DELETE FROM controls")
    rows = [
        {"scorer": one.scorer, "metric": one.metric, "control": one.control, "n": one.spread.n, "value": one.spread.value,
         "lo": one.spread.lo, "hi": one.spread.hi, "expected": one.expected, "passed": one.passed, "reason": one.reason}
        for one in found
    ]  # fmt: skip
    catalog.insert("controls", pa.Table.from_pylist(rows, schema=_CONTROLS))
    return found


def _of_scorer(catalog: Catalog, scoring: Scoring, ranked: tuple[str, str]) -> Iterator[Gate]:
    table = _scores(catalog, scoring.key)
    for metric in dict.fromkeys(metric for metric, _ in table):
        by = {control: values for (name, control), values in table.items() if name == metric}
        if chance(metric) is not None or (scoring.name, metric) == ranked:
            yield from _of_metric(catalog, scoring, metric, by)
        elif metric.startswith("lexical_gain_"):
            spread, left_out = _median(by.get("", {}))
            r = metric.replace("lexical_gain", "r")
            yield _gate(scoring, r, "over_lexicon", spread, 0.0, better(spread, _THAN["lexicon"]), left_out)
        elif metric.startswith("quantisation_ceiling"):
            spread, left_out = _median(by.get("", {}))
            r = "r_corpus" if metric.endswith("_corpus") else "r_balanced"
            yield _gate(scoring, r, "oracle", spread, None, _compared("the truth itself in 11 steps"), left_out)
        for control in (YES, NO):
            if control in by and (expected := chance(metric, control)) is not None:
                yield _exact(scoring, metric, control, by[control], expected)


def _of_metric(catalog: Catalog, scoring: Scoring, metric: str, by: Mapping[str, Values]) -> Iterator[Gate]:
    own, expected = by.get("", {}), chance(metric)
    for control in (SHUFFLED, GENERIC, EMPTY, ACROSS, WITHIN, BREADTH):
        if control not in by:
            continue
        spread, left_out = _median(by[control])
        if expected is not None and control in (SHUFFLED, ACROSS):
            verdict = near(spread, expected, both_sides=control == ACROSS)
            yield _gate(scoring, metric, control, spread, expected, verdict, left_out)
        else:
            yield _gate(scoring, metric, control, spread, None, _compared(_WHAT[control]), left_out)
        if control in _THAN:
            spread, left_out = _median(_differences(own, by[control]))
            yield _gate(scoring, metric, f"over_{control}", spread, 0.0, better(spread, _THAN[control]), left_out)
    yield from _random(catalog, scoring, metric, own)
    for one in swaps(catalog, scoring, metric, own):
        spread, verdict = Spread(one.n, one.rho, one.lo, one.hi), _compared(f"rank correlation with {one.who}'s scores")
        yield _gate(scoring, metric, "swap", spread, None, verdict)


def _compared(what: str) -> Verdict:
    return None, f"for comparison: {what}"


_WHAT = {SHUFFLED: "labels of other features", GENERIC: "one sentence for all features", EMPTY: "no label at all",
         ACROSS: "each text's answers held against another text", WITHIN: "the right texts, with the tokens at random",
         BREADTH: "every token of the right texts"}  # fmt: skip


def _random(catalog: Catalog, scoring: Scoring, metric: str, own: Values) -> Iterator[Gate]:
    """Random directions, and the labels' median minus theirs, between the difference of the far ends of both intervals."""
    null, (labels, _) = median_interval(null_of(catalog, scoring.key, metric)), _median(own)
    if not null.n:
        return
    yield _gate(scoring, metric, RANDOM, null, None, _compared("directions that stand for nothing"))
    spread = Spread(min(null.n, labels.n), None, None, None)
    if labels.value is not None and null.value is not None:
        spread = replace(spread, value=labels.value - null.value)
    if not (labels.lo is None or labels.hi is None or null.lo is None or null.hi is None):
        spread = replace(spread, lo=labels.lo - null.hi, hi=labels.hi - null.lo)
    yield _gate(scoring, metric, f"over_{RANDOM}", spread, 0.0, better(spread, _THAN[RANDOM]))


def _exact(scoring: Scoring, metric: str, control: str, values: Values, expected: float) -> Gate:
    """What arithmetic alone decides must come out exactly, for every feature."""
    spread, left_out = _median(values)
    worst = max((abs(value - expected) for value in values.values() if value is not None), default=None)
    verdict: Verdict = (True, None)
    if worst is None:
        verdict = None, "nothing can be said: no feature has a value"
    elif worst >= _ROUNDING:
        verdict = False, f"off by {worst:.3g} at most: the scorer's arithmetic is wrong"
    return _gate(scoring, metric, control, spread, expected, verdict, left_out)


def _gate(
    scoring: Scoring, metric: str, control: str, spread: Spread, expected: float | None, verdict: Verdict,
    left_out: int = 0,
) -> Gate:  # fmt: skip
    passed, reason = verdict
    without = f"{left_out} without a value left out" if left_out else None
    return Gate(
        scoring.name, metric, control, spread, expected, passed, "; ".join(filter(None, (reason, without))) or None
    )


def _median(values: Values) -> tuple[Spread, int]:
    defined = [value for value in values.values() if value is not None]
    return median_interval(np.array(defined)), len(values) - len(defined)


def _differences(own: Values, other: Values) -> dict[int, float | None]:
    """Own minus other, of the features in the control."""
    pairs = {feature: (own.get(feature), value) for feature, value in other.items()}
    return {
        feature: None if mine is None or value is None else mine - value for feature, (mine, value) in pairs.items()
    }


def _scores(catalog: Catalog, key: str) -> dict[tuple[str, str], dict[int, float | None]]:
    """(metric, control) → feature → value."""
    found: dict[tuple[str, str], dict[int, float | None]] = {}
    query = (
        "SELECT metric, control, feature_id, value FROM scores WHERE score_key = ? ORDER BY metric, control, feature_id"
    )
    for metric, control, feature, value in catalog.rows(query, [key]):
        found.setdefault((metric, control), {})[feature] = value
    return found


_CONTROLS = pa.schema(
    [("scorer", pa.string()), ("metric", pa.string()), ("control", pa.string()), ("n", pa.uint32()), ("value", pa.float64()),
     ("lo", pa.float64()), ("hi", pa.float64()), ("expected", pa.float64()), ("passed", pa.bool_()), ("reason", pa.string())]
)  # fmt: skip
