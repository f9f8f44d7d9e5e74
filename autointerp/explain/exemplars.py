"""Which contexts an explainer is shown, and how they are cut: a component of its own, the same for all explainers.

Pure: from a feature's evidence (the explain split only) and a `Selection` to exemplars. Near-copies are shown once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autointerp.catalog.records import Context, FeatureEvidence, Split
from autointerp.hashing import stable_hash
from autointerp.score.discretise import discretise

_SAME = 0.8  # two cuts are near-copies if so large a share of their tokens agree when their peaks are laid together
_BEFORE = 0.75  # share of a cut that lies before its peak: what comes later has no influence on it

Show = Literal["levels", "marks", "both"]


@dataclass(frozen=True, slots=True)
class Selection:
    """How many exemplars of each sort, and what is shown of them.

    `top`: of the strongest windows; `banded`: in turn from all bands of the feature's activations; `silent`: random windows in
    which it does not fire; `negatives`: hard negatives, as far as `autointerp negatives` has found some. `window`: tokens of a
    cut around the peak. `show`: activations as whole numbers 0..10, as marks around the active tokens, or both.
    """

    top: int = 5
    banded: int = 15
    silent: int = 0
    negatives: int = 0
    window: int = 32
    show: Show = "levels"


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A context cut around its peak. `levels` int [t]: activations discretised to 0..10; `peak` is an index into it.

    Of a silent one the levels are 0, and `peak` is where the cut was made: a place by hash, or the cause of a hard negative.
    """

    context: Context
    tokens: NDArray[np.int32]
    levels: NDArray[np.int64]
    peak: int


@dataclass(frozen=True, slots=True)
class Exemplars:
    """`active`, strongest first; `silent`: random ones, then hard negatives."""

    active: Sequence[Exemplar]
    silent: Sequence[Exemplar]

    @property
    def windows(self) -> list[int]:
        """Ids of the active ones' windows: the evidence of a label."""
        return [exemplar.context.window_id for exemplar in self.active]


def choose(evidence: FeatureEvidence, selection: Selection) -> Exemplars:
    """The exemplars to show. Where there are too few banded ones, further top ones stand in, and the other way round.

    Contexts whose peak is below a tenth of the feature's maximum are left out: they would be shown as silent.
    """
    strongest = sorted(evidence.of("explain", ("top",)), key=lambda context: -context.peak)
    spread = bands_in_turn(evidence.of("explain", ("band",)))
    most = selection.top + selection.banded
    active: list[Exemplar] = []
    for candidates, limit in ((strongest, selection.top), (spread, most), (strongest, most)):
        for context in candidates:
            if len(active) >= limit:
                break
            exemplar = cut(context, evidence.max_activation, selection.window)
            if exemplar.levels.any() and not any(is_near_copy(exemplar, other) for other in active):
                active.append(exemplar)
    active.sort(key=lambda exemplar: -exemplar.context.peak)
    random, hard = evidence.of("explain", ("silent",)), hard_negatives(evidence, "explain")
    silent = [
        cut(context, evidence.max_activation, selection.window)
        for context in [*random[: selection.silent], *hard[: selection.negatives]]
    ]
    return Exemplars(active, silent)


def cut(context: Context, maximum: float, window: int, place: int | None = None) -> Exemplar:
    """The `window` tokens around a context's peak, or around another `place` in it; most of them before it."""
    peak = _place(context) if place is None else place
    begin = max(0, min(peak - int(window * _BEFORE), len(context.tokens) - window))
    levels = discretise(context.activations[begin : begin + window], maximum)
    return Exemplar(context, context.tokens[begin : begin + window], levels, peak - begin)


def _place(context: Context) -> int:
    """Where to cut: at the peak; of a silent context at its cause, else anywhere, so that its cut is like the others'."""
    if context.peak > 0:
        return int(context.activations.argmax())
    if context.cause_position is not None:
        return context.cause_position
    return stable_hash("cut", context.window_id) % len(context.tokens)


def bands_in_turn(contexts: Sequence[Context]) -> list[Context]:
    """One of each band, the strongest band first, then the second of each, and so on."""
    turns: dict[int, int] = {}
    order = []
    for context in contexts:
        turns[context.band] = turns.get(context.band, 0) + 1
        order.append((turns[context.band], -context.band))
    return [contexts[index] for index in sorted(range(len(contexts)), key=order.__getitem__)]


def hard_negatives(evidence: FeatureEvidence, split: Split) -> list[Context]:
    """Of both kinds in turn, each window once: it may be a hard negative for two reasons."""
    return distinct(in_turn(evidence.of(split, ("near",)), evidence.of(split, ("token",))))


def in_turn(*lists: Sequence[Context]) -> list[Context]:
    """The first of each list, then the second of each, and so on."""
    return [context for turn in zip_longest(*lists) for context in turn if context is not None]


def distinct(*lists: Iterable[Context]) -> list[Context]:
    """The contexts of all lists, each window where it comes first."""
    found: dict[int, Context] = {}
    for context in chain(*lists):
        found.setdefault(context.window_id, context)
    return list(found.values())


def is_near_copy(one: Exemplar, other: Exemplar) -> bool:
    """Whether most tokens of two cuts agree when their peaks are laid together."""
    before = min(one.peak, other.peak)
    after = min(len(one.tokens) - one.peak, len(other.tokens) - other.peak)
    common = one.tokens[one.peak - before : one.peak + after] == other.tokens[other.peak - before : other.peak + after]
    long_enough = 2 * len(common) >= min(len(one.tokens), len(other.tokens))
    return bool(long_enough and common.mean() >= _SAME)
