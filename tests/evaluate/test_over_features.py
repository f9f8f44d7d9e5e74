"""Statistics over features, by hand and on nothing."""

import numpy as np
import pytest

from autointerp.evaluate.over_features import agreement, false_discoveries, paired, unpaired


def test_benjamini_and_hochberg_by_hand() -> None:
    # 4 tests: 0.01·4/1, 0.03·4/2, 0.04·4/3 = 0.0533, 0.5; the third is below the second's 0.06, so both get it.
    found = false_discoveries(np.array([0.03, 0.01, 0.5, 0.04]))
    assert found == pytest.approx([0.16 / 3, 0.04, 0.5, 0.16 / 3])
    assert len(false_discoveries(np.array([]))) == 0


def test_false_discoveries_are_as_rare_as_promised() -> None:
    generator = np.random.default_rng(0)
    shares = []
    for _ in range(200):
        null, real = generator.random(90), generator.random(10) * 1e-4
        found = false_discoveries(np.concatenate([null, real])) <= 0.05
        shares.append(found[:90].sum() / max(1, found.sum()))
    assert np.mean(shares) <= 0.06


def test_paired_by_hand() -> None:
    found = paired(np.array([0.1, 0.2, 0.3, -0.1, 0.0, 0.4]), seed=1)
    assert (found.n, found.positive, found.negative) == (6, 4, 1)
    assert found.mean.value == pytest.approx(0.15) and found.median.value == pytest.approx(0.15)
    assert found.sign_p == pytest.approx(2 * (1 + 5) / 32)  # 4 or more of 5 the same way
    assert found.mean.lo is not None and found.mean.hi is not None and found.mean.lo < 0.15 < found.mean.hi


def test_no_difference_at_all() -> None:
    found = paired(np.zeros(5), seed=0)
    assert (found.mean.value, found.mean.lo, found.sign_p, found.wilcoxon_p) == (0.0, 0.0, None, None)


def test_intervals_over_features_hold_the_mean() -> None:
    generator = np.random.default_rng(4)
    held = 0
    for seed in range(200):
        found = paired(generator.normal(0.3, 1, 40), seed).mean
        held += found.lo is not None and found.hi is not None and found.lo <= 0.3 <= found.hi
    assert 0.89 <= held / 200 <= 0.985


def test_agreement() -> None:
    first = np.arange(30.0)
    same, other = agreement(first, first**3, 0), agreement(first, -first, 0)
    assert (same.spearman.value, same.kendall.value) == (pytest.approx(1), pytest.approx(1))
    assert other.kendall.value == pytest.approx(-1)
    assert agreement(first, np.zeros(30), 0).spearman.value is None
    for n in (
        6,
        100_000,
    ):  # a third of the resamples or nearly all of them hold no variation: no interval of those that do
        alone = agreement(np.arange(n) * 1.0, (np.arange(n) == n - 2) * 1.0, 0).spearman
        assert alone.value is not None and alone.lo is alone.hi is None
    swapped = agreement(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 4.0]), 0)
    assert swapped.kendall.value == pytest.approx((5 - 1) / 6)


def test_intervals_of_rank_correlations_of_many_features_are_as_wide_as_they_should_be() -> None:
    """Of 18,000 independent pairs: τ has the variance 2(2n + 5) / 9n(n − 1), ρ 1/(n − 1); drawn are 2,000 at a time."""
    n, generator = 18_000, np.random.default_rng(3)
    found = agreement(generator.random(n), generator.random(n), 0)
    for one, variance in ((found.kendall, 2 * (2 * n + 5) / (9 * n * (n - 1))), (found.spearman, 1 / (n - 1))):
        assert one.value is not None and one.lo is not None and one.hi is not None and one.lo < one.value < one.hi
        assert one.hi - one.lo == pytest.approx(3.92 * variance**0.5, rel=0.12)


def test_two_groups() -> None:
    found = unpaired(np.array([3.0, 4.0, 5.0]), np.array([1.0, 2.0, 3.0]), 0)
    assert found.above == pytest.approx(8.5 / 9) and found.difference.value == 2.0 and found.n == (3, 3)
