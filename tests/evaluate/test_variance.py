"""Variance components: by hand, planted ones recovered, intervals that hold them."""

import numpy as np
import pytest

from autointerp.evaluate.variance import SOURCES, components, reliability

PLANTED = {
    "feature": 0.05, "simulator": 0.01, "feature x simulator": 0.008, "contexts": 0.02, "explanation": 0.012,
    "contexts x explanation": 0.004, "contexts x simulator": 0.006, "explanation x simulator": 0.003, "rest": 0.009,
}  # fmt: skip


def planted(generator: np.random.Generator, sets: int, f: int, c: int, e: int, s: int) -> np.ndarray:
    """[sets, f, c, e, s] with the planted variances; draws and samples are each feature's own."""
    sizes = {"f": f, "c": c, "e": e, "s": s}
    scores = np.full((sets, f, c, e, s), 0.5)
    for source, variance in PLANTED.items():
        shape = [sets] + [sizes[factor] if factor in SOURCES[source] else 1 for factor in "fces"]
        scores = scores + generator.normal(0, variance**0.5, shape)
    return scores


def test_one_factor_by_hand() -> None:
    # Two draws of three features: (1, 3), (5, 5), (6, 10). Means 2, 5, 8: MS(feature) = 2·18/2 = 18; within: (2 + 0 + 8)/3.
    found = components(np.array([[1.0, 3.0], [5.0, 5.0], [6.0, 10.0]]).reshape(1, 3, 2, 1, 1))
    assert set(found) == {"feature", "contexts"}
    assert found["contexts"][0] == pytest.approx(10 / 3)
    assert found["feature"][0] == pytest.approx((18 - 10 / 3) / 2)


def test_two_crossed_factors_by_hand() -> None:
    # Features × simulators ((1, 2), (3, 6)): grand mean 3; SS feature 2·(1.5² + 1.5²) = 9, simulator 2·(1² + 1²) = 4, rest 1.
    found = components(np.array([[1.0, 2.0], [3.0, 6.0]]).reshape(1, 2, 1, 1, 2))
    assert found["feature x simulator"][0] == pytest.approx(1)
    assert found["feature"][0] == pytest.approx((9 - 1) / 2)
    assert found["simulator"][0] == pytest.approx((4 - 1) / 2)


def test_the_estimates_are_unbiased() -> None:
    found = components(planted(np.random.default_rng(0), 600, 40, 2, 3, 3))
    for source, variance in PLANTED.items():
        error = found[source].std() / 600**0.5
        assert abs(found[source].mean() - variance) < 4 * error, source


def test_the_planted_components_are_recovered() -> None:
    found = reliability(planted(np.random.default_rng(1), 1, 2000, 2, 3, 2)[0], resamples=200)
    total = sum(variance for source, variance in PLANTED.items() if source != "simulator")
    for source, one in found.components.items():
        if source != "simulator":  # two simulators say little of how simulators differ
            assert one.share == pytest.approx(PLANTED[source] / total, abs=0.02), source
    assert found.icc.share == pytest.approx(0.05 / total, abs=0.02)
    mean = 0.05 + 0.008 / 2 + 0.02 / 2 + 0.012 / 3 + 0.004 / 6 + 0.006 / 4 + 0.003 / 6 + 0.009 / 12
    assert found.icc_mean.share == pytest.approx(0.05 / mean, abs=0.02)
    assert found.levels == (2000, 2, 3, 2)


def test_intervals_hold_the_true_share() -> None:
    generator = np.random.default_rng(2)
    total = sum(variance for source, variance in PLANTED.items() if source != "simulator")
    held = 0
    for seed in range(150):
        icc = reliability(planted(generator, 1, 100, 2, 3, 2)[0], seed=seed, resamples=300).icc
        held += icc.lo is not None and icc.hi is not None and icc.lo <= 0.05 / total <= icc.hi
    assert 0.88 <= held / 150 <= 0.99


def test_what_does_not_vary() -> None:
    scores = np.repeat(np.array([0.1, 0.5, 0.9]), 4).reshape(3, 2, 1, 2)
    found = reliability(scores, resamples=50)
    assert found.icc.share == pytest.approx(1) and found.components["contexts"].share == pytest.approx(0)
    assert found.components["explanation"].variance is None
    assert reliability(np.zeros((3, 2, 1, 2)), resamples=50).icc.share is None


@pytest.mark.parametrize("scores", [np.zeros((1, 2, 2, 2)), np.full((3, 2, 2, 2), np.nan), np.zeros((3, 2, 2))])
def test_gaps_are_refused(scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match="all defined"):
        reliability(scores)
