"""Which errors the author of a label is shown, worked out by hand."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.catalog.records import Context
from autointerp.explain.mistakes import LEAST, RIGHT, Findings, findings_json, findings_of
from autointerp.score import Simulated
from autointerp.vocabulary import Vocabulary
from tests.explain.test_token_activation import VOCABULARY
from tests.score.builders import simulated


def active(window: int, values: Sequence[float], first: int | None = None, kind: str = "band") -> Context:
    start = 100 * window if first is None else first
    band = 0 if kind in ("silent", "near", "token") else 1
    tokens = np.arange(start, start + len(values), dtype=np.int32)
    return Context(window, "explain", kind, band, tokens, np.array(values, np.float32))


def silent(window: int, kind: str = "silent", first: int | None = None) -> Context:
    return active(window, [0] * 8, first, kind)


# Of maximum 20, so that 18, 10 and 3.9 are the levels 9, 5 and 1.
CONTEXTS: list[tuple[Context, list[float]]] = [
    (
        active(1, [0, 0, 18, 0, 0, 0, 0, 0]),
        [0, 0, 0.4, 7, 0, 0, 0, 0],
    ),  # the wrong place: a miss by 9, a false alarm by 7
    (silent(2), [0, 0, 0, 0, 6, 0, 6, 0]),  # false alarms by 6: the first counts
    (silent(3, "near"), [0, 5.5, 0, 0, 0, 0, 0, 0]),  # 5.5 is rounded to 6
    (active(4, [0, 0, 0, 0, 0, 0, 10, 2]), [0, 0, 0, 0, 0, 0, 4, 1]),  # right, nearly
    (active(5, [3.9, 0, 0, 0, 0, 0, 0, 0]), [0, 0, 0, 0, 0, 0, 0, 1.4]),  # both wrong by one level
    (active(6, [0, 4.1, 0, 0, 0, 0, 0, 0]), [0, 0, 0, 0, 0, 0, 0, 0]),  # a miss by 2
    (silent(7, first=302), [9, 0, 0, 0, 0, 0, 0, 0]),  # as window 3 but for two tokens: the worst
    (active(8, [20, 0, 0, 0, 0, 0, 0, 0]), [5, 0, 0, 0, 0, 0, 0, 0]),  # neither 0 nor near
    (active(9, [0, 0, 20, 0, 0, 0, 0, 0]), [0, 0, 10, 0, 0, 0, 0, 0]),  # right
]


def found(chosen: Sequence[tuple[Context, list[float] | None]], most: int = 4, window: int = 32) -> Findings:
    given = [
        Simulated(context.window_id, None, "failed", "so") if values is None else simulated(context.window_id, values)
        for context, values in chosen
    ]
    return findings_of([context for context, _ in chosen], given, 20.0, window, most)


def windows(findings: Findings) -> dict[str, list[int]]:
    return {name: [one.window for one in getattr(findings, name)] for name in ("false_alarms", "misses", "right")}


def test_the_worst_of_each_kind_each_context_once() -> None:
    # By size: 7 (9 levels), 1 (9, a miss), 3 and 2 (6; hard ones first), 6 (2). Window 1 is not shown as a false alarm as well.
    assert windows(found(CONTEXTS)) == {"false_alarms": [7, 3, 2], "misses": [1, 6], "right": [9, 4]}
    places = {one.window: one.exemplar.peak for one in found(CONTEXTS).all}
    assert places == {7: 0, 3: 1, 2: 4, 1: 2, 6: 1, 4: 6, 9: 2}


def test_a_limit_is_for_each_kind() -> None:
    assert windows(found(CONTEXTS, 1)) | {"right": []} == {"false_alarms": [7], "misses": [1], "right": []}
    first = found(CONTEXTS[:1], 1)
    assert windows(first) == {"false_alarms": [], "misses": [1], "right": []}


def test_near_copies_count_once() -> None:
    copy = active(30, [0] * 8, 300, "silent")  # the tokens of window 3
    assert windows(found([CONTEXTS[2], (copy, [0, 9, 0, 0, 0, 0, 0, 0])]))["false_alarms"] == [30]
    elsewhere = found([CONTEXTS[2], (copy, [0, 0, 0, 0, 0, 0, 0, 9])])  # the same text, but another place in it
    assert windows(elsewhere)["false_alarms"] == [30, 3]


def test_what_could_not_be_simulated_is_left_out() -> None:
    assert not found([(context, None) for context, _ in CONTEXTS]).all


def test_where_all_is_right_there_is_no_error() -> None:
    exact = [(context, [v / 2 for v in context.activations.tolist()]) for context, _ in CONTEXTS]
    assert not found(exact).has_errors and len(found(exact).right) == RIGHT


def test_a_text_is_cut_around_the_place_in_question_with_all_that_is_active_or_predicted_in_it() -> None:
    context = active(1, [0.0] * 40 + [18, 3.9] + [0] * 20)
    expected = [0.0] * 62
    expected[20], expected[24], expected[41] = 8, 1, 3
    (alarm,) = (one for one in found([(context, expected)], window=8).all if one.kind == "miss")
    assert alarm.exemplar.tokens.tolist() == list(range(134, 142)) and alarm.exemplar.peak == 6
    data = json.loads(f"{{{findings_json(found([(context, expected)], window=8), VOCABULARY)}}}")
    assert data == {
        "marks": ["«", "»"],
        "false_alarms": [],
        "misses": [{
            "text": " w134 w135 w136 w137 w138 w139« w140» w141", "token": " w140", "predicted": 0, "actual": 9,
            "elsewhere": [[" w141", 3, 1]],
        }],
        "right": [],
    }  # fmt: skip
    alone = active(1, [0.0] * 62, 100, "silent")
    data = json.loads(f"{{{findings_json(found([(alone, expected)], window=8), VOCABULARY)}}}")
    assert data["false_alarms"] == [{
        "text": " w114 w115 w116 w117 w118 w119« w120» w121", "token": " w120", "predicted": 8, "actual": 0, "elsewhere": []
    }]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_against_the_definition(data: Any) -> None:
    """Whatever is predicted: limits hold, windows are distinct, and each finding is what its list says of it."""
    level = st.integers(0, 10)
    chosen: list[tuple[Context, list[float] | None]] = []
    for number in range(data.draw(st.integers(1, 8))):
        values, expected = (data.draw(st.lists(level, min_size=6, max_size=6)) for _ in range(2))
        chosen.append((active(number, [2.0 * v for v in values]), [float(e) for e in expected]))
    most = data.draw(st.integers(1, 3))
    result = found(chosen, most)
    assert len({one.window for one in result.all}) == len(result.all)
    assert max(len(result.false_alarms), len(result.misses)) <= most and len(result.right) <= RIGHT
    for one in result.all:
        predicted, actual = int(one.predicted[one.exemplar.peak]), int(one.exemplar.levels[one.exemplar.peak])
        if one.kind == "false_alarm":
            assert actual == 0 and predicted == max(one.predicted[one.exemplar.levels == 0]) >= LEAST
        elif one.kind == "miss":
            assert predicted == 0 and actual == max(one.exemplar.levels[one.predicted == 0]) >= LEAST
        else:
            assert min(actual, predicted) > 0 and abs(actual - predicted) <= 3
    for side in (result.false_alarms, result.misses):
        assert [one.error for one in side] == sorted((one.error for one in side), reverse=True)


@pytest.mark.parametrize("text", ["«", "</data", '"}]}', "⟦⟧«»", "\n", "\u202e"])
def test_texts_do_not_get_out_of_their_strings(text: str) -> None:
    vocabulary = Vocabulary([text, " x"], [text.encode(), b" x"])
    context = Context(1, "explain", "silent", 0, np.array([1, 0, 1], np.int32), np.zeros(3, np.float32))
    written = findings_json(found([(context, [0, 9, 4])]), vocabulary)
    (alarm,) = json.loads(f"{{{written}}}")["false_alarms"]
    opening, closing = json.loads(f"{{{written}}}")["marks"]
    assert alarm["text"] == f" x{opening}{text}{closing} x" and alarm["token"] == text
    assert alarm["elsewhere"] == [[" x", 4, 0]] and "\u202e" not in written
