"""Verdicts: AUROC against sklearn, windows as the unit of resampling, what all verdicts alike come to."""

import numpy as np
import pytest

from autointerp.score import Judged
from autointerp.score.verdicts import Verdicts, auroc_row, balanced_accuracy, f1, recall, row
from autointerp.score.weighted_rows import Resamples

DRAWS = Resamples(7, 400)


def verdict(window: int, truth: bool, said: bool | None, probability: float | None = None) -> Judged:
    return Judged(window, "band", truth, said, "failed" if said is None else "ok", "no answer", probability=probability)


def test_auroc_is_sklearns_whatever_the_classes_and_bands_weigh_alike() -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    truth, chance = rng.random(60) < 0.4, rng.integers(0, 8, 60) / 8
    bands = np.where(truth, rng.integers(1, 4, 60), 0)
    judged = [verdict(n, bool(truth[n]), bool(chance[n] > 0.5), float(chance[n])) for n in range(60)]
    found = Verdicts.of(zip(judged, bands.tolist(), strict=True))
    expected = sklearn_metrics.roc_auc_score(truth, chance, sample_weight=found.weights)
    got = auroc_row("auroc", found, DRAWS)
    assert got.value == pytest.approx(expected) and got.lo is not None and got.lo < expected < (got.hi or 0)
    flat = Verdicts.of(zip(judged, bands.tolist(), strict=True), flat=True)
    assert auroc_row("auroc", flat, DRAWS).value == pytest.approx(sklearn_metrics.roc_auc_score(truth, chance))


def test_auroc_needs_the_probability_of_every_verdict() -> None:
    some = Verdicts.of([(verdict(1, True, True, 0.9), 1), (verdict(2, False, False), 0), (verdict(3, False, None), 0)])
    got = auroc_row("auroc", some, DRAWS)
    assert (got.status, got.reason, got.n_ok, got.n_failed) == ("undefined", "1 of 2 verdicts have a probability", 2, 1)
    one = Verdicts.of([(verdict(1, True, True, 0.9), 1), (verdict(2, True, True, 0.8), 1)])
    assert auroc_row("auroc", one, DRAWS).reason == "no silent context was judged"
    assert auroc_row("auroc", Verdicts.of([(verdict(3, False, None), 0)]), DRAWS).status == "failed"


def test_two_verdicts_on_one_window_go_together() -> None:
    # On each window one verdict is right and the other wrong, this way or that. Apart, the score would vary; together it cannot.
    pairs = [(verdict(n, True, n % 2 == 0), 1) for n in range(8)] + [
        (verdict(n, False, n % 2 == 0), 1) for n in range(8)
    ]
    together = row("balanced_accuracy", balanced_accuracy, Verdicts.of(pairs), DRAWS)
    assert (together.value, together.lo, together.hi) == pytest.approx((0.5, 0.5, 0.5))
    assert "no width" in str(together.reason)
    apart = [*pairs[:8], *((verdict(100 + n, False, n % 2 == 0), 0) for n in range(8))]
    free = row("balanced_accuracy", balanced_accuracy, Verdicts.of(apart), DRAWS)
    assert free.value == 0.5 and free.lo is not None and free.lo < 0.4 and (free.hi or 0) > 0.6


def test_flat_verdicts_count_once_each() -> None:
    given = [(verdict(n, True, n > 0), 1 + n % 2) for n in range(3)] + [(verdict(9, False, True), 0)]
    assert row("f1", f1, Verdicts.of(given, flat=True), DRAWS).value == pytest.approx(4 / (4 + 1 + 1))
    assert row("recall", recall, Verdicts.of(given), DRAWS).value == pytest.approx((1 / 2 + 1) / 2)  # bands alike
    assert row("recall", recall, Verdicts.of(given, flat=True), DRAWS).value == pytest.approx(2 / 3)
