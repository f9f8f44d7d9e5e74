"""What the answers that were had would be worth if the evidence were other than it is. Nothing is asked for it.

Of simulations, as `r_balanced` and `r_corpus` (`of_simulation`):
- `permuted_across`: every context's simulation is held against another context's truth. The mean over many permutations, with
  the range of 95 % of them: what this label and these weights give by chance, about 0.
- `permuted_within`: the simulated values are permuted among the tokens of each context. The variances stay, and the mean over
  all permutations is exact: a context contributes Σa·Σs / T in place of Σa·s. What is left is that the label knows which
  *contexts* the feature fires in; what it adds to this is that it knows which *tokens*.
- `breadth`: "on" for every token of a context in which the feature fires, and off elsewhere. No label is needed for it: it is
  what telling the texts apart would give, without an idea of the token.

Of verdicts (`of_verdicts`): the answers permuted among the contexts, and the answers always yes and always no, graded by the
scorer itself. They test its arithmetic: what each must come to is known, see `chance`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from autointerp.catalog.records import FeatureEvidence
from autointerp.hashing import stable_hash
from autointerp.score import Grade, Judged, ScoreRow, Simulated, metrics
from autointerp.score.bootstrap import context_sums
from autointerp.score.pool import MODES, Array, Pool, context_weights, pooled, scored_contexts

ACROSS, WITHIN, BREADTH = "permuted_across", "permuted_within", "breadth"
YES, NO = "always_yes", "always_no"
CONTROLS = (ACROSS, WITHIN, BREADTH, YES, NO)
_PERMUTATIONS = 100


@runtime_checkable
class Regrading(Protocol):
    """A classifying scorer that can grade verdicts other than those that it was given, at once and without a model."""

    def regrade(self, evidence: FeatureEvidence, judged: Sequence[Judged]) -> Sequence[ScoreRow]:
        """The metrics of these verdicts on this evidence."""
        ...


def evidence_controls(
    scorer: object, evidence: FeatureEvidence, grade: Grade, *, seed: int, verdicts: bool
) -> dict[str, list[ScoreRow]]:
    """Rows by the control's name, of one label's grade. Simulations of the scored contexts only: a protocol that cuts its own
    windows has contexts of its own, and those that a scale was learnt from are of the rerank split. `verdicts`: with those of
    classifying scorers, which cost as much as a grade each."""
    scored = {context.window_id for context in scored_contexts(evidence)}
    simulated = [one for one in grade.simulated if one.start is None and one.window_id in scored]
    if simulated:
        return of_simulation(evidence, simulated, seed)
    if verdicts and grade.judged and isinstance(scorer, Regrading):
        return of_verdicts(scorer, evidence, grade.judged, seed)
    return {}


def of_simulation(evidence: FeatureEvidence, simulated: Sequence[Simulated], seed: int) -> dict[str, list[ScoreRow]]:
    """The three controls of a feature's simulations; see the module. None where no context was simulated."""
    pool = pooled(evidence, simulated)
    if not pool.lengths:
        return {}
    across = _Across(pool, stable_hash(ACROSS, seed, evidence.feature_id))
    found: dict[str, list[ScoreRow]] = {ACROSS: [], WITHIN: [], BREADTH: []}
    active = np.repeat(np.maximum.reduceat(pool.true, _starts(pool)) > 0, pool.lengths).astype(np.float64)
    within, breadth = _within(pool), context_sums(metrics.moments(pool.true, active), pool.lengths)
    for mode in MODES:
        weights = context_weights(evidence, pool.strata, mode)
        name = f"r_{mode}"
        if weights.values is None:
            for rows in found.values():
                rows.append(_row(name, pool, np.nan, reason=weights.note))
            continue
        found[ACROSS].append(across.row(name, weights.values))
        found[WITHIN].append(_row(name, pool, float(metrics.correlation(weights.values @ within))))
        found[BREADTH].append(_row(name, pool, float(metrics.correlation(weights.values @ breadth))))
    return found


def of_verdicts(
    scorer: Regrading, evidence: FeatureEvidence, judged: Sequence[Judged], seed: int
) -> dict[str, list[ScoreRow]]:
    """The three controls of a feature's verdicts; see the module. Verdicts that failed stay failed."""
    answered = [place for place, one in enumerate(judged) if one.answer is not None]
    if not answered:
        return {}
    order = np.random.default_rng(stable_hash(ACROSS, seed, evidence.feature_id)).permutation(answered)
    said = {place: judged[other].answer for place, other in zip(answered, order.tolist(), strict=True)}
    chances = [judged[other].probability for other in order.tolist()]
    permuted = [replace(one, answer=said.get(place)) for place, one in enumerate(judged)]
    for place, probability in zip(answered, chances, strict=True):
        permuted[place] = replace(permuted[place], probability=probability)
    sides = {ACROSS: permuted}
    for control, answer in ((YES, True), (NO, False)):
        sides[control] = [
            one if one.answer is None else replace(one, answer=answer, probability=float(answer)) for one in judged
        ]
    return {control: list(scorer.regrade(evidence, side)) for control, side in sides.items()}


def chance(metric: str, control: str = "shuffled") -> float | None:
    """What the metric comes to for answers that know nothing; None where that depends on the data or is not known.

    For `always_yes` and `always_no` it is exact, and so are they for a coin in expectation, whatever its bias: a balanced
    accuracy of (q + 1 − q) / 2. Constant predictions have no correlation.
    """
    if metric.startswith(("balanced_accuracy", "responsiveness_")) or "auroc" in metric:
        return 0.5
    if (metric == "r" or metric.startswith("r_")) and control not in (YES, NO):
        return 0.0
    if metric == "accuracy_corrected" and control not in (YES, NO):
        return 0.0
    if control in (YES, NO):
        said = float(control == YES)
        if metric.startswith(("recall", "false_alarms")):
            return said
        if metric.startswith("f1") and not metric.endswith("_corpus"):
            return 2 / 3 * said  # classes weigh alike: TP = FP where all is said to be active
        if metric.startswith("precision") and control == YES:
            return 0.5
    return None


def _starts(pool: Pool) -> NDArray[np.intp]:
    return np.concatenate([[0], np.cumsum(pool.lengths[:-1])]).astype(np.intp)


def _within(pool: Pool) -> Array:
    """Moments of each context [C, 6], the cross term as it is on average over permutations of the context's tokens."""
    sums = context_sums(metrics.moments(pool.true, pool.simulated[0]), pool.lengths)
    sums[:, 5] = sums[:, 1] * sums[:, 2] / sums[:, 0]
    return sums


class _Across:
    """Moments of pairs (truth of context i, simulation of context j) over the tokens that both have, in random orders of j."""

    def __init__(self, pool: Pool, seed: int) -> None:
        self._pool, lengths = pool, np.array(pool.lengths)
        true, simulated = (self._padded(side) for side in (pool.true, pool.simulated[0]))
        common = np.minimum(lengths[:, None], lengths[None]) - 1  # the last token that both have
        own, other = np.arange(len(lengths))[:, None], np.arange(len(lengths))[None]
        # The shorter side is 0 beyond its end, so the product needs no mask.
        moments = np.stack([
            common + 1.0,
            np.cumsum(true, axis=1)[own, common], np.cumsum(simulated, axis=1)[other, common],
            np.cumsum(true**2, axis=1)[own, common], np.cumsum(simulated**2, axis=1)[other, common],
            np.einsum("it,jt->ij", true, simulated),  # BLAS would wake all threads for so little, and wait for them
        ], axis=-1)  # fmt: skip
        generator = np.random.default_rng(seed)
        each = np.tile(np.arange(len(lengths)), (_PERMUTATIONS, 1))
        self._drawn = moments[own.T, generator.permuted(each, axis=1)]  # [permutations, C, 6]

    def _padded(self, side: Array) -> Array:
        lengths = np.array(self._pool.lengths)
        padded = np.zeros((len(lengths), lengths.max()))
        padded[np.arange(lengths.max())[None] < lengths[:, None]] = side
        return padded

    def row(self, name: str, weights: Array) -> ScoreRow:
        values = metrics.correlation(weights @ self._drawn)
        defined = values[~np.isnan(values)]
        if len(defined) < len(values) / 2:
            return _row(name, self._pool, np.nan)
        lo, hi = np.quantile(defined, [0.025, 0.975])
        return _row(name, self._pool, float(defined.mean()), float(lo), float(hi))


def _row(
    name: str, pool: Pool, value: float, lo: float | None = None, hi: float | None = None, reason: str | None = None
) -> ScoreRow:
    if np.isnan(value):
        why = reason or "the true or the simulated activations are constant"
        return ScoreRow(name, None, None, None, len(pool.lengths), pool.n_failed, "undefined", why)
    return ScoreRow(name, value, lo, hi, len(pool.lengths), pool.n_failed, "ok")
