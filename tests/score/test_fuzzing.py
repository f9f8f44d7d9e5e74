"""Fuzzing: what is marked, how questions are put together, and metrics worked by hand."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from autointerp.catalog.records import Context, FeatureEvidence, Label
from autointerp.llm.types import Answer, FailureKind, Request, RequestFailed, TokenLogprobs
from autointerp.score import Judged, Means, ScoreRow, Settings, scorers
from autointerp.score.cuts import runs_of
from autointerp.score.fuzzing import NO_TEXT, Fuzzing, Marked, grouped, marked_cuts, score_fuzzing
from autointerp.score.questions import Form
from autointerp.vocabulary import Vocabulary
from tests.score.builders import context, evidence

WORDS = [f" w{number}" for number in range(64)] + [" «odd»"]
VOCABULARY = Vocabulary(WORDS, [word.encode() for word in WORDS])
LABEL = Label("Sevens", "the word 'w7'")


def active(window: int, band: int, at: Sequence[int], value: float, length: int = 40) -> Context:
    """Active at some places, where the token 7 stands."""
    tokens = [7 if place in at else place % 7 for place in range(length)]
    return context(window, band, [value * (place in at) for place in range(length)], tokens=tokens)


def some(negatives: bool = True) -> FeatureEvidence:
    found = [
        active(100 * band + n, band, at, 2.0 * band) for band in (1, 2, 3) for n, at in enumerate([(5,), (20, 21)])
    ]
    found += [context(n, 0, [0.0] * 40, tokens=[place % 7 for place in range(40)]) for n in range(9)]
    if negatives:
        hard = context(
            900, 0, [0.0] * 40, kind="token", tokens=[7 if place == 33 else place % 7 for place in range(40)]
        )
        found.append(replace(hard, cause=7, cause_position=33))
    return evidence(found, {0: 100, 1: 50, 2: 10, 3: 10}, maximum=10.0)


def test_right_marks_are_from_the_share_of_the_texts_own_maximum_on_and_no_band_is_left_out() -> None:
    right = [one for one in marked_cuts(some()) if one.right]
    assert sorted(one.cut.context.band for one in right) == [1, 1, 2, 2, 3, 3]
    for one in right:
        assert one.places == [at for at, value in enumerate(one.cut.activations) if value > 0] and one.places
    # 2.9 of a maximum of 10 is the peak, 0.9 is 0.31 of that, 0.8 is 0.28.
    values = [{3: 2.9, 5: 0.9, 7: 0.8}.get(place, 0.0) for place in range(10)]
    [weak] = [one for one in marked_cuts(evidence([context(1, 1, values)], {1: 5})) if one.right]
    assert weak.places == [3, 5]
    [moved] = [one for one in marked_cuts(evidence([context(1, 1, values)], {1: 5})) if not one.right]
    assert not {3, 5, 7} & set(moved.places)  # a weak activation is not marked, and no wrong mark is on it


def test_wrong_marks_are_as_many_in_runs_as_long_and_never_on_an_active_token() -> None:
    cuts = marked_cuts(some())
    right = {one.cut.context.window_id: one for one in cuts if one.right}
    moved = {one.cut.context.window_id: one for one in cuts if not one.right and one.cut.context.kind == "band"}
    assert moved.keys() == right.keys()
    for window, one in moved.items():
        assert one.cut.begin == right[window].cut.begin  # the same text
        assert runs_of(one.places) == runs_of(right[window].places)
        assert not one.cut.activations[one.places].any()
    silent = [one for one in cuts if one.cut.context.kind == "silent"]
    assert len(silent) == len(right)
    patterns = Counter(tuple(runs_of(one.places)) for one in right.values())
    assert Counter(tuple(runs_of(one.places)) for one in silent) == patterns
    [hard] = [one for one in cuts if one.cut.context.kind == "token"]
    assert hard.cut.place in hard.places and hard.cut.tokens[hard.cut.place] == 7


def test_the_draw_depends_on_seed_and_feature_alone() -> None:
    def shown(found: Sequence[Marked]) -> list[tuple[int, int, list[int]]]:
        return [(one.cut.context.window_id, one.cut.begin, list(one.places)) for one in found]

    assert shown(marked_cuts(some())) == shown(marked_cuts(some())) != shown(marked_cuts(some(), seed=1))


@pytest.mark.parametrize("most", [3, 5, 25])
def test_the_two_copies_of_a_text_are_never_in_one_request(most: int) -> None:
    groups = grouped(marked_cuts(some()), most)
    for group in groups:
        windows = [one.cut.context.window_id for one in group]
        assert len(set(windows)) == len(windows) <= most
        assert most == 3 or {one.right for one in group} == {True, False}
    assert sum(map(len, groups)) == 6 + 6 + 6 + 1
    assert max(map(len, groups)) - min(map(len, groups)) <= 2
    assert grouped([], most) == []


class Model:
    """Says yes where the word w7 is marked, with a probability of 0.7, and no with 0.8."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    async def __call__(self, request: Request) -> Answer:
        self.requests.append(request)
        texts, asked = re.findall(r"<data (\w+)>\n(.*?)\n</data \1>", request.messages[1].content, re.DOTALL)
        opening, closing = json.loads(asked[1])["marks"]
        lines = [line.split("|", 1) for line in texts[1].split("\n")]
        assert all(line.count(opening) == line.count(closing) > 0 for _, line in lines)
        said = [int(f"{opening} w¬7" in line) for _, line in lines]
        pieces: list[tuple[str, float]] = [('{"texts": [', 0.0)]
        for place, one in enumerate(said):
            pieces += [(f"{', ' * bool(place)}[{place + 1},", 0.0), (f" {one}", 0.7 if one else 0.8), ("]", 0.0)]
        pieces.append(("]}", 0.0))
        logprobs = [
            TokenLogprobs(text, 0.0 if not p else float(np.log(p)),
                          {} if not p else {text: float(np.log(p)), f" {1 - int(text)}": float(np.log(1 - p))})
            for text, p in pieces
        ]  # fmt: skip
        text = "".join(text for text, _ in pieces)
        return Answer("key", text, "stop", "m", logprobs=logprobs if request.logprobs else ())


def test_a_model_that_knows_the_word_is_right_throughout() -> None:
    model = Model()
    form = Form(5, asked_again=False, logprobs=True)
    got = asyncio.run(Fuzzing(form, resamples=200)(LABEL, some(), Means(VOCABULARY, model)))
    rows = {row.metric: row for row in got.rows}
    assert rows["balanced_accuracy"].value == rows["balanced_accuracy_silent"].value == rows["auroc"].value == 1.0
    assert rows["false_alarms_token"].value == 1.0  # that word, where the feature is silent
    assert all(one.probability == pytest.approx(0.7 if one.answer else 0.2) for one in got.judged)
    assert {request.logprobs for request in model.requests} == {5} and not any(one.shared for one in model.requests)
    for one in got.judged:  # what was marked, as positions of the window
        found = next(c for c in some().contexts if c.window_id == one.window_id)
        assert one.marked is not None and (one.kind != "band" or one.truth == bool(found.activations[one.marked].all()))
    plain = asyncio.run(Fuzzing(Form(25))(LABEL, some(), Means(VOCABULARY, Model())))
    assert "score.logprobs" in str({row.metric: row for row in plain.rows}["auroc"].reason)


def verdicts(pairs: Sequence[tuple[int, str, bool, bool | None]]) -> dict[str, ScoreRow]:
    judged = [Judged(window, kind, truth, said, "ok" if said is not None else "failed", marked=[1])
              for window, kind, truth, said in pairs]  # fmt: skip
    return {row.metric: row for row in score_fuzzing(some(), judged, resamples=200)}


def test_metrics_by_hand() -> None:
    # Right: band 2 one of two, band 3 both: recall 3/4. Moved: one of two and none of two wrong, so 1/4. Silent: 1 of 3.
    rows = verdicts([
        (200, "band", True, True), (201, "band", True, False), (300, "band", True, True), (301, "band", True, True),
        (200, "band", False, True), (201, "band", False, False), (300, "band", False, False), (301, "band", False, False),
        (1, "silent", False, True), (2, "silent", False, False), (3, "silent", False, False),
    ])  # fmt: skip
    assert (rows["recall"].value, rows["false_alarms"].value) == (0.75, 0.25)
    assert rows["balanced_accuracy"].value == 0.75 and rows["precision"].value == 0.75 and rows["f1"].value == 0.75
    assert rows["balanced_accuracy_silent"].value == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert (rows["recall_band_2"].value, rows["recall_band_3"].value) == (0.5, 1.0)
    assert "balanced_accuracy_near" not in rows and rows["balanced_accuracy"].n_ok == 8


def test_always_yes_and_always_no_are_chance() -> None:
    for said in (True, False):
        rows = verdicts([(w, "band", truth, said) for w in (200, 201, 300, 301) for truth in (True, False)])
        assert rows["balanced_accuracy"].value == 0.5


def test_failures_are_counted_and_a_feature_without_strong_texts_has_a_reason() -> None:
    rows = verdicts([(200, "band", True, None), (200, "band", False, False), (201, "band", True, True)])
    assert (rows["balanced_accuracy"].value, rows["balanced_accuracy"].n_failed) == (1.0, 1)

    async def down(request: Request) -> Answer:
        raise RequestFailed(FailureKind.TIMEOUT, "nobody answers")

    failed = asyncio.run(Fuzzing()(LABEL, some(), Means(VOCABULARY, down)))
    assert {row.status for row in failed.rows} == {"failed"} and all(one.status == "failed" for one in failed.judged)
    nothing = asyncio.run(Fuzzing()(LABEL, evidence([], {}), Means(VOCABULARY, down)))
    assert {(row.status, row.reason) for row in nothing.rows} == {("undefined", NO_TEXT)}


def test_marks_are_signs_that_no_text_holds() -> None:
    model, found = Model(), some(negatives=False)
    contexts = [replace(one, tokens=np.array([64, *one.tokens[1:]], dtype=np.int32)) for one in found.contexts]
    asyncio.run(Fuzzing()(LABEL, replace(found, contexts=contexts), Means(VOCABULARY, model)))
    assert all('"marks":["⟦","⟧"]' in request.messages[1].content for request in model.requests)


def test_its_version_covers_the_question_and_whether_probabilities_are_asked_for() -> None:
    part = scorers.get("fuzzing")
    assert part.configured(Settings(logprobs=True)).version != part.configured(Settings()).version
    assert scorers.get("detection").configured(Settings(logprobs=True)).version != scorers.get("detection").version
