"""The intruder: what is asked, and what it comes to."""

import asyncio
import json
import re

import pytest

from autointerp.catalog.records import FeatureEvidence, Label
from autointerp.llm.types import Answer, FailureKind, Request, RequestFailed
from autointerp.score import Judged, Means
from autointerp.score.intruder import Intruder, questions, score_intruder
from autointerp.vocabulary import Vocabulary
from tests.score.builders import context, evidence

WORDS = [" a", " b", " yes"]
VOCABULARY = Vocabulary(WORDS, [word.encode() for word in WORDS])
LABEL = Label("Nobody", "looks at this")


def some(bands: tuple[int, ...] = (5, 4, 3), silent: int = 20, length: int = 50) -> FeatureEvidence:
    found = [
        context(100 * band + n, band, [float(place == 9) for place in range(length)],
                tokens=[2 if place == 9 else n % 2 for place in range(length)])
        for band, count in enumerate(bands, start=1) for n in range(count)
    ]  # fmt: skip
    found += [context(n, 0, [0.0] * length, tokens=[n % 2] * length) for n in range(silent)]
    return evidence(found, {band: 50 for band in range(4)})


def test_four_of_one_band_and_one_that_is_silent() -> None:
    asked = questions(some())
    assert len(asked) == 8  # the third band has too few contexts
    assert [{cut.context.band for cut in one.cuts} for one in asked] == [{0, 1}, {0, 2}] * 4
    for one in asked:
        assert [cut.context.band == 0 for cut in one.cuts] == [place == one.odd for place in range(5)]
        assert len({cut.context.window_id for cut in one.cuts}) == 5
    intruders = [one.cuts[one.odd].context.window_id for one in asked]
    assert len(set(intruders)) == 8 and len({one.odd for one in asked}) > 1
    assert len(questions(some(silent=3))) == 3 and questions(some(silent=0)) == [] and questions(some((3, 3))) == []


def test_an_intruder_is_as_long_as_the_others() -> None:
    given = some()
    short = [context(1000 + n, 0, [0.0], tokens=[0]) for n in range(5)]
    asked = questions(evidence([*short, *given.contexts], {band: 50 for band in range(4)}))
    assert len(asked) == 8 and all({len(cut.tokens) for cut in one.cuts} == {32} for one in asked)


@pytest.mark.parametrize("lengths", [(7, 50), (50, 12), (7, 20)])
def test_where_windows_are_short_all_five_are_of_the_length_of_the_shortest(lengths: tuple[int, int]) -> None:
    """Short silent windows beside long active ones, the other way round, and both short: a length never tells the odd one."""
    silent, active = lengths
    given = [one for one in some((3, 4), length=active).contexts if one.band]
    given += [context(n, 0, [0.0] * (silent + n % 3), tokens=[0] * (silent + n % 3)) for n in range(8)]
    asked = questions(evidence(given, {band: 50 for band in range(3)}))
    assert len(asked) == 4
    for one in asked:
        [length] = {len(cut.tokens) for cut in one.cuts}
        assert length <= min(32, active, silent + 2)
        assert all((cut.activations.max() > 0) == (cut.context.band > 0) for cut in one.cuts)  # no peak is cut off


def test_one_short_text_of_a_band_does_not_cut_the_others() -> None:
    found = some((5,)).contexts
    short = context(199, 1, [1.0, 0.0], tokens=[2, 0])
    asked = questions(evidence([short, *found], {0: 50, 1: 50}))
    assert len(asked) == 4 and all({len(cut.tokens) for cut in one.cuts} == {32} for one in asked)


class Model:
    """Finds the text without the word yes."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    async def __call__(self, request: Request) -> Answer:
        self.requests.append(request)
        [(_, texts)] = re.findall(r"<data (\w+)>\n(.*?)\n</data \1>", request.messages[1].content, re.DOTALL)
        [odd] = [number for number, line in enumerate(texts.split("\n"), start=1) if " yes" not in line]
        return Answer("key", json.dumps({"shared": "yes", "odd": odd}), "stop", "m")


def test_who_sees_it_finds_it_and_the_label_is_not_shown() -> None:
    model = Model()
    got = asyncio.run(Intruder(resamples=200)(LABEL, some(), Means(VOCABULARY, model)))
    rows = {row.metric: row for row in got.rows}
    assert (rows["accuracy"].value, rows["accuracy_corrected"].value, rows["chance"].value) == (1.0, 1.0, 0.2)
    assert rows["accuracy"].n_ok == 8 and len(got.judged) == 40 and not Intruder.wants.label
    assert not any("looks at this" in message.content for request in model.requests for message in request.messages)
    assert len(model.requests) == 8 and all("«" not in request.messages[1].content for request in model.requests)


def answered(found: dict[int, tuple[int, bool | None]]) -> list[Judged]:
    """question → its band, and whether it was answered rightly."""
    judged = []
    for number, (band, right) in found.items():
        for place in range(5):
            truth, picked = place == 0, place == (0 if right else 1)
            window = number if truth else 100 * band + place - 1
            status, said = ("failed", None) if right is None else ("ok", picked)
            judged.append(Judged(window, "silent" if truth else "band", truth, said, status, "no answer", item=number))  # type: ignore[arg-type]
    return judged


def test_bands_weigh_alike_and_chance_is_taken_off() -> None:
    # Band 1: 1 of 2. Band 2: 1 of 1. Bands alike: 3/4; above chance (0.75 − 0.2) / 0.8.
    given = answered({1: (1, True), 2: (1, False), 3: (2, True)})
    rows = {row.metric: row for row in score_intruder(some(), given, resamples=200)}
    assert rows["accuracy"].value == 0.75 and rows["accuracy_corrected"].value == pytest.approx(0.55 / 0.8)
    assert (rows["accuracy_band_1"].value, rows["accuracy_band_2"].value) == (0.5, 1.0)
    assert "too few" in str(rows["accuracy_band_2"].reason) and rows["accuracy_band_2"].lo is None


def test_one_right_in_five_is_nothing_above_chance() -> None:
    given = answered({number: (1, number == 3) for number in range(5)})
    rows = {row.metric: row.value for row in score_intruder(some(), given, resamples=200)}
    assert rows["accuracy"] == pytest.approx(0.2) and rows["accuracy_corrected"] == pytest.approx(0.0)


def test_failures_and_nothing_to_ask() -> None:
    rows = {row.metric: row for row in score_intruder(some(), answered({1: (1, True), 2: (1, None), 3: (1, True)}))}
    assert (rows["accuracy"].value, rows["accuracy"].n_ok, rows["accuracy"].n_failed) == (1.0, 2, 1)
    rows = {row.metric: row for row in score_intruder(some(), answered({1: (1, None)}))}
    assert rows["accuracy"].status == "failed" and "all 1 questions failed" in str(rows["accuracy"].reason)

    async def down(request: Request) -> Answer:
        raise RequestFailed(FailureKind.TIMEOUT, "nobody answers")

    got = asyncio.run(Intruder()(LABEL, some((2,)), Means(VOCABULARY, down)))
    assert [row.status for row in got.rows if row.metric != "chance"] == ["undefined"] * 2
    assert "no band has 4 test contexts" in str(got.rows[0].reason)
