"""The search for a strength, and what is read from two distributions, by hand."""

import math
from collections.abc import Sequence

import pytest
import torch

from autointerp.harvest.strength import PER_OCTAVE, Bracket, Effect, Found, effects_of, search


def test_effects_by_hand() -> None:
    """Two places, four tokens. Clean (1/2, 1/4, 1/4, 0+); steered moves 1/4 from the first to the second at the first place."""
    clean = torch.tensor([[0.5, 0.25, 0.25, 1e-9]] * 2).log()
    steered = torch.tensor([[[0.25, 0.5, 0.25, 1e-6], [0.5, 0.25, 0.25, 1e-9]]]).log()
    [effect] = effects_of(clean, steered, count=2, floor=1e-3)
    assert effect.kl == pytest.approx((0.5 * math.log(2) - 0.25 * math.log(2)) / 2, rel=1e-5)
    # Token 3 rose a thousandfold and is left out: it never comes. Halves of log 2 each way, over two places.
    assert [token for token, _ in effect.up] == [1] and [token for token, _ in effect.down] == [0]
    assert effect.up[0][1] == pytest.approx(math.log(2) / 2) and effect.down[0][1] == pytest.approx(-math.log(2) / 2)
    [all_of_them] = effects_of(clean, steered, count=2, floor=0.0)
    assert [token for token, _ in all_of_them.up] == [3, 1]


def test_a_linear_model_by_hand() -> None:
    """Logits move by strength · (1, −1) from (0, 0): KL = log cosh strength, so that KL = 0.25 at arcosh(e^0.25) = 0.7369."""

    def measure(features: Sequence[int], strengths: Sequence[float]) -> list[Effect]:
        clean = torch.zeros(1, 2).log_softmax(-1)
        moved = torch.tensor([[[one * gain[f], -one * gain[f]]] for f, one in zip(features, strengths, strict=True)])
        return effects_of(clean, moved.log_softmax(-1), count=5, floor=0.0)

    gain = {0: 1.0, 1: -0.1, 2: 50.0, 3: 1e-4, 4: 0.0}
    exact = math.acosh(math.exp(0.25))
    assert exact == pytest.approx(0.7369, abs=1e-4)
    found = list(search(list(gain), measure, target=0.25, largest=16.0, at_once=2))
    step = 2 ** (1 / PER_OCTAVE)
    for one, (feature, size) in zip(found, gain.items(), strict=True):
        assert one is not None and one.feature == feature
        if feature < 3:
            assert exact / abs(size) <= one.strength <= exact / abs(size) * step * (1 + 1e-6)
            assert 0.25 <= one.effect.kl <= 0.25 * step**2
            assert [token for token, _ in one.effect.up] == [0 if size > 0 else 1]
        else:  # it moves too little, or nothing: the largest strength, and what it reached
            assert one.strength == 16.0 and one.effect.kl < 1e-4
    assert found[4] == Found(4, 16.0, Effect(0.0, [], []))


@pytest.mark.parametrize("at_once", [1, 3, 64])
def test_the_outcome_does_not_depend_on_the_batch_and_takes_few_tries(at_once: int) -> None:
    asked: list[int] = []

    def measure(features: Sequence[int], strengths: Sequence[float]) -> list[Effect]:
        assert len(features) <= at_once
        asked.extend(features)
        return [Effect(3 * math.tanh(0.02 * (f + 1) * s * s)) for f, s in zip(features, strengths, strict=True)]

    found = list(search(range(60), measure, target=0.5, largest=16.0, at_once=at_once))
    for feature, one in enumerate(found):
        assert one is not None and one.effect.kl >= 0.5
        weaker = one.strength / 2 ** (1 / PER_OCTAVE)
        assert 3 * math.tanh(0.02 * (feature + 1) * weaker * weaker) < 0.5  # the least strength of the grid
    assert len(asked) / 60 < 5


def test_a_model_that_breaks_down_counts_as_too_strong() -> None:
    def measure(features: Sequence[int], strengths: Sequence[float]) -> list[Effect]:
        return [Effect(math.nan if s > 2 or f == 1 else 0.01 * s) for f, s in zip(features, strengths, strict=True)]

    weak, none = search([0, 1], measure, target=1.0, largest=16.0, at_once=2)
    assert none is None
    assert weak is not None and weak.effect.kl == pytest.approx(0.02) and weak.strength == 2.0


def test_the_search_ends_where_kl_does_not_rise_steadily() -> None:
    bracket = Bracket(0, 16.0, 0.25)
    while bracket.is_open:
        point = bracket.point
        bracket.learn(point, Effect(0.3 if (point * 7919) % 5 < 2 else 0.2))
    found = bracket.found()
    assert found is not None and found.effect.kl == 0.3 and bracket.tried < 20
