"""The published protocol of SAEBench: always "none" is right in 10 of 14."""

import asyncio
import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from autointerp.catalog.records import FeatureEvidence, Label
from autointerp.llm.types import Answer, Request
from autointerp.score import Judged, Means, ScoreRow
from autointerp.score.evidence_controls import chance, of_verdicts
from autointerp.score.saebench25 import Saebench25, score_saebench, windows
from autointerp.vocabulary import Vocabulary
from tests.score.builders import context, evidence

WORDS = [" a", " b", " yes"]
VOCABULARY = Vocabulary(WORDS, [word.encode() for word in WORDS])
LABEL = Label("Yes", "the word yes")


def firing(window: int, value: float, kind: str, band: int, at: int = 30) -> object:
    return context(window, band, [value * (place == at) for place in range(60)], kind=kind,
                   tokens=[2 if place == at else place % 2 for place in range(60)])  # fmt: skip


def some(top: int = 15, band: int = 6, random: int = 20) -> FeatureEvidence:
    found = [firing(100 + n, 50.0 + n, "top", 2) for n in range(top)]
    found += [firing(200 + n, 1.0 + n, "band", 1) for n in range(band)]
    found += [firing(300 + n, 60.0, "band", 2) for n in range(2)]
    found += [context(n, 0, [0.0] * 60, kind="random", tokens=[0, 1] * 30) for n in range(random)]
    return evidence(found, {0: 500, 1: 60, 2: 10}, maximum=70.0)  # type: ignore[arg-type]


def test_two_strong_two_weaker_and_ten_random_windows_of_21_tokens() -> None:
    shown = windows(some())
    assert Counter(cut.context.kind for cut in shown) == {"top": 2, "band": 2, "random": 10}
    assert {len(cut.tokens) for cut in shown} == {21} and len({cut.context.window_id for cut in shown}) == 14
    peaks = [int(cut.activations.argmax()) for cut in shown if cut.context.kind != "random"]
    assert peaks == [10] * 4
    kinds = [cut.context.kind for cut in shown]
    assert kinds != sorted(kinds) and [cut.context.window_id for cut in windows(some())] == [
        cut.context.window_id for cut in shown
    ]


def test_a_strong_window_that_is_in_the_sample_of_a_band_too_is_shown_once() -> None:
    given = some(top=2, band=2)  # few, so that both kinds are drawn of the same windows
    twins = [firing(100 + n, 50.0 + n, "band", 1) for n in range(2)]
    for twin in twins:
        twin.activations[5] = 40.0  # type: ignore[attr-defined] - weaker than the strongest, so it could be drawn
    both = evidence([*given.contexts, *twins], {0: 500, 1: 60, 2: 10}, maximum=70.0)  # type: ignore[list-item]
    for seed in range(20):
        shown = [cut.context.window_id for cut in windows(both, seed)]
        assert len(shown) == len(set(shown)) == 14 and {100, 101, 200, 201} <= set(shown)


def test_it_is_asked_about_the_same_windows_whatever_others_want() -> None:
    """Another scorer that wants more random windows has them read for all."""
    given = some(random=40)
    for one in given.contexts:
        if one.kind == "random" and 5 <= one.window_id < 20:
            one.tokens.resize(10, refcheck=False)
            one.activations.resize(10, refcheck=False)
    few = [one for one in given.contexts if one.kind != "random" or one.window_id < 20]
    taken = {cut.context.window_id for cut in windows(given)}
    assert taken == {cut.context.window_id for cut in windows(replace(given, contexts=few))}


def test_weaker_ones_are_drawn_in_proportion_to_their_activation_below_the_strongest_twelve() -> None:
    drawn = Counter(
        cut.context.window_id
        for seed in range(600)
        for cut in windows(some(band=2), seed)
        if cut.context.kind == "band"
    )
    assert set(drawn) == {200, 201}  # the others are as strong as the strongest
    # Of windows with activations 1, 2, 3 the first draw is in these proportions.
    first: Counter[float] = Counter()
    from autointerp.score import saebench25

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saebench25, "WEIGHTED", 1)
        for seed in range(1500):
            first.update(float(cut.context.peak) for cut in windows(some(band=3), seed) if cut.context.kind == "band")
    assert [first[value] / 1500 for value in (1.0, 2.0, 3.0)] == pytest.approx([1 / 6, 2 / 6, 3 / 6], abs=0.05)


class Model:
    """Names the texts with the word yes; `always` gives its answer whatever is shown."""

    def __init__(self, always: str | None = None) -> None:
        self.requests: list[Request] = []
        self.always = always

    async def __call__(self, request: Request) -> Answer:
        self.requests.append(request)
        texts, _ = re.findall(r"<data (\w+)>\n(.*?)\n</data \1>", request.messages[1].content, re.DOTALL)
        lines = texts[1].split("\n")
        assert len(lines) == 14
        found = [number for number, line in enumerate(lines, start=1) if " yes" in line]
        return Answer("key", self.always or json.dumps({"active": found}), "stop", "m")


def graded(model: Model, given: FeatureEvidence | None = None) -> dict[str, ScoreRow]:
    got = asyncio.run(Saebench25(resamples=300)(LABEL, given or some(), Means(VOCABULARY, model)))
    return {row.metric: row for row in got.rows}


def test_always_none_is_right_in_10_of_14_and_that_is_taken_off() -> None:
    rows = graded(Model('{"active": []}'))
    assert rows["accuracy"].value == pytest.approx(10 / 14) == pytest.approx(0.714, abs=5e-4)
    assert rows["accuracy_corrected"].value == pytest.approx(0.0) and rows["chance"].value == pytest.approx(10 / 14)
    assert (rows["recall"].value, rows["false_alarms"].value, rows["balanced_accuracy"].value) == (0.0, 0.0, 0.5)
    everything = graded(Model(json.dumps({"active": list(range(1, 15))})))
    assert everything["accuracy"].value == pytest.approx(4 / 14)
    assert everything["accuracy_corrected"].value == pytest.approx((4 / 14 - 10 / 14) / (4 / 14))


def test_constant_and_permuted_verdicts_are_graded_by_what_does_not_depend_on_their_number() -> None:
    given, scorer = some(), Saebench25(resamples=200)
    judged = asyncio.run(scorer(LABEL, given, Means(VOCABULARY, Model()))).judged
    found = of_verdicts(scorer, given, judged, 0)
    values = {control: {row.metric: row.value for row in rows} for control, rows in found.items()}
    assert values["always_yes"] == {"balanced_accuracy": 0.5, "recall": 1.0, "false_alarms": 1.0}
    assert values["always_no"] == {"balanced_accuracy": 0.5, "recall": 0.0, "false_alarms": 0.0}
    for control in ("always_yes", "always_no"):
        assert all(chance(metric, control) == value for metric, value in values[control].items())
    permuted = [of_verdicts(scorer, given, judged, seed)["permuted_across"][0].value for seed in range(300)]
    assert np.mean([value for value in permuted if value is not None]) == pytest.approx(0.5, abs=0.03)


def test_who_knows_is_right_with_one_request() -> None:
    model = Model()
    rows = graded(model)
    assert rows["accuracy"].value == rows["accuracy_corrected"].value == 1.0 and len(model.requests) == 1
    [shown] = re.findall(r'for instance {"active": \[(.*?)\]}', model.requests[0].messages[0].content)
    assert len(set(shown.split(", "))) == 4


def test_random_windows_count_as_silent_whatever_the_feature_does_in_them() -> None:
    given = some(random=0)
    active = [firing(n, 5.0, "random", 0) for n in range(20)]
    rows = graded(Model(), evidence([*given.contexts, *active], {0: 500, 1: 60, 2: 10}, maximum=70.0))  # type: ignore[list-item]
    assert rows["chance"].value == pytest.approx(10 / 14) and rows["false_alarms"].value is not None
    assert rows["false_alarms"].value > 0


def test_an_answer_of_no_use_is_asked_for_once_more_and_then_all_are_failed() -> None:
    model = Model('{"active": [15]}')
    rows = graded(model)
    assert len(model.requests) == 2 and [request.sample for request in model.requests] == [0, 1]
    assert rows["accuracy"].status == "failed" and rows["accuracy"].n_failed == 14


@pytest.mark.parametrize("few", [{"top": 1}, {"band": 0}, {"random": 9}])
def test_without_14_windows_there_is_no_score(few: dict[str, int]) -> None:
    model = Model()
    rows = graded(model, some(**few))
    assert model.requests == [] and {row.status for row in rows.values()} == {"undefined"}
    assert "there are no 14 windows" in str(rows["accuracy"].reason)


def test_the_interval_covers_the_accuracy() -> None:
    kinds = ["top"] * 2 + ["band"] * 2 + ["random"] * 10
    said = [True, False, True, True] + [True] + [False] * 9
    judged = [
        Judged(n, kind, kind != "random", one, "ok") for n, (kind, one) in enumerate(zip(kinds, said, strict=True))
    ]
    rows = {row.metric: row for row in score_saebench(some(), judged)}
    low, high = rows["accuracy"].lo, rows["accuracy"].hi
    assert rows["accuracy"].value == pytest.approx(12 / 14) and low is not None and high is not None
    assert 0.5 < low < 12 / 14 < high <= 1.0
    corrected = rows["accuracy_corrected"]
    assert corrected.value == pytest.approx(0.5) and np.isclose(float(corrected.lo or 0), (low - 10 / 14) / (4 / 14))
