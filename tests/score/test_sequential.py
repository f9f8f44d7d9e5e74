"""Looks, stops and their errors: by hand, replayed in any order, and against a known truth."""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from autointerp.score import Simulated
from autointerp.score.sequential import ERROR, Look, Plan, Stop, by_look, decide, look_at
from tests.score.builders import context, evidence, failed, simulated


def look(lo: float | None, hi: float | None) -> Look:
    return Look(None if lo is None or hi is None else (lo + hi) / 2, lo, hi, 10)


class TestPlan:
    def test_each_look_has_twice_as_many_and_the_last_has_all(self) -> None:
        plan = Plan(4, per_band=20, silent=100)
        assert [plan.contexts(number) for number in (1, 2, 3, 4)] == [(3, 13), (5, 25), (10, 50), (20, 100)]

    def test_the_first_look_shows_variation(self) -> None:
        assert [Plan(4, 5, 25).contexts(number) for number in (1, 2, 3, 4)] == [(2, 4), (2, 7), (3, 13), (5, 25)]
        assert Plan(3, 1, 1).contexts(1) == (1, 1)

    def test_contexts_are_dealt_out_by_stratum_in_their_order(self) -> None:
        contexts = [context(10 * band + place, band, [float(band)]) for place in range(8) for band in (0, 1, 2)]
        portions = by_look(Plan(3, 8, 4), contexts)
        assert [sorted(one.window_id for one in portion) for portion in portions] == [
            [0, 1, 10, 11, 20, 21],
            [12, 13, 22, 23],
            [2, 3, 4, 5, 6, 7, 14, 15, 16, 17, 24, 25, 26, 27],
        ]


class TestDecisions:
    plan = Plan(3, 8, 8)

    def test_by_hand(self) -> None:
        plan = replace(self.plan, target_width=0.1, threshold=0.5)
        looks = {
            1: [look(0.30, 0.39)],
            2: [look(0.6, 0.9)],
            3: [look(0.1, 0.45)],
            4: [look(0.2, 0.8), look(0.46, 0.55)],
            5: [look(None, None), look(None, None), look(0.2, 0.8)],
        }
        state = decide(plan, looks)
        assert state.due == []
        assert state.stopped == {
            1: Stop(1, "below"), 2: Stop(1, "above"), 3: Stop(1, "below"), 4: Stop(2, "narrow"), 5: Stop(3, "all contexts"),
        }  # fmt: skip

    def test_who_cannot_be_in_the_top(self) -> None:
        # The bar is the second highest lower end, 0.5: feature 3 stays below it, feature 4 may still pass it.
        looks = {1: [look(0.7, 0.9)], 2: [look(0.5, 0.8)], 3: [look(0.1, 0.49)], 4: [look(0.2, 0.51)]}
        state = decide(replace(self.plan, top=2), looks)
        assert state.stopped == {3: Stop(1, "not in the top")} and (state.due, state.look) == ([1, 2, 4], 2)

    def test_who_has_stopped_still_sets_the_bar(self) -> None:
        plan = replace(self.plan, top=1, target_width=0.1)
        looks = {1: [look(0.80, 0.85)], 2: [look(0.3, 0.9), look(0.4, 0.79)], 3: [look(0.7, 0.95), look(0.75, 0.92)]}
        state = decide(plan, looks)
        assert state.stopped == {1: Stop(1, "narrow"), 2: Stop(2, "not in the top")} and state.due == [3]

    def test_nothing_is_decided_before_all_have_had_the_look(self) -> None:
        looks = {1: [look(0.7, 0.9)], 2: [look(0.1, 0.2)], 3: []}
        state = decide(replace(self.plan, top=1), looks)
        assert (state.stopped, state.due, state.look) == ({}, [3], 1)

    def test_further_looks_change_no_earlier_decision_and_order_does_not_count(self) -> None:
        generator = random.Random(0)
        plan = replace(self.plan, top=40, target_width=0.2, threshold=0.8)

        def looks() -> Sequence[Look]:
            middle = generator.uniform(0, 1)
            return [look(middle - half, middle + half) for half in (0.4, 0.2, generator.uniform(0.05, 0.15))]

        whole = {feature: looks() for feature in range(60)}
        expected = decide(plan, whole)
        assert len({stop.why for stop in expected.stopped.values()}) >= 4
        # As a run goes: only who is due is looked at, in any order, with a replay after each single look.
        so_far: dict[int, list[Look]] = {feature: [] for feature in generator.sample(range(60), 60)}
        while (state := decide(plan, so_far)).due:
            feature = generator.choice(list(state.due))
            so_far[feature].append(whole[feature][state.look - 1])
        assert state == expected
        assert {feature: len(some) for feature, some in so_far.items()} == {
            feature: stop.look for feature, stop in expected.stopped.items()
        }


def sampled(seed: int, contexts: int, missed: float, alarms: float) -> tuple:
    """Two bands and silent windows of four tokens: the simulation overlooks windows and raises alarms at these rates."""
    generator = np.random.default_rng(seed)
    drawn, answers = [], []
    for number in range(3 * contexts):
        band = number % 3
        true = np.zeros(4)
        if band:
            true[1] = generator.uniform(4 * band, 5 * band)
        said = np.zeros(4)
        if band and generator.random() >= missed:
            said[1] = np.clip(true[1] + generator.normal(0, 1), 0, 10)
        if not band and generator.random() < alarms:
            said[2] = generator.uniform(4, 9)
        drawn.append(context(number, band, true))
        answers.append(Simulated(number, said.astype(np.float32), "ok"))
    return evidence(drawn, {0: 80_000, 1: 20_000, 2: 20_000}), answers


class TestIntervals:
    @pytest.mark.parametrize(("missed", "alarms"), [(0.03, 0.02), (0.15, 0.1), (0.5, 0.3), (0.93, 0.3)])
    def test_all_looks_together_hold_the_truth(self, missed: float, alarms: float) -> None:
        plan = Plan(4, 16, 16)
        truth = look_at(*sampled(999, 20_000, missed, alarms), "r_balanced", 0.05).value
        assert truth is not None
        wrong = 0
        for seed in range(150):
            whole, answers = sampled(seed, 16, missed, alarms)
            contexts: list = []
            is_wrong = False
            for portion in by_look(plan, whole.contexts):
                contexts += portion
                ids = {one.window_id for one in contexts}
                part = [one for one in answers if one.window_id in ids]
                found = look_at(replace(whole, contexts=contexts), part, "r_balanced", ERROR / plan.looks)
                is_wrong |= found.lo is not None and found.hi is not None and not found.lo <= truth <= found.hi
            wrong += is_wrong
        assert wrong / 150 <= 0.10  # 5 % is promised; 2.8 standard deviations of 150 trials

    def test_what_was_not_seen_is_allowed_for(self) -> None:
        # Right in all that was drawn: resamples would say r = 1 for sure. Six silent contexts prove no such thing.
        whole, _ = sampled(0, 6, 0.0, 0.0)
        exact = [Simulated(one.window_id, (one.activations).astype(np.float32), "ok") for one in whole.contexts]
        found = look_at(whole, exact, "r_balanced", 0.05)
        assert found.value == pytest.approx(1) and found.lo is not None and found.lo < 0.9
        assert found.hi is not None and found.hi > 0.999

    def test_more_contexts_narrower_intervals(self) -> None:
        widths = []
        for contexts in (6, 24, 96):
            found = look_at(*sampled(3, contexts, 0.2, 0.1), "r_corpus", 0.05)
            assert found.lo is not None and found.hi is not None
            widths.append(found.hi - found.lo)
        assert widths == sorted(widths, reverse=True) and widths[2] < 0.6 * widths[0]

    def test_undefined(self) -> None:
        whole, _ = sampled(0, 6, 0.0, 0.0)
        silent = [simulated(one.window_id, [0.0] * 4) for one in whole.contexts]
        assert look_at(whole, silent, "r_balanced", 0.05).lo is None
        lost = look_at(whole, [failed(one.window_id) for one in whole.contexts], "r_balanced", 0.05)
        assert (lost.value, lost.n) == (None, 0) and lost.reason
