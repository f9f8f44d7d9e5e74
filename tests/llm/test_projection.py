"""From a sample to a stage: golden values worked by hand."""

import math
from dataclasses import dataclass

import pytest

from autointerp.llm.price import FREE, LongPrompts, Price
from autointerp.llm.types import Answer, Message, Request
from autointerp.projection import Asked, Billing, Range, project

PRICE = Price(input=2.0, output=10.0, cached_input=0.5, cache_write=2.5, batch=0.5, cache_from=100)


@dataclass(frozen=True)
class Known:
    replies: int
    tokens_per_char: float | None
    mean_output: float
    p95_output: float


def billing(price: Price | None = PRICE, provider: str = "openai", caches: bool = False, **known: Known) -> Billing:
    return Billing(provider, "m", price, known, caches)


def asked(chars: int, answer: int = 30, max_tokens: int = 100, known: bool = False, start: str = "") -> Asked:
    return Asked("explain", start.ljust(chars, "x"), max_tokens, answer, known)


def test_a_request_as_it_is_counted() -> None:
    request = Request([Message("system", "abc"), Message("user", "dé")], max_tokens=9, purpose="simulate")
    assert Asked.of(request, Answer("k", "four", "stop", "m")) == Asked("simulate", "abcdé", 9, 4, False)
    scored = Request([Message("user", "ab")], max_tokens=9, continuation="cd", purpose="simulate")
    assert Asked.of(scored, Answer("k", "cd", "stop", "m", from_journal=True)) == Asked("simulate", "abcd", 0, 0, True)


def test_all_features_are_the_sample() -> None:
    row = project("explain", "x", billing(), 2, [[asked(300)], [asked(600), asked(90, known=True)]])
    assert (row.requests, row.known, row.chars, row.sampled, row.features) == (2, 1, 900, 2, 2)
    assert row.input == Range(300, 450) and row.output == Range(20, 200) and row.cached == 0
    assert row.money == Range(pytest.approx((300 * 2 + 20 * 10) / 1e6), pytest.approx((450 * 2.5 + 200 * 10) / 1e6))
    assert row.batch == Range(row.money.expected / 2, row.money.most / 2)
    assert not row.calibrated


def test_a_sample_is_scaled_and_its_error_is_added_to_the_bound() -> None:
    row = project("score", "x", billing(), 8, [[asked(300)], [asked(600)]])
    assert (row.requests, row.chars) == (8, 3600)
    # Bounds of input: 150 and 300 tokens; standard deviation 150/√2, of the mean 75, times √(1 − 2/8).
    assert row.input == Range(1200, pytest.approx((225 + 2 * 75 * math.sqrt(0.75)) * 8))
    assert row.output == Range(80, 800)  # the same for all: no error


def test_earlier_answers_come_before_rules_of_thumb() -> None:
    known = Known(replies=10, tokens_per_char=0.4, mean_output=25, p95_output=140)
    row = project("explain", "x", billing(explain=known), 1, [[asked(300)]])
    assert row.input == Range(120, 120) and row.output == Range(25, 100) and row.calibrated
    tail = project(
        "explain", "x", billing(explain=Known(10, 0.4, 25, 20)), 1, [[asked(300)]]
    )  # a few very long answers
    assert tail.output == Range(25, 25)
    few = project("explain", "x", billing(explain=Known(9, 0.4, 25, 140)), 1, [[asked(300)]])
    assert few.input == Range(100, 150) and not few.calibrated
    without = project("explain", "x", billing(explain=Known(99, None, 25, 60)), 1, [[asked(300)]])
    assert without.input == Range(100, 150) and without.output == Range(25, 60)


def test_what_prompts_share_is_cached_where_it_is_long_enough() -> None:
    trial = [[asked(900, start="s" * 600 + "a")], [asked(900, start="s" * 600 + "b")]]
    row = project("explain", "x", billing(caches=True), 4, trial)
    assert row.input.expected == 1200 and row.cached == 600  # 200 tokens in three requests of four
    assert row.money is not None
    assert row.money.expected == pytest.approx((400 * 2 + 600 * 0.5 + 200 * 2.5 + 40 * 10) / 1e6)
    assert project("explain", "x", billing(), 4, trial).cached == 0
    dear = Price(2.0, 10.0, 0.5, 2.5, cache_from=201)
    assert project("explain", "x", billing(dear, caches=True), 4, trial).cached == 0
    assert project("explain", "x", billing(caches=True), 1, trial[:1]).cached == 0


def test_money_that_is_not_known_and_money_that_is_not_asked() -> None:
    row = project("explain", "x", billing(None), 1, [[asked(300)]])
    assert (row.money, row.batch, row.requests) == (None, None, 1)
    free = project("explain", "x", billing(FREE), 1, [[asked(300)]])
    assert (free.money, free.batch) == (Range(0, 0), None)
    batched = project("explain", "x", billing(provider="openai-batch"), 1, [[asked(300)]])
    assert batched.money == batched.batch


def test_a_long_prompt_is_one_request_and_not_their_sum() -> None:
    price = Price(1.0, 1.0, 1.0, 1.0, long=LongPrompts(150, 3.0, 3.0))
    row = project("explain", "x", billing(price), 10, [[asked(300, answer=0, max_tokens=0)]])
    assert row.money == Range(pytest.approx(1000 / 1e6), pytest.approx(1500 / 1e6))
    longer = project("explain", "x", billing(price), 10, [[asked(330, answer=0, max_tokens=0)]])
    assert longer.money == Range(pytest.approx(1100 / 1e6), pytest.approx(3 * 1650 / 1e6))


def test_nothing_to_do() -> None:
    row = project("explain", "x", billing(), 0, [])
    assert (row.requests, row.input, row.money) == (0, Range(0, 0), Range(0, 0))
