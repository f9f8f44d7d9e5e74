"""Successive halving: after each look the features with the better scores go on, half of those that are left. Pure.

After Karnin, Koren and Somekh, "Almost Optimal Exploration in Multi-Armed Bandits" (2013); theirs rounds halves up, this one
down. It finds the best features with fewer contexts than the tests of `sequential`, and controls no error: scores are compared
as they are, whatever their intervals, so that a good feature with unlucky first contexts is thrown out, and nobody knows how
often.
"""

from collections.abc import Mapping, Sequence

from autointerp.score.sequential import Look, Plan, State, Stop


def better_half(values: Mapping[int, float | None], least: int) -> list[int]:
    """The features with the higher values, half of them rounded down, but at least so many; of equal ones those with the lower
    ids. Without a value comes last. In ascending order."""
    order = sorted(values, key=lambda feature: (-_or_lowest(values[feature]), feature))
    return sorted(order[: max(least, len(order) // 2)])


def _or_lowest(value: float | None) -> float:
    return float("-inf") if value is None else value


def decide(plan: Plan, looks: Mapping[int, Sequence[Look]]) -> State:
    """Who is done, and who is due, as `sequential.decide` has it: a function of the looks alone. Features are compared after all
    that are left have had the look; `plan.top` features at least go on, one without it."""
    stopped: dict[int, Stop] = {}
    active = sorted(looks)
    for number in range(1, plan.looks + 1):
        due = [feature for feature in active if len(looks[feature]) < number]
        if due:
            return State(stopped, due, number)
        if number == plan.looks:
            stopped |= {feature: Stop(number, "all contexts") for feature in active}
            break
        kept = better_half({feature: looks[feature][number - 1].value for feature in active}, plan.top or 1)
        stopped |= {feature: Stop(number, "not in the better half") for feature in active if feature not in set(kept)}
        active = kept
    return State(stopped, [], plan.looks)
