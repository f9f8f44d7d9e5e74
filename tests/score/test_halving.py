"""Successive halving: by hand, replayed in any order, and what it says of intervals."""

from dataclasses import replace

from autointerp.score.halving import better_half, decide
from autointerp.score.sequential import Look, Plan, State, Stop

PLAN = Plan(3, 8, 8, halving=True)


def looks(*values: float | None) -> list[Look]:
    return [Look(value, None, None, 10) for value in values]


def test_the_better_half() -> None:
    assert better_half({1: 0.5, 2: 0.9, 3: None, 4: 0.7, 5: 0.5}, 1) == [2, 4]
    assert better_half({1: 0.5, 2: 0.9, 3: None, 4: 0.7, 5: 0.5}, 4) == [1, 2, 4, 5]
    assert better_half({3: 0.5, 1: 0.5}, 1) == [1]  # of equal ones the lower id
    assert better_half({7: None}, 1) == [7] and better_half({}, 3) == []


def test_by_hand() -> None:
    found = {
        1: looks(0.9, 0.1), 2: looks(0.8, 0.7, 0.6), 3: looks(0.1), 4: looks(0.2), 5: looks(None),
    }  # fmt: skip
    assert decide(PLAN, found) == State(
        {1: Stop(2, "not in the better half"), 2: Stop(3, "all contexts"), 3: Stop(1, "not in the better half"),
         4: Stop(1, "not in the better half"), 5: Stop(1, "not in the better half")}, [], 3,
    )  # fmt: skip


def test_at_least_so_many_go_on() -> None:
    found = {number: looks(number / 10) for number in range(8)}
    assert decide(replace(PLAN, top=6), found).due == [2, 3, 4, 5, 6, 7]
    assert decide(PLAN, found).due == [4, 5, 6, 7]


def test_nothing_is_decided_before_all_that_are_left_have_had_the_look() -> None:
    found = {1: looks(0.9), 2: looks(0.1), 3: []}
    assert decide(PLAN, found) == State({}, [3], 1)
    found = {1: looks(0.9, 0.8), 2: looks(0.8), 3: looks(0.1), 4: looks(0.2)}
    state = decide(PLAN, found)
    assert (state.due, state.look) == ([2], 2) and set(state.stopped) == {3, 4}
    # Looks beyond what was due change no decision.
    assert decide(PLAN, found | {3: looks(0.1, 0.9, 0.9)}) == state


def test_other_plans_keep_their_identity() -> None:
    assert repr(Plan(3, 8, 8)) == repr(PLAN)  # adaptive rows of before halving have the same keys
