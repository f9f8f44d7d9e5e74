"""Findings summed up by family: means with bootstrap intervals over features, and counts of all that has no value. Pure.

A label that failed, and one whose score is undefined (its simulation never moves), is counted and has no part in a mean.
In the share of good labels it counts: as not good.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autointerp.evaluate.judge import EXPECTED, VERDICTS, Verdict
from autointerp.evaluate.planted import FALSEHOODS, FAMILIES, Falsehood
from autointerp.evaluate.suite import Finding, Findings, Which
from autointerp.hashing import stable_hash
from autointerp.score.bootstrap import Resampling

GOOD = 0.5  # a label that correlates so well counts as good
RESAMPLES = 2000
ALL = "all"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `n` features with its 95 % interval; None where there is nothing to average, or to resample."""

    n: int
    value: float | None = None
    lo: float | None = None
    hi: float | None = None


@dataclass(frozen=True, slots=True)
class Grade:
    """One family, or all. `n_waiting`: no label yet, answers are under way.

    `r`: mean r of the labels over features with one; `good`: share of features whose label reaches r ≥ GOOD; `false_alarms`:
    mean share of the near misses in which the simulation fires; `same`: share of
    labels that the judge calls equivalent; `true_r`: mean r of the true labels; `first`: share of features whose true label
    scores above all three false ones; `beaten`: the same for each false label by itself.
    """

    family: str
    n_features: int
    n_ok: int
    n_failed: int
    n_waiting: int
    n_undefined: int
    n_unscored: int
    r: Estimate
    good: Estimate
    false_alarms: Estimate
    verdicts: Mapping[Verdict, int]
    n_unjudged: int
    same: Estimate
    true_r: Estimate
    first: Estimate
    n_unranked: int
    beaten: Mapping[Falsehood, Estimate]


def grades(findings: Findings) -> list[Grade]:
    """One grade a family, in the order of families, and one of all."""
    families = [family for family in FAMILIES if any(one.feature.family == family for one in findings.features)]
    parts = [(family, [one for one in findings.features if one.feature.family == family]) for family in families]
    return [_grade(findings, name, members) for name, members in [*parts, (ALL, list(findings.features))]]


def judge_accuracy(findings: Findings) -> dict[Falsehood, Estimate]:
    """Share of the false labels of each sort that the judge recognised for what they are."""
    found: dict[Falsehood, Estimate] = {}
    for sort in FALSEHOODS:
        right = [
            (one, float(verdict.verdict == EXPECTED[sort]))
            for one in findings.features
            if sort in one.verdicts and (verdict := one.verdicts[sort].value) is not None
        ]
        found[sort] = _mean(right, findings.seed, f"judge {sort}")
    return found


def _grade(findings: Findings, name: str, members: Sequence[Finding]) -> Grade:
    seed = findings.seed
    labelled = [one for one in members if one.label is not None and one.label.value is not None]
    scored = [(one, value) for one in labelled if (value := score_of(one, "label")) is not None]
    alarms = [(one, rate) for one in labelled if (rate := _false_alarms(one)) is not None]
    tried = [one for one in labelled if "label" in one.scores]
    asked = [one for one in labelled if "label" in one.verdicts]
    judged = [(one, judgement.verdict) for one in asked if (judgement := one.verdicts["label"].value) is not None]
    done = [one for one in members if one.label is not None]
    with_truth = [(one, value) for one in members if (value := score_of(one, "true")) is not None]
    ranked = [one for one in members if is_ranked(one)]
    return Grade(
        family=name,
        n_features=len(members),
        n_ok=len(labelled),
        n_failed=len(done) - len(labelled),
        n_waiting=len(members) - len(done),
        n_undefined=sum(_status(one) == "undefined" for one in tried),
        n_unscored=sum(_status(one) == "failed" for one in tried),
        r=_mean(scored, seed, f"r {name}"),
        good=_mean([(one, float((score_of(one, "label") or 0.0) >= GOOD)) for one in done], seed, f"good {name}"),
        false_alarms=_mean(alarms, seed, f"alarms {name}"),
        verdicts={sort: sum(verdict == sort for _, verdict in judged) for sort in VERDICTS},
        n_unjudged=len(asked) - len(judged),
        same=_mean([(one, float(verdict == "same")) for one, verdict in judged], seed, f"same {name}"),
        true_r=_mean(with_truth, seed, f"true {name}"),
        first=_mean([(one, float(all(beats(one, s) for s in FALSEHOODS))) for one in ranked], seed, f"first {name}"),
        n_unranked=len(members) - len(ranked) if findings.scorer_tested else 0,
        beaten={
            sort: _mean([(one, float(beats(one, sort))) for one in ranked], seed, f"{sort} {name}")
            for sort in FALSEHOODS
        },
    )


def score_of(finding: Finding, which: Which) -> float | None:
    """r of one of the feature's labels; None where it was not simulated, failed or is undefined."""
    outcome = finding.scores.get(which)
    return outcome.value.row.value if outcome is not None and outcome.value is not None else None


def is_ranked(finding: Finding) -> bool:
    """Whether the true label and all false ones were simulated. An undefined r is an answer; a failure is none."""
    planted: tuple[Which, ...] = ("true", *FALSEHOODS)
    outcomes = [finding.scores.get(which) for which in planted]
    return all(one is not None and one.value is not None and one.value.row.status != "failed" for one in outcomes)


def beats(finding: Finding, sort: Falsehood) -> bool:
    """Whether the true label's r is above the false one's. A label that says nothing on the test split is beaten by any r > 0."""
    true, false = score_of(finding, "true"), score_of(finding, sort)
    return true is not None and true > (0.0 if false is None else false)


def _false_alarms(finding: Finding) -> float | None:
    outcome = finding.scores.get("label")
    return outcome.value.false_alarms if outcome is not None and outcome.value is not None else None


def _status(finding: Finding) -> str:
    scored = finding.scores["label"].value
    return "failed" if scored is None else scored.row.status


def _mean(values: Sequence[tuple[Finding, float]], seed: int, what: str) -> Estimate:
    """The mean over features. Features are resampled within their families; a family of one says nothing of variation."""
    if not values:
        return Estimate(0)
    numbers = np.array([value for _, value in values])
    strata = np.array([FAMILIES.index(finding.feature.family) for finding, _ in values])
    mean = float(numbers.mean())
    draws = Resampling(strata, RESAMPLES, stable_hash("suite", seed, what))
    if draws.singletons:
        return Estimate(len(numbers), mean)
    sums = np.stack([numbers, np.ones_like(numbers)], axis=1)
    interval = draws.interval(lambda total: total[..., 0] / total[..., 1], sums, mean)
    return Estimate(len(numbers), mean, interval.lo, interval.hi)
