"""The published protocols of Paulo et al. 2024: what is shown, and the metrics as they count."""

import asyncio
import json
import re
from collections.abc import Sequence

import numpy as np
import pytest

from autointerp.catalog.records import Context, FeatureEvidence, Label
from autointerp.llm.types import Answer, Request
from autointerp.score import Judged, Means, scorers
from autointerp.score.delphi24 import Delphi24, examples, score_delphi
from autointerp.score.evidence_controls import chance, of_verdicts
from autointerp.vocabulary import Vocabulary
from tests.score.builders import context, evidence

WORDS = [" a", " b", " yes", "\n"]
VOCABULARY = Vocabulary(WORDS, [word.encode() for word in WORDS])
LABEL = Label("Yes", "the word 'yes'")


def firing(window: int, band: int, at: dict[int, float], length: int = 100) -> Context:
    tokens = [2 if place in at else place % 2 for place in range(length)]
    return context(window, band, [at.get(place, 0.0) for place in range(length)], tokens=tokens)


def some(active: int = 10, silent: int = 7) -> FeatureEvidence:
    found = [firing(100 + n, 1 + n % 5, {40: 5.0, 41: 1.4, 50: 1.6, 70: 2.0}) for n in range(active)]
    found += [context(n, 0, [0.0] * 100, tokens=[0] * 100) for n in range(silent)]
    return evidence(found, {0: 50, **dict.fromkeys(range(1, 6), 50)})


def test_texts_are_cut_by_the_grid_and_marks_are_from_0_3_of_the_texts_own_maximum() -> None:
    found = examples(some(), True)
    assert len(found) == 17 and {len(one.cut.tokens) for one in found} == {32}
    active = [one for one in found if one.active]
    assert {one.cut.begin for one in active} == {32}  # the peak is at 40
    assert all(one.places == [8, 18] for one in active)  # 5.0 and 1.6, not 1.4
    assert {one.cut.begin % 32 for one in found} == {0}
    assert not any(one.places for one in examples(some(), False))


def test_wrong_marks_are_as_many_as_active_tokens_on_the_average_at_other_places_in_each_text() -> None:
    # Three tokens of each active text are active, and two are marked: so it is published, and so the count tells them apart.
    wrong = [one for one in examples(some(), True) if not one.active]
    assert {len(one.places) for one in wrong} == {3}
    assert len({tuple(one.places) for one in wrong}) > 1


def test_at_most_fifty_of_each() -> None:
    found = examples(some(80, 70), False)
    assert sum(one.active for one in found) == sum(not one.active for one in found) == 50
    bands = [one.cut.context.band for one in found if one.active]
    assert [bands.count(band) for band in range(1, 6)] == [10] * 5


class Model:
    """Says 1 where a text holds the word, or the marks are on it. `spoil` changes its answers."""

    def __init__(self, spoil: dict[int, str] | None = None) -> None:
        self.requests: list[Request] = []
        self.spoil = spoil or {}

    async def __call__(self, request: Request) -> Answer:
        number = len(self.requests)
        self.requests.append(request)
        texts, asked = re.findall(r"<data (\w+)>\n(.*?)\n</data \1>", request.messages[1].content, re.DOTALL)
        lines = texts[1].split("\n")
        assert [line.split(":")[0] for line in lines] == [f"Example {at}" for at in range(len(lines))]
        word = " yes»" if "marks" in json.loads(asked[1]) else " yes"
        said = json.dumps({"answers": [int(word in line) for line in lines]})
        return Answer("key", self.spoil.get(number, said), "stop", "m")


@pytest.mark.parametrize("name", ["delphi24_detection", "delphi24_fuzz"])
def test_five_a_request_and_the_rest(name: str) -> None:
    model = Model()
    got = asyncio.run(scorers.get(name)(LABEL, some(), Means(VOCABULARY, model)))
    rows = {row.metric: row for row in got.rows}
    assert [request.messages[1].content.count("\nExample ") for request in model.requests] == [5, 5, 5, 2]
    assert rows["balanced_accuracy"].value == rows["f1"].value == 1.0 and rows["balanced_accuracy"].n_ok == 17
    assert rows["auroc"].value is None and "score.logprobs" in str(rows["auroc"].reason)
    assert all((one.marked is not None) == (name == "delphi24_fuzz") for one in got.judged)
    assert {one.item for one in got.judged} == {0, 1, 2, 3}


def test_an_answer_of_another_length_is_asked_for_once_more_and_then_all_five_are_failed() -> None:
    short = json.dumps({"answers": [1]})
    good = asyncio.run(Delphi24("delphi24_detection", False)(LABEL, some(5, 0), Means(VOCABULARY, Model({0: short}))))
    assert {one.status for one in good.judged} == {"ok"}
    bad = asyncio.run(
        Delphi24("delphi24_detection", False)(LABEL, some(), Means(VOCABULARY, Model(dict.fromkeys(range(99), short))))
    )
    assert {one.reason for one in bad.judged} == {
        "malformed: 1 answers for 5 examples", "malformed: 1 answers for 2 examples"}  # fmt: skip
    assert {(row.status, row.n_failed) for row in bad.rows} == {("failed", 17)}


def judged(right: Sequence[bool], wrong: Sequence[bool]) -> list[Judged]:
    return [*(Judged(100 + n, "band", True, said, "ok") for n, said in enumerate(right)),
            *(Judged(n, "silent", False, said, "ok") for n, said in enumerate(wrong))]  # fmt: skip


def test_every_verdict_counts_once_and_chance_stands_beside() -> None:
    # 8 active: 6 found. 4 silent: 1 false alarm. TPR 3/4, TNR 3/4; precision 6/7; F1 12/15; accuracy 9/12.
    given = judged([True] * 6 + [False] * 2, [True, False, False, False])
    rows = {row.metric: row.value for row in score_delphi(some(), given, "delphi24_detection", resamples=200)}
    assert (rows["balanced_accuracy"], rows["recall"], rows["false_alarms"]) == (0.75, 0.75, 0.25)
    assert rows["precision"] == pytest.approx(6 / 7) and rows["f1"] == pytest.approx(12 / 15)
    assert rows["accuracy"] == pytest.approx(9 / 12)
    assert rows["accuracy_chance"] == pytest.approx(8 / 12)  # always yes
    always = score_delphi(some(), judged([True] * 8, [True] * 4), "delphi24_detection", resamples=200)
    found = {row.metric: row.value for row in always}
    assert found["f1"] == pytest.approx(rows["f1_chance"]) == pytest.approx(0.8)
    assert found["accuracy"] == rows["accuracy_chance"] and found["balanced_accuracy"] == 0.5


def test_a_short_window_is_not_shown_where_others_are_whole() -> None:
    found = some().contexts
    short = context(999, 0, [0.0], tokens=[3])
    shown = examples(evidence([*found, short], {0: 50, **dict.fromkeys(range(1, 6), 50)}), False)
    assert 999 not in {one.cut.context.window_id for one in shown}
    assert np.all([len(one.cut.tokens) == 32 for one in shown])


def test_controls_are_of_metrics_that_do_not_depend_on_the_share_of_active_texts() -> None:
    given, scorer = judged([True] * 6 + [False] * 2, [True, False, False, False]), Delphi24("delphi24_fuzz", True)
    for control, rows in of_verdicts(scorer, some(), given, 0).items():
        values = {row.metric: row.value for row in rows}
        assert values.keys() == {"balanced_accuracy", "recall", "false_alarms", "auroc"}
        if control != "permuted_across":
            assert all(chance(metric, control) == value for metric, value in values.items())
