"""Which contexts explainers are shown."""

from collections.abc import Sequence

import numpy as np
import pytest

from autointerp.catalog.records import Context
from autointerp.explain.exemplars import Exemplar, Selection, choose, cut
from tests.explain.test_token_activation import evidence, one_hot


def silent(window: int, kind: str = "silent", **options: int) -> Context:
    shown = one_hot(window, 1.0, kind=kind)
    return Context(shown.window_id, "explain", kind, 0, shown.tokens, np.zeros(64, np.float32), **options)


def active(contexts: Sequence[Context], top: int = 10, banded: int = 10, window: int = 32) -> Sequence[Exemplar]:
    return choose(evidence(contexts), Selection(top=top, banded=banded, window=window)).active


class TestChoice:
    def windows(self, contexts: Sequence[Context], texts: int = 20) -> list[int]:
        return [found.context.window_id for found in active(contexts, texts // 2, texts - texts // 2)]

    def test_half_the_strongest_and_half_from_the_bands_in_turn(self) -> None:
        top = [one_hot(i, 10 - i / 10, band=4) for i in range(8)]
        banded = [one_hot(100 + 10 * b + i, 2 * b + i / 10, kind="band", band=b) for b in (1, 2, 3, 4) for i in (0, 1)]
        # Four of the top, then one of each band; strongest first: 10, 9.9, 9.8, 9.7, 8, 6, 4, 2.
        assert self.windows([*top, *banded], texts=8) == [0, 1, 2, 3, 140, 130, 120, 110]
        # Two more: of the strongest bands again.
        assert set(self.windows([*top, *banded], texts=10)) == {0, 1, 2, 3, 4, 140, 130, 120, 110, 141}

    def test_the_strongest_fill_what_the_bands_leave_and_the_other_way_round(self) -> None:
        assert len(self.windows([one_hot(i, 9) for i in range(30)])) == 20
        assert len(self.windows([one_hot(i, 9, kind="band") for i in range(30)])) == 20

    def test_a_window_that_is_both_top_and_band_is_shown_once(self) -> None:
        assert self.windows([one_hot(1, 9), one_hot(1, 9, kind="band")]) == [1]

    def test_near_copies_are_shown_once(self) -> None:
        original = one_hot(1, 9, at=20, first=0)
        tokens = original.tokens.copy()
        tokens[[18, 22]] = 4000  # two of 32 tokens differ
        edited = Context(2, "explain", "top", 1, tokens, original.activations)
        shifted = one_hot(3, 8, at=17, first=3)  # the same text, cut out of the document three tokens later
        elsewhere = one_hot(4, 7, at=40, first=0)  # the same tokens, but the peak is somewhere else
        assert self.windows([original, edited, shifted, elsewhere]) == [1, 4]

    def test_contexts_that_would_look_silent_are_left_out(self) -> None:
        assert self.windows([one_hot(1, 0.99), one_hot(2, 1.0)]) == [2]

    @pytest.mark.parametrize(("at", "begin", "peak"), [(0, 0, 0), (10, 0, 10), (24, 0, 24), (40, 16, 24), (63, 32, 31)])
    def test_cuts_hold_the_peak_with_most_of_the_room_before_it(self, at: int, begin: int, peak: int) -> None:
        (found,) = active([one_hot(1, 9, at=at, first=0)])
        assert found.tokens.tolist() == list(range(begin, begin + 32))
        assert found.peak == peak and found.levels[peak] == 9 and found.levels.sum() == 9

    def test_short_contexts_are_whole(self) -> None:
        (found,) = active([one_hot(1, 9, at=3, length=5, first=0)])
        assert found.tokens.tolist() == [0, 1, 2, 3, 4]


class TestSilent:
    def test_random_ones_first_then_hard_negatives_each_window_once(self) -> None:
        contexts = [one_hot(1, 9), *(silent(10 + i) for i in range(5)), silent(20, "near", cause=3, cause_position=50),
                    silent(20, "token", cause=4, cause_position=5), silent(21, "token", cause=4, cause_position=5)]  # fmt: skip
        chosen = choose(evidence(contexts), Selection(silent=2, negatives=5))
        assert [one.context.window_id for one in chosen.silent] == [10, 11, 20, 21]
        assert not any(one.levels.any() for one in chosen.silent)
        assert chosen.windows == [1]
        assert choose(evidence(contexts), Selection()).silent == []

    def test_a_hard_negative_is_cut_around_its_cause(self) -> None:
        found = cut(silent(20, "near", cause=3, cause_position=50), 10.0, 32)
        assert found.tokens[found.peak] == silent(20).tokens[50] and len(found.tokens) == 32

    def test_random_ones_are_cut_anywhere_but_always_at_the_same_place(self) -> None:
        places = {cut(silent(window), 10.0, 8).tokens[0] - silent(window).tokens[0] for window in range(40)}
        assert len(places) > 10
        again = {cut(silent(window), 10.0, 8).tokens[0] - silent(window).tokens[0] for window in range(40)}
        assert places == again

    def test_hard_negatives_of_both_kinds_are_taken_in_turn(self) -> None:
        token = [silent(10 + i, "token", cause=4, cause_position=5) for i in range(5)]
        near = [silent(20 + i, "near", cause=3, cause_position=5) for i in range(2)]
        chosen = choose(evidence([one_hot(1, 9), *token, *near]), Selection(negatives=5))
        assert [one.context.window_id for one in chosen.silent] == [20, 10, 21, 11, 12]

    def test_a_cut_may_be_around_another_place(self) -> None:
        found = cut(one_hot(1, 9, at=60, first=0), 10.0, 8, place=20)
        assert found.tokens.tolist() == list(range(14, 22)) and found.peak == 6 and not found.levels.any()
