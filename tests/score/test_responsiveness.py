"""The scorer `responsiveness`: ratings by hand, and how it asks."""

import asyncio
import json
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from autointerp.catalog.records import Context, Label
from autointerp.llm.types import Answer, Request
from autointerp.score import Judged, Means, metrics, scorers
from autointerp.score.questions import MisalignedError
from autointerp.score.responsiveness import Responsiveness, rating, score_responsiveness
from autointerp.vocabulary import Vocabulary
from tests.score.asked import asked_in
from tests.score.builders import context, evidence

WORDS = [" a", " b", " c"]
VOCABULARY = Vocabulary(WORDS, [word.encode() for word in WORDS])
SIZES = {0: 80, 1: 20}


def contexts() -> list[Context]:
    """Peaks: silent windows 0, 0, 0, 0; active ones 2, 4."""
    return [
        *[context(number, 0, [0.0, 0.0], tokens=[0, 0]) for number in range(4)],
        context(10, 1, [2.0, 0.0], tokens=[1, 0]), context(11, 1, [4.0, 0.0], tokens=[2, 0]),
    ]  # fmt: skip


def rated(*ratings: int | None) -> list[Judged]:
    return [
        Judged(one.window_id, one.kind, one.peak > 0, None, "failed", "why")
        if given is None
        else Judged(one.window_id, one.kind, one.peak > 0, given == 2, "ok", value=given)
        for one, given in zip(contexts(), ratings, strict=True)
    ]


def scores(*ratings: int | None) -> dict[str, Any]:
    found = score_responsiveness(evidence(contexts(), SIZES), rated(*ratings), resamples=200)
    return {row.metric: row for row in found}


def test_the_scores_by_hand() -> None:
    # Rated 2: a silent window and the one of peak 4. Rated 0: two silent ones and the one of peak 2. Rated 1: a silent one.
    found = scores(2, 0, 0, 1, 0, 2)
    # Balanced: silent windows weigh 1/4, active ones 1/2. Pairs of 2 against 0: the silent 2 ties with the two silent 0
    # (1/4 · 1/2 · ½) and loses to the active 0; the active 2 beats all. 1/16 + 1/2 · (1/2 + 1/2), of 3/4 · 1.
    assert found["responsiveness_balanced"].value == pytest.approx((1 / 16 + 1 / 2) / (3 / 4))
    # Corpus: silent 20, active 10 each. (20 · 40 / 2 + 10 · 50) of 30 · 50.
    assert found["responsiveness_corpus"].value == pytest.approx((400 + 500) / 1500)
    # Purity, corpus: at 4: 10 of 10; at 2: nothing new; at 0: 30 of 10 + 10 + 60. (10 · 1 + 20 · 30/80) / 30.
    assert found["purity_corpus"].value == pytest.approx((10 + 20 * 30 / 80) / 30)
    assert found["purity_balanced"].value == pytest.approx((1 / 2 + 1 / 4 * (3 / 4) / (7 / 4)) / (3 / 4))
    assert found["named"].value == pytest.approx(30 / 100) and found["doubtful"].value == pytest.approx(20 / 100)
    assert {row.n_ok for row in found.values()} == {6} and found["named"].lo <= 0.3 <= found["named"].hi
    assert found["purity_corpus"].lo is None  # with two contexts a side many resamples hold none rated 2


def test_what_cannot_be_had_has_a_reason() -> None:
    none = scores(0, 0, 1, 0, 0, 1)
    assert (none["responsiveness_corpus"].value, none["purity_corpus"].value, none["named"].value) == (None, None, 0.0)
    assert none["purity_corpus"].reason == "no text is rated 2"
    assert scores(2, 2, 1, 2, 2, 2)["responsiveness_balanced"].reason == "no text is rated 0"
    without = scores(None, None, None, None, 2, 0)
    assert without["purity_corpus"].value is None and "no silent context" in without["purity_corpus"].reason
    assert (without["purity_corpus"].n_ok, without["purity_corpus"].n_failed) == (2, 4)
    failed = scores(*[None] * 6)
    assert {row.status for row in failed.values()} == {"failed"} and "all 6 contexts failed" in failed["named"].reason


def test_both_measures_are_those_of_sklearn() -> None:
    generator = np.random.default_rng(0)
    values, truth = generator.integers(0, 8, 60).astype(float), generator.random(60) < 0.4
    weights = generator.random((3, 60))
    for row, found, area in zip(
        weights, metrics.auprc(values, truth, weights), metrics.auroc(values, truth, weights), strict=True
    ):
        assert found == pytest.approx(average_precision_score(truth, values, sample_weight=row))
        assert area == pytest.approx(roc_auc_score(truth, values, sample_weight=row))


def test_a_model_is_asked_in_the_words_of_the_other_questions() -> None:
    requests: list[Request] = []

    async def model(request: Request) -> Answer:
        requests.append(request)
        answer = [[number, 2 if " c" in tokens else 0] for number, tokens in asked_in(request).texts.items()]
        return Answer("key", json.dumps({"texts": answer}), "stop", "m")

    found = asyncio.run(
        Responsiveness(resamples=100)(Label("", "the letter c"), evidence(contexts(), SIZES), Means(VOCABULARY, model))
    )
    assert [asked_in(request).question for request in requests] == ["rating"]
    assert [(one.window_id, one.answer, one.value) for one in found.judged][-1] == (11, True, 2)
    assert {row.metric: row.value for row in found.rows}["responsiveness_corpus"] == 1.0
    assert scorers.get("responsiveness").wants.model


def test_ratings() -> None:
    assert [rating([], [value]) for value in (0, 1, 2)] == [0, 1, 2]
    for wrong in ([3], [-1], [True], [1.0], [], [1, 1], ["2"]):
        with pytest.raises(MisalignedError, match="0, 1 or 2"):
            rating([], wrong)
