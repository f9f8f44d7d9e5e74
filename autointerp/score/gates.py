"""The gates: what each control came to over its features, and whether that is what it must show. The table `controls`.

The unit is the feature. A control's value is the median over its features, with the interval that the sign test gives:
between two order statistics, at least 95 % whatever the distribution. A gate has three outcomes, by where the interval lies:

- *near* chance (`shuffled` only from above, `permuted_across` from both sides): passed if all of it is within a tolerance of
  0.05 of chance; failed if all of it is beyond that; else inconclusive. So a thousandth above chance, which a thousand
  features make significant, fails nobody, and three features that happen to be right prove nothing.
- *better* (`over_…`: the label's score minus the control's, feature by feature): passed if all of the interval is above 0 and
  the median is a difference worth the name; failed if all of it is below such a difference; else inconclusive.
- for comparison: no verdict, since nothing in particular is expected.

Fewer than ten features are inconclusive. Features of which one side has no value are left out, and counted in the reason. A
metric that no label has a value of (nobody asked for it) has no gates. What constant answers come to (`always_…`) is no gate but
a check of the scorer's arithmetic: it holds exactly, or there is a fault in the program.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from autointerp.catalog.controls import STAND_INS
from autointerp.catalog.main_metrics import main_of, written_metrics
from autointerp.catalog.store import Catalog
from autointerp.score.agreement import swaps
from autointerp.score.controls import EMPTY, GENERIC, SHUFFLED
from autointerp.score.evidence_controls import ACROSS, BREADTH, NO, WITHIN, YES, chance
from autointerp.score.random_null import null_of
from autointerp.score.spread import Spread, median_interval
from autointerp.score.writing import Scoring

TOLERANCE = 0.05
WORTH = 0.02
"""The least difference worth the name: one more right verdict on the 25 active contexts that a feature has by default moves its
balanced accuracy by as much, so that less is below the step of a single score. The same for correlations and areas."""
FEW = 10
RANDOM = "random_directions"
_ROUNDING = 1e-9
Verdict = tuple[bool | None, str | None]
Values = Mapping[int, float | None]  # feature → score; None where it is undefined


@dataclass(frozen=True, slots=True)
class Gate:
    """A row of the table `controls`. `passed` None: inconclusive, or nothing is expected; the reason says which."""

    scorer: str
    metric: str
    control: str
    spread: Spread
    expected: float | None
    passed: bool | None
    reason: str | None


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
    return None, "inconclusive: the interval is too wide; more features are needed"


def better(spread: Spread, than: str, scale: float = 1.0) -> Verdict:
    """Whether differences label − control are above 0 by something worth the name; and a reason where they are not, or it cannot
    be told. `scale`: from the worst to the best value of the metric."""
    if (little := _too_little(spread)) is not None:
        return None, little
    assert spread.value is not None and spread.lo is not None and spread.hi is not None
    worth = WORTH * scale
    if spread.lo > 0 and spread.value >= worth:
        return True, None
    if spread.hi < worth:
        but = f" by {worth:g} or more" if spread.lo > 0 else ""
        return False, f"the labels score no better than {than}{but}"
    why = f"the difference may be less than {worth:g}" if spread.lo > 0 else "the interval holds 0"
    return None, f"inconclusive: that the labels score better than {than} is not shown ({why}); more features may tell"


def _too_little(spread: Spread) -> str | None:
    if spread.n < FEW or spread.lo is None or spread.hi is None:
        features = "feature" if spread.n == 1 else "features"
        return f"inconclusive: {spread.n} {features} with a value; {FEW} or more are needed"
    return None


_THAN = {SHUFFLED: "labels of other features", GENERIC: "one sentence for all features", EMPTY: "no label at all",
         WITHIN: "the right texts with the tokens at random", RANDOM: "labels of random directions",
         "lexicon": "the token lexicon"}  # fmt: skip


def write_gates(
    catalog: Catalog, scorings: Mapping[str, Scoring], ranked: tuple[str, str], controls: Collection[str] = STAND_INS
) -> list[Gate]:
    """Fill the table `controls` from the scores; the gates. `ranked`: scorer and metric of the ranking, gated whatever they
    are. `controls`: the stand-ins for labels that the run has; what others scored in an earlier one is left out.

    The caller holds the transaction.
    """
    off = frozenset(STAND_INS) - frozenset(controls)
    found = [gate for scoring in scorings.values() for gate in _of_scorer(catalog, scoring, ranked, off)]
    catalog.connection.execute("DELETE FROM controls")
    rows = [
        {"scorer": one.scorer, "metric": one.metric, "control": one.control, "n": one.spread.n, "value": one.spread.value,
         "lo": one.spread.lo, "hi": one.spread.hi, "expected": one.expected, "passed": one.passed, "reason": one.reason}
        for one in found
    ]  # fmt: skip
    catalog.insert("controls", pa.Table.from_pylist(rows, schema=_CONTROLS))
    return found


def _of_scorer(catalog: Catalog, scoring: Scoring, ranked: tuple[str, str], off: Collection[str]) -> Iterator[Gate]:
    table = _scores(catalog, scoring.key, off)
    gated = _gated(catalog, scoring, ranked, table)
    for metric, by in table.items():
        if all(value is None for value in by.get("", {}).values()):
            continue
        if metric in gated:
            yield from _of_metric(catalog, scoring, metric, by)
        elif metric.startswith("lexical_gain_"):
            spread, left_out = _median(by[""])
            r = metric.replace("lexical_gain", "r")
            yield _gate(scoring, r, "over_lexicon", spread, 0.0, better(spread, _THAN["lexicon"]), left_out)
        elif metric in _CEILING_OF:
            spread, left_out = _median(by[""])
            r = next((r for r in _CEILING_OF[metric] if r in table), metric)
            yield _gate(scoring, r, "oracle", spread, None, _compared("the truth itself in 11 steps"), left_out)
        for control in (YES, NO):
            if control in by and (expected := chance(metric, control)) is not None:
                yield _exact(scoring, metric, control, by[control], expected)


def _gated(catalog: Catalog, scoring: Scoring, ranked: tuple[str, str], metrics: Collection[str]) -> set[str]:
    """The metrics that have gates: those of which it is known what chance gives, the one that ranks, and of a scorer without
    either its main one: it can be held against other labels' all the same."""
    found = {metric for metric in metrics if chance(metric) is not None or (scoring.name, metric) == ranked}
    written = written_metrics(catalog.connection, scoring.key)
    return found or ({main_of(written)} if written else set())


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
            verdict = better(spread, _THAN[control], _scale(metric))
            yield _gate(scoring, metric, f"over_{control}", spread, 0.0, verdict, left_out)
    yield from _random(catalog, scoring, metric, own)
    for one in swaps(catalog, scoring, metric, own):
        spread, verdict = Spread(one.n, one.rho, one.lo, one.hi), _compared(f"rank correlation with {one.who}'s scores")
        yield _gate(scoring, metric, "swap", spread, None, verdict)


_CEILING_OF = {"quantisation_ceiling": ("r_balanced", "r", "abs_r"), "quantisation_ceiling_corpus": ("r_corpus",)}


def _scale(metric: str) -> float:
    """From the worst to the best value: ratings go from 0 to 3."""
    return 3.0 if metric.startswith("rating") else 1.0


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
    yield _gate(scoring, metric, f"over_{RANDOM}", spread, 0.0, better(spread, _THAN[RANDOM], _scale(metric)))


def _exact(scoring: Scoring, metric: str, control: str, values: Values, expected: float) -> Gate:
    """What arithmetic alone decides must come out exactly, for every feature."""
    spread, left_out = _median(values)
    worst = max((abs(value - expected) for value in values.values() if value is not None), default=None)
    verdict: Verdict = (True, None)
    if worst is None:
        verdict = None, "inconclusive: no feature has a value"
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


def _scores(catalog: Catalog, key: str, off: Collection[str]) -> dict[str, dict[str, dict[int, float | None]]]:
    """metric → control → feature → value, without the controls that are off."""
    found: dict[str, dict[str, dict[int, float | None]]] = {}
    query = (
        "SELECT metric, control, feature_id, value FROM scores WHERE score_key = ? ORDER BY metric, control, feature_id"
    )
    for metric, control, feature, value in catalog.rows(query, [key]):
        if control not in off:
            found.setdefault(metric, {}).setdefault(control, {})[feature] = value
    return found


_CONTROLS = pa.schema(
    [("scorer", pa.string()), ("metric", pa.string()), ("control", pa.string()), ("n", pa.uint32()), ("value", pa.float64()),
     ("lo", pa.float64()), ("hi", pa.float64()), ("expected", pa.float64()), ("passed", pa.bool_()), ("reason", pa.string())]
)  # fmt: skip
