"""Specificity: ratings, their means by hand, and what is marked."""

import asyncio
import json
import re

import pytest

from autointerp.catalog.records import FeatureEvidence, Label
from autointerp.llm.types import Answer, Request
from autointerp.score import Judged, Means, ScoreRow
from autointerp.score.questions import MisalignedError
from autointerp.score.specificity import Specificity, rating, score_specificity
from autointerp.vocabulary import Vocabulary
from tests.score.builders import context, evidence

WORDS = [" a", " b", " yes"]
VOCABULARY = Vocabulary(WORDS, [word.encode() for word in WORDS])


def some() -> FeatureEvidence:
    """Two contexts of mass 1 in band 1, which has 60 windows, and two of mass 4 in band 2, which has 10."""
    found = [context(10 + n, 1, [0.0, 1.0, 0.2], tokens=[0, 2, 1]) for n in range(2)]
    found += [context(20 + n, 2, [3.0, 0.0, 1.0], tokens=[2, 0, 2]) for n in range(2)]
    return evidence([*found, context(1, 0, [0.0], tokens=[0])], {0: 100, 1: 60, 2: 10})


def rows(ratings: dict[int, int | None]) -> dict[str, ScoreRow]:
    judged = [Judged(window, "band", True, None, "ok" if value is not None else "failed", "no answer", value=value)
              for window, value in ratings.items()]  # fmt: skip
    return {row.metric: row for row in score_specificity(some(), judged, resamples=200)}


def test_means_by_hand() -> None:
    # Masses: 1.2 · 60/2 = 36 each, and 4 · 10/2 = 20 each. (36·0 + 36·1 + 20·3 + 20·2) / 112.
    got = rows({10: 0, 11: 1, 20: 3, 21: 2})
    assert got["rating_by_mass"].value == pytest.approx((36 + 60 + 40) / 112)
    assert got["rating"].value == 1.5 and got["share_of_3"].value == 0.25
    assert (got["rating_band_1"].value, got["rating_band_2"].value) == (0.5, 2.5)
    low, high = got["rating"].lo, got["rating"].hi
    assert low is not None and high is not None and low < 1.5 < high
    same = rows({10: 0, 11: 0, 20: 3, 21: 3})
    assert same["rating"].lo == same["rating"].hi == 1.5 and "nothing varies" in str(same["rating"].reason)


def test_failures_are_counted() -> None:
    got = rows({10: 0, 11: None, 20: None, 21: None})
    assert (got["rating"].value, got["rating"].n_ok, got["rating"].n_failed) == (0.0, 1, 3)
    assert got["rating_band_2"].status == "failed" and "all 2 contexts failed" in str(got["rating_band_2"].reason)
    assert {row.status for row in rows({10: None}).values() if row.metric != "rating_band_2"} == {"failed"}
    assert {row.status for row in score_specificity(evidence([], {}), [])} == {"undefined"}


def test_marks_stand_around_what_is_above_0_3_of_the_texts_maximum_and_ratings_are_kept() -> None:
    requests: list[Request] = []

    async def model(request: Request) -> Answer:
        requests.append(request)
        texts, asked = re.findall(r"<data (\w+)>\n(.*?)\n</data \1>", request.messages[1].content, re.DOTALL)
        lines = texts[1].split("\n")
        assert json.loads(asked[1])["question"] == "fit"
        assert sorted(line.split("|")[1] for line in lines) == [" a« yes» b"] * 2 + ["« yes» a« yes»"] * 2
        return Answer("key", json.dumps({"texts": [[n, n % 4] for n in range(1, len(lines) + 1)]}), "stop", "m")

    got = asyncio.run(Specificity()(Label("Yes", "the word yes"), some(), Means(VOCABULARY, model)))
    assert len(requests) == 1 and sorted(one.value for one in got.judged) == [0, 1, 2, 3]
    assert {one.window_id: one.marked for one in got.judged}[10] == [1]
    assert {one.answer for one in got.judged} == {None} and {one.status for one in got.judged} == {"ok"}


@pytest.mark.parametrize("entries", [[], [4], [-1], [1, 2], ["3"], [2.0], [True]])
def test_a_rating_is_a_whole_number_from_0_to_3(entries: list[object]) -> None:
    assert rating([], [3]) == 3
    with pytest.raises(MisalignedError, match="expected the text's number and 0 to 3"):
        rating([], entries)
