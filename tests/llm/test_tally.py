"""Sums and histograms: worked by hand, bulk against one by one, and independent of the order."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.llm import Calibration, Entry, Usage
from autointerp.llm.tally import Histogram, Tallies
from tests.llm.entries import entry

COUNTS = st.one_of(st.just(0), st.integers(0, 40), st.integers(0, 10**9))
REPLIES = st.builds(
    lambda purpose, model, finish, usage, latency, money, chars: entry(
        "a", purpose=purpose, model=model, finish=finish, usage=Usage(*usage), latency_s=latency, money=money,
        prompt_chars=chars,
    ),
    st.sampled_from(["explain", "simulate"]), st.sampled_from(["m", "n"]),
    st.sampled_from(["stop", "length", "duplicate"]), st.tuples(COUNTS, COUNTS, COUNTS, COUNTS),
    st.floats(0, 1e5), st.one_of(st.none(), st.floats(0, 1e3)), COUNTS,
)  # fmt: skip


@given(st.lists(REPLIES, max_size=20), st.randoms())
def test_bulk_is_as_one_by_one_in_any_order(replies: list[Entry], chance: random.Random) -> None:
    one, many = Tallies(), Tallies()
    for reply in replies:
        one.add(reply)
    shuffled = chance.sample(replies, len(replies))
    cut = len(replies) // 3
    many.add_many(shuffled[:cut])
    many.add_many(shuffled[cut:])
    assert one.spend() == many.spend() and one.money() == many.money()
    assert one.calibration("m") == many.calibration("m")
    assert sum(row.replies for row in one.spend()) == len(replies)
    assert sum(row.failed for row in one.spend()) == sum(reply.finish == "length" for reply in replies)
    assert one.money() == pytest.approx(math.fsum(reply.money or 0 for reply in replies), abs=1e-9)


def test_calibration_by_hand() -> None:
    tallies = Tallies()
    tallies.add_many([
        entry("a", usage=Usage(100, 10), prompt_chars=400),
        entry("b", usage=Usage(200, 12), prompt_chars=600, provider="anthropic"),
        entry("c", usage=Usage(999, 20)),  # prompt_chars was not recorded: it says nothing of tokens a character
        entry("d", usage=Usage(), prompt_chars=5000),  # the server counted no tokens
        entry("e", usage=Usage(50, 8), purpose="simulate", finish="length"),
        entry("f", usage=Usage(50, 8), model="other"),
    ])  # fmt: skip
    assert tallies.calibration("m") == {
        "explain": Calibration(replies=4, tokens_per_char=300 / 1000, mean_output=14.0, p95_output=20),
        "simulate": Calibration(replies=1, tokens_per_char=None, mean_output=8.0, p95_output=8),
    }
    assert tallies.calibration("unknown") == {}


def test_money_of_none_some_and_all() -> None:
    tallies = Tallies()
    tallies.add_many(
        [entry("a"), entry("b", model="n"), entry("c", model="n", money=0.5), entry("d", model="o", money=0.0)]
    )
    assert [(row.model, row.money, row.n_unpriced) for row in tallies.spend()] == [
        ("m", None, 1), ("n", 0.5, 1), ("o", 0.0, 0),
    ]  # fmt: skip
    assert tallies.money() == 0.5


@given(st.lists(st.integers(0, 10**8), min_size=1, max_size=50), st.sampled_from([0.5, 0.95, 1.0]))
def test_a_quantile_is_at_most_5_percent_high(values: list[int], share: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = sorted(values)[math.ceil(share * len(values)) - 1]
    found = histogram.quantile(share)
    assert found >= exact
    assert found <= exact * 1.05 or exact > 2**24  # beyond the last edge there is one bin


def test_small_numbers_are_exact_and_nothing_is_zero() -> None:
    assert Histogram().quantile(0.5) == 0
    for value in range(20):
        histogram = Histogram()
        histogram.add(value)
        assert histogram.quantile(0.5) == histogram.quantile(1.0) == value
