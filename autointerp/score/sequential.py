"""When enough contexts of a feature have been scored: a sequential test over few planned looks. Pure; see docs/scoring.md.

Contexts are scored in rounds; each takes the next of every stratum in hash order, so that after every round the sample is what
it would be had the others never been thought of. At the k-th of K looks an interval of level 1 − error/K is put around the score;
by Bonferroni all K of them hold the truth together with probability 1 − error, so any rule that looks at nothing else may stop
whenever it likes. No assumption is made on how the looks depend on one another.

An interval after a dozen contexts must allow for what no context has shown yet. Resampling cannot: where no false alarm was
drawn, none is in any resample. So each end is moved by what one more silent context with a false alarm, and one more
activating context that is overlooked, would do to the score (for the upper end: one without alarm, one foretold exactly): the
rule of succession. The error of the contexts that are there is the jackknife's, read from Student's t, on Fisher's scale.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autointerp.catalog.records import Context, FeatureEvidence
from autointerp.score import Simulated
from autointerp.score.bootstrap import Resampling
from autointerp.score.discretise import LEVELS
from autointerp.score.jackknife import standard_error
from autointerp.score.paired import Sums, simulated_sums

Array = NDArray[np.float64]
METRICS = ("r_balanced", "r_corpus")
ERROR = 0.05  # of each feature: the probability that any of its looks is wrong
Why = Literal["narrow", "above", "below", "not in the top", "not in the better half", "all contexts"]
_LEAST = 2  # contexts of a stratum at the first look: one shows no variation
_CLOSEST_TO_1 = 1 - 1e-6


@dataclass(frozen=True, slots=True)
class Plan:
    """How contexts are shared out over `looks`, and what ends a feature's scoring.

    `per_band`, `silent`: of the last look. `target_width`: of the interval; 0 never. `top`: how many features must be told from
    the others; `threshold`: of the score, that features must be known to pass or not. `halving`: none of these, but see the
    module of that name.
    """

    looks: int
    per_band: int
    silent: int
    target_width: float = 0.0
    top: int | None = None
    threshold: float | None = None
    halving: bool = field(default=False, repr=False)

    @property
    def compares(self) -> bool:
        """Whether it takes the scores of others to say that a feature is done."""
        return self.halving or self.top is not None

    def contexts(self, look: int) -> tuple[int, int]:
        """Of each band, and silent, after so many looks (1 … looks): each look has twice as many as the one before."""
        parts = 2 ** (self.looks - look)
        per_band, silent = (min(whole, max(_LEAST, -(-whole // parts))) for whole in (self.per_band, self.silent))
        return per_band, silent

    def look_of(self, kind: str, place: int) -> int:
        """The look at which a context is due: the place-th, from 0, of its stratum."""
        which = 0 if kind == "band" else 1
        return next((look for look in range(1, self.looks + 1) if place < self.contexts(look)[which]), self.looks)


@dataclass(frozen=True, slots=True)
class Look:
    """The score after one look, with its interval; None where undefined. `n` contexts had been simulated."""

    value: float | None
    lo: float | None
    hi: float | None
    n: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """After which look a feature needs no further contexts, and why."""

    look: int
    why: Why


@dataclass(frozen=True, slots=True)
class State:
    """Features that have `stopped`; and those that are `due` their look number `look`. None is due: all is done."""

    stopped: Mapping[int, Stop]
    due: Sequence[int]
    look: int


def by_look(plan: Plan, contexts: Sequence[Context]) -> list[list[Context]]:
    """The contexts due at each look, in their order, which is that of the sampling hash in every stratum."""
    found: list[list[Context]] = [[] for _ in range(plan.looks)]
    places: dict[tuple[str, int], int] = {}
    for context in contexts:
        stratum = (context.split, context.band)
        places[stratum] = places.get(stratum, -1) + 1
        found[plan.look_of(context.kind, places[stratum]) - 1].append(context)
    return found


def decide(plan: Plan, looks: Mapping[int, Sequence[Look]]) -> State:
    """Who is done, and who is due, from the looks of all features; those of one that has none are empty.

    The looks are gone through in their order, and at each only what was known then counts: the result depends on neither the
    order in which contexts were scored nor on interruptions. Of a feature its own looks are counted, but for the
    rule of the top, which compares all features, after the whole look.
    """
    stopped: dict[int, Stop] = {}
    for number in range(1, plan.looks + 1):
        active = [feature for feature in sorted(looks) if feature not in stopped]
        due = [feature for feature in active if len(looks[feature]) < number]
        if due:
            return State(stopped, due, number)
        bar = _bar(plan, looks, stopped, number)
        for feature in active:
            if why := _why(plan, looks[feature][number - 1], bar, is_last=number == plan.looks):
                stopped[feature] = Stop(number, why)
    return State(stopped, [], plan.looks)


def _bar(plan: Plan, looks: Mapping[int, Sequence[Look]], stopped: Mapping[int, Stop], number: int) -> float:
    """A score that surely as many features reach as are wanted in the top: who surely does not is not among them."""
    last = {feature: min(number, stopped[feature].look if feature in stopped else number) for feature in looks}
    lower = sorted((lo for feature in looks if (lo := looks[feature][last[feature] - 1].lo) is not None), reverse=True)
    return lower[plan.top - 1] if plan.top is not None and len(lower) >= plan.top else -np.inf


def _why(plan: Plan, look: Look, bar: float, *, is_last: bool) -> Why | None:
    if look.lo is not None and look.hi is not None:
        if look.hi < bar:
            return "not in the top"
        if plan.threshold is not None and look.lo > plan.threshold:
            return "above"
        if plan.threshold is not None and look.hi < plan.threshold:
            return "below"
        if look.hi - look.lo <= plan.target_width:
            return "narrow"
    return "all contexts" if is_last else None


def look_at(evidence: FeatureEvidence, simulated: Sequence[Simulated], metric: str, error: float) -> Look:
    """The interval of level 1 − `error` around a correlation, from the simulations of the contexts of `evidence`."""
    found = simulated_sums(evidence, [simulated], metric)
    if isinstance(found, str):
        return Look(None, None, None, 0, found)
    value, n = found.value, len(found.sums)
    if np.isnan(value):
        return Look(None, None, None, n, "the true or the simulated activations are constant")
    scale = LEVELS / evidence.max_activation if evidence.max_activation > 0 else 0.0
    ends = _ends(found, error, scale)
    if ends is None:
        return Look(value, None, None, n, "no interval: too few contexts to tell how the score varies")
    return Look(value, *ends, n)


def _ends(found: Sums, error: float, scale: float) -> tuple[float, float] | None:
    from scipy import stats

    def fisher(sums: Array) -> Array:
        return np.arctanh(np.clip(found.of_sums(sums), -_CLOSEST_TO_1, _CLOSEST_TO_1))

    draws = Resampling(found.strata, 1, 0)  # only for its jackknife
    of_these = standard_error(found.strata, fisher(draws.leave_one_out(found.sums)))
    if of_these is None:
        return None
    middle = float(fisher(found.sums.sum(axis=0)))
    unseen = [_unseen(found, fisher, middle, scale, is_fault) for is_fault in (True, False)]
    step = float(stats.t.isf(error / 2, of_these.freedom))
    lo, hi = (float(np.hypot(of_these.value, one)) * step for one in unseen)
    return float(np.tanh(middle - lo)), float(np.tanh(middle + hi))


def _unseen(found: Sums, fisher: Callable[[Array], Array], middle: float, scale: float, is_fault: bool) -> float:
    """How far one more silent context and one more activating one would move the score: down if they are faults, else up."""
    silent, active = [0.0], [0.0]
    for stratum in np.unique(found.strata):
        inside = found.sums[found.strata == stratum]
        n, mean = len(inside), inside.mean(axis=0)
        further = _further(mean, found, scale, is_fault, is_silent=stratum == 0)
        # The stratum keeps its weight: n contexts and the further one share it.
        moved = float(fisher(found.sums.sum(axis=0) + (further - mean) * n / (n + 1))) - middle
        (active if stratum else silent).append(min(moved, 0.0) if is_fault else max(moved, 0.0))
    bands = np.array(active[1:] or active)
    return float(np.sqrt(silent[-1] ** 2 + (bands**2).mean()))


def _further(mean: Array, found: Sums, scale: float, is_fault: bool, is_silent: bool) -> Array:
    """The weighted moments (1, a, s, a², s², a·s) of a context like the stratum's mean, with another simulation."""
    weight, true, _, square, _, _ = mean
    if is_silent:
        said = found.sums[(found.strata > 0) & (found.sums[:, 4] > 0)]
        said = said if len(said) else found.sums[found.sums[:, 4] > 0]
        alarm = (
            (said / said[:, :1]).mean(axis=0) if is_fault else np.zeros(6)
        )  # by token, as in contexts where it fires
        return np.array([weight, true, weight * alarm[2], square, weight * alarm[4], 0.0])
    if is_fault:
        return np.array([weight, true, 0.0, square, 0.0, 0.0])
    return np.array([weight, true, true * scale, square, square * scale**2, square * scale])
