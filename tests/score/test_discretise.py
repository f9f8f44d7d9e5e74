import numpy as np
import pytest

from autointerp.score.discretise import discretise


def test_edges_worked_by_hand() -> None:
    # M = 4. 10·a/M: 0, 0.99…, 1, 2.5, 9.99…, 10; and above M, which a shown-scale maximum would allow, still 10.
    values = np.array([0.0, 0.399999, 0.4, 1.0, 3.999999, 4.0, 9.0])
    assert discretise(values, 4.0).tolist() == [0, 0, 1, 2, 9, 10, 10]


def test_negative_values_count_as_silent() -> None:
    assert discretise(np.array([-3.0, -1e-9, 2.0]), 2.0).tolist() == [0, 0, 10]


@pytest.mark.parametrize("maximum", [0.0, -1.0])
def test_a_feature_that_never_fires_is_zero_throughout(maximum: float) -> None:
    assert discretise(np.array([[0.0, 5.0], [1.0, 0.0]]), maximum).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(("values", "maximum"), [([np.nan], 1.0), ([np.inf], 1.0), ([1.0], np.nan), ([1.0], np.inf)])
def test_what_is_not_finite_is_refused(values: list[float], maximum: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        discretise(np.array(values), maximum)


def test_float32_activations_reach_ten_at_their_own_maximum() -> None:
    values = np.array([0.1, 7.3, 1e-30, 3e30], dtype=np.float32)
    for value in values:
        assert discretise(np.array([value]), float(value)).tolist() == [10]
