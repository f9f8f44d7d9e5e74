"""From alternatives to expected values: golden values by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.score.readings import (
    NUMBERS,
    arrays,
    is_worth_telling,
    mass_remark,
    read_numbers,
    with_ten,
)


def logs(**chance: float) -> dict[str, float]:
    """`_7=0.5`: the text 7 has that probability; other names are texts themselves."""
    return {name.removeprefix("_"): math.log(value) for name, value in chance.items()}


def test_a_truncated_reading_counts_what_is_there() -> None:
    """0, 3 and 10 are among the 15, with 0.3, 0.2 and 0.1; the rest is on other words: (0.2·3 + 0.1·10) / 0.6."""
    read = read_numbers(logs(_0=0.3, _3=0.2, _10=0.1, unknown=0.25, the=0.1))
    assert read.expected == pytest.approx(1.6 / 0.6)
    assert read.mass == pytest.approx(0.6)


def test_no_number_among_the_likeliest_is_zero_and_has_no_mass() -> None:
    read = read_numbers(logs(unknown=0.9, the=0.05))
    assert (read.expected, read.mass) == (0.0, 0.0)
    assert read_numbers({}).expected == 0.0


def test_truncation_changes_the_value() -> None:
    """The sixteenth token is the 10, with 0.01 where the others' numbers have 0.02: it is lost, as published."""
    full = logs(_0=0.02, _10=0.01)
    assert read_numbers(full).expected == pytest.approx(10 / 3)
    assert read_numbers({"0": full["0"]}).expected == 0.0


@given(st.lists(st.floats(-30, 5), min_size=11, max_size=11))
def test_the_exact_reading_is_the_softmax_over_eleven(scores: list[float]) -> None:
    total = math.log(sum(map(math.exp, scores))) + 1  # some probability is elsewhere
    read = read_numbers({text: score - total for text, score in zip(NUMBERS, scores, strict=True)})
    weights = np.exp(np.array(scores) - max(scores))
    assert read.expected == pytest.approx(float(weights @ np.arange(11) / weights.sum()), abs=1e-9)
    assert read.mass == pytest.approx(math.exp(-1))


@pytest.mark.parametrize("text", [" 7", "07", "7.0", "11", "-1", "seven", "７"])
def test_only_the_numbers_themselves_count(text: str) -> None:
    assert read_numbers({text: -0.1}).mass == 0.0


def test_ten_as_one_token_leaves_one_alone_and_as_two_is_taken_from_it() -> None:
    """p("1") = 0.5 of which p("0" | "1") = 0.4 is 10: 1 has 0.3, 10 has 0.2, and 0 has 0.5: 0.3 + 2."""
    split = with_ten(logs(_0=0.5, _1=0.5), math.log(0.4))
    assert split["10"] == pytest.approx(math.log(0.2))
    assert read_numbers(split, ten_in_one=True).expected == pytest.approx(2.3)
    assert read_numbers(split, ten_in_one=True).mass == pytest.approx(1.0)
    whole = logs(_0=0.3, _1=0.5, _10=0.2)
    assert read_numbers(whole).expected == pytest.approx(2.5)


def test_ten_is_asked_for_where_it_could_matter() -> None:
    """With 0.001 of 1 the value could change by 0.009: too little for a reading that leaves more than that out."""
    assert is_worth_telling(logs(_0=0.98, _1=0.01), "bills23")
    assert not is_worth_telling(logs(_0=0.99, _1=0.001), "bills23")
    assert is_worth_telling(logs(_0=0.99, _1=0.001), "exact")
    assert not is_worth_telling(logs(_0=0.99, _1=9e-6), "exact")
    assert not is_worth_telling(logs(_0=0.5, _1=0.3, _10=0.1), "exact")
    assert not is_worth_telling(logs(_0=0.5, _2=0.3), "exact")
    assert is_worth_telling(logs(_1=1e-6, unknown=0.99), "bills23")  # little mass, but all of it


def test_a_context_with_little_mass_is_remarked_on() -> None:
    _, mass = arrays([read_numbers(logs(_0=0.6)), read_numbers(logs(_3=0.1, unknown=0.9))])
    assert mass_remark(mass) == "low mass: 35 % of the probability is on numbers, at token 1 10 %"
    assert mass_remark(np.array([0.5, 0.9], np.float32)) is None


def test_values_stay_within_the_scale() -> None:
    expected, _ = arrays([read_numbers({"10": 1e-9})])
    assert expected.dtype == np.float32 and float(expected[0]) <= 10
