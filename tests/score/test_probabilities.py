"""Probabilities of verdicts: worked by hand, for the ways in which tokenizers cut an answer."""

import math

import pytest

from autointerp.llm.types import TokenLogprobs
from autointerp.score.probabilities import list_places, verdict_places, yes_probabilities


def tokens(*parts: tuple[str, dict[str, float]]) -> list[TokenLogprobs]:
    """Each with the probabilities of the likeliest in its place."""
    return [
        TokenLogprobs(text, math.log(top.get(text, 1.0)), {one: math.log(value) for one, value in top.items()})
        for text, top in parts
    ]


def test_p1_over_p0_and_p1() -> None:
    given = tokens(
        ('{"texts": [[', {}), ("1", {}), (", ", {}), ("1", {"1": 0.6, "0": 0.2, "2": 0.2}), ("], [", {}), ("2", {}), (",", {}),
        (" 0", {" 0": 0.9, " 1": 0.06, " [": 0.04}), ("]]}", {}),
    )  # fmt: skip
    text = "".join(one.token for one in given)
    assert verdict_places(text) == {1: text.index(", 1") + 2, 2: text.index(" 0") + 1}
    found = yes_probabilities(text, verdict_places(text), given)
    assert found == {1: pytest.approx(0.6 / 0.8), 2: pytest.approx(0.06 / 0.96)}


def test_a_digit_in_a_longer_token_and_several_tokens_for_one_digit() -> None:
    given = tokens(("[[3", {}), (",1]", {",1]": 0.5, ",0]": 0.3, ",1": 0.1, "]": 0.1}), ("]", {}))
    text = "[[3,1]]"
    assert yes_probabilities(text, verdict_places(text), given) == {3: pytest.approx(0.6 / 0.9)}


def test_what_is_not_among_the_alternatives_is_impossible_and_the_written_token_always_counts() -> None:
    given = [*tokens(("[1,", {})), TokenLogprobs("1", math.log(0.01), {"x": math.log(0.5)}), *tokens(("]", {}))]
    assert yes_probabilities("[1,1]", verdict_places("[1,1]"), given) == {1: 1.0}


def test_tokens_of_another_text_tell_nothing_and_text_around_the_answer_does_not_matter() -> None:
    given = tokens(("[1,", {}), ("0", {"0": 0.75, "1": 0.25}), ("]", {}))
    assert yes_probabilities("[1, 0]", verdict_places("[1, 0]"), given) == {}
    assert yes_probabilities("[1,0]", verdict_places("[1,0]"), tokens((" \n", {})) + given) == {1: 0.25}
    assert yes_probabilities("", {}, given) == {}


def test_places_in_a_list() -> None:
    text = 'I see [2, 3]. {"answers": [1, 0,1]}'
    assert [text[at] for at in list_places(text).values()] == ["1", "0", "1"] and list(list_places(text)) == [0, 1, 2]
    assert list_places("none") == {}
