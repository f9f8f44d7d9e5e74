"""How strongly a feature must be switched on for the model's predictions to move by a given amount, and what moves.

Strengths lie on a grid, 32 to an octave: neighbours differ by 2 % in strength and some 4 % in KL. A feature's strength is the
least one of the grid at which the mean KL is at least the target, so the rounding of sums, which depends on how many features are
run together, does not show in it. It is found by bisection. As KL grows about with the square of small strengths, what is tried
is not the middle of the bracket but where that law, or the line through both ends, puts the target; after some tries the
middle, which always ends. It takes three or four tries.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

PER_OCTAVE = 32
_OCTAVES = 14  # below the largest strength
_GUESSES = 8  # before the middle of the bracket is taken


@dataclass(frozen=True, slots=True)
class Effect:
    """What one strength does to one feature's predictions: the mean KL(clean || steered) over the places looked at, in nats.

    `up` and `down`: (token, mean change of its log-probability), the largest change first.
    """

    kl: float
    up: Sequence[tuple[int, float]] = ()
    down: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """`strength`: where the search ended, and the effect there, which is below the target where the largest strength's is."""

    feature: int
    strength: float
    effect: Effect


Measure = Callable[[Sequence[int], Sequence[float]], list[Effect]]
"""The effects of features, each at a strength of its own."""


@dataclass(slots=True)
class Bracket:
    """The search for one feature. Points of the grid are 0 … top; `low` is known to be too weak, `high` to suffice.

    Raises nothing: a strength at which the model breaks down (a KL that is no number) counts as too strong.
    """

    feature: int
    largest: float
    target: float
    low: int = -1
    high: int = _OCTAVES * PER_OCTAVE + 1
    tried: int = 0
    _at: dict[int, Effect] = field(default_factory=dict)

    def strength(self, point: int) -> float:
        return float(self.largest * 2.0 ** (point / PER_OCTAVE - _OCTAVES))

    @property
    def point(self) -> int:
        """What to try next."""
        if self.tried == 0:  # the feature's own maximum
            first = _OCTAVES * PER_OCTAVE - round(PER_OCTAVE * math.log2(self.largest))
            return min(max(first, 0), _OCTAVES * PER_OCTAVE)
        guess = self._law() if self.tried < _GUESSES else None
        middle = (self.low + self.high) // 2
        return max(self.low + 1, min(self.high - 1, middle if guess is None else guess))

    def _law(self) -> int | None:
        """The point at which KL would reach the target: by the straight line through both ends, or by the square of strength."""
        known = [
            (point, math.log2(effect.kl))
            for point in (self.low, self.high)
            if (effect := self._at.get(point)) is not None and 0 < effect.kl < math.inf
        ]
        if not known:
            return None
        point, kl = known[0]
        slope = 2.0 / PER_OCTAVE
        if len(known) == 2 and known[1][1] > kl:
            slope = (known[1][1] - kl) / (known[1][0] - point)
        return math.ceil(point + (math.log2(self.target) - kl) / slope)

    def learn(self, point: int, effect: Effect) -> None:
        """What was measured at `point`."""
        self.tried += 1
        if effect.kl < self.target:  # false where it is no number
            self._at.pop(self.low, None)
            self.low = point
        else:
            self._at.pop(self.high, None)
            self.high = point
        self._at[point] = effect

    def found(self) -> Found | None:
        """The outcome, once the bracket holds nothing more. Where nothing could be measured: None for ever, `is_open` False."""
        if self.is_open:
            return None
        for point in (self.high, self.low):
            effect = self._at.get(point)
            if effect is not None and math.isfinite(effect.kl):
                return Found(self.feature, self.strength(point), effect)
        return None

    @property
    def is_open(self) -> bool:
        return self.high - self.low > 1


def search(
    features: Sequence[int], measure: Measure, *, target: float, largest: float, at_once: int
) -> Iterator[Found | None]:
    """The outcome for each feature, in order; None where no strength could be measured.

    `at_once` features are measured together: as soon as one is done the next takes its place, so the batches stay full.
    """
    waiting = list(reversed(features))
    active: list[Bracket] = []
    done: dict[int, Bracket] = {}
    place = 0
    while waiting or active:
        while waiting and len(active) < at_once:
            active.append(Bracket(waiting.pop(), largest, target))
        points = [one.point for one in active]
        strengths = [one.strength(point) for one, point in zip(active, points, strict=True)]
        effects = measure([one.feature for one in active], strengths)
        for one, point, effect in zip(active, points, effects, strict=True):
            one.learn(point, effect)
        done |= {one.feature: one for one in active if not one.is_open}
        active = [one for one in active if one.is_open]
        while place < len(features) and features[place] in done:
            yield done.pop(features[place]).found()
            place += 1


def effects_of(clean: Tensor, steered: Tensor, *, count: int, floor: float) -> list[Effect]:
    """From log-probabilities [N, V] of the clean model at N places and [n, N, V] of n steered ones to their effects.

    `count` tokens each way at most, of those whose mean probability, clean or steered, is at least `floor`. The log-probability
    of a token that never comes swings widely for no reason, and without the floor such tokens fill the lists.
    """
    p = clean.exp()
    difference = torch.where(p > 0, steered - clean, 0.0)
    kl = -(p * difference).sum(-1).mean(-1)
    change = difference.mean(1)
    plausible = torch.maximum(steered.exp().mean(1), p.mean(0)) >= floor
    sides = [_largest(torch.where(plausible, sign * change, -torch.inf), count) for sign in (1.0, -1.0)]
    return [
        Effect(value, up, [(token, -size) for token, size in down])
        for value, up, down in zip(kl.tolist(), *sides, strict=True)
    ]


def _largest(change: Tensor, count: int) -> list[list[tuple[int, float]]]:
    """Of each row the tokens with the largest positive entries."""
    best = torch.topk(change, min(count, change.shape[1]), dim=1)
    rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [[(token, size) for token, size in zip(*row, strict=True) if size > 0] for row in rows]
