"""The scorers whose texts a model writes: `generation` and `sensitivity`."""

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autointerp.catalog.records import Context, Label
from autointerp.errors import UserError
from autointerp.explain.bench import TooLargeError
from autointerp.explain.experiments import NoBench
from autointerp.llm.types import Answer, FailureKind, Request, RequestFailed
from autointerp.score import Grade, Means, Settings, Written, scorers
from autointerp.score.generation import Generation, score_generation
from autointerp.score.sensitivity import Sensitivity, score_sensitivity, shown_contexts
from autointerp.vocabulary import Vocabulary
from tests.explain.benches import WordBench
from tests.score.builders import context, evidence

WORDS = [f" w{number}" for number in range(40)]
VOCABULARY = Vocabulary(WORDS, [word.encode() for word in WORDS])
LABEL = Label("w7", 'The word w7; not "w8".')


class Model:
    """Writes the texts it was given, first those for the first question."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.requests = list(answers), list[Request]()

    async def __call__(self, request: Request) -> Answer:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        text = answer if isinstance(answer, str) else json.dumps(answer)
        return Answer("key", text, "stop", "m")


def values(found: Grade) -> dict[str, float | None]:
    return {row.metric: row.value for row in found.rows}


def graded(scorer: Any, model: Any, contexts: Sequence[Context] = (), bench: Any = None, **more: Any) -> Grade:
    found = evidence(contexts, {0: 90, 1: 6, 2: 4}, maximum=20.0, feature=3)
    bench = bench or WordBench({7: 10.0, 8: 30.0})
    return asyncio.run(scorer(LABEL, found, Means(VOCABULARY, model, bench=bench)))


def wrote(*peaks: tuple[bool, float | None]) -> list[Written]:
    return [
        Written(
            number, wanted, "text", peak, "ok" if peak is not None else "failed", None if peak is not None else "why"
        )
        for number, (wanted, peak) in enumerate(peaks, start=1)
    ]


class TestGeneration:
    def test_the_scores_by_hand(self) -> None:
        # Wanted 0, 4, 30; unwanted 0, 2. Pairs won: 0 > 0 ties (½), 0 < 2; 4 beats both; 30 beats both: 4.5 of 6.
        rows = score_generation(
            evidence([], {}, maximum=20.0), wrote((True, 0.0), (False, 0.0), (True, 4.0), (True, 30.0), (False, 2.0))
        )
        assert {row.metric: row.value for row in rows} == {
            "auroc": pytest.approx(4.5 / 6), "fires": pytest.approx(2 / 3), "false_alarms": 0.5,
            "strength": pytest.approx((0 + 0.2 + 1) / 3),
        }  # fmt: skip
        for row in rows:
            assert row.lo is not None and row.hi is not None and row.value is not None
            assert row.lo <= row.value <= row.hi
        # A share counts the texts that it is of.
        assert {row.metric: (row.n_ok, row.n_failed) for row in rows} == {
            "auroc": (5, 0), "fires": (3, 0), "false_alarms": (2, 0), "strength": (3, 0),
        }  # fmt: skip

    def test_what_cannot_be_had_has_a_reason(self) -> None:
        only = {
            row.metric: row
            for row in score_generation(evidence([], {}), wrote((True, 1.0), (True, 2.0), (False, None)))
        }
        assert (only["auroc"].value, only["auroc"].reason) == (None, "no text that should be silent could be read")
        assert only["fires"].value == 1.0 and "no width" in str(only["fires"].reason) and only["fires"].n_failed == 0
        assert (only["false_alarms"].status, only["false_alarms"].reason) == (
            "failed",
            "all 1 texts failed, for instance: why",
        )
        one = {row.metric: row for row in score_generation(evidence([], {}), wrote((True, 1.0), (False, 0.0)))}
        assert one["auroc"].value == 1.0 and one["auroc"].lo is None and "too few" in str(one["auroc"].reason)
        none = score_generation(evidence([], {}), wrote((True, None), (False, None)))
        assert {(row.status, row.value) for row in none} == {("failed", None)}
        assert none[0].reason == "all 2 texts failed, for instance: why"

    def test_a_model_sees_the_label_alone_and_the_subject_reads_what_it_wrote(self) -> None:
        model = Model({"active": ["w7", "w1 w8"], "silent": ["w1", " w7"]})
        found = graded(Generation(2), model)
        assert values(found) == {"auroc": pytest.approx(3.5 / 4), "fires": 1.0, "false_alarms": 0.5, "strength": 0.75}
        assert [(one.number, one.wanted, one.text, one.peak) for one in found.written] == [
            (1, True, "w7", 10.0), (2, True, "w1 w8", 30.0), (3, False, "w1", 0.0), (4, False, " w7", 10.0)]  # fmt: skip
        [request] = model.requests
        shown = re.search(r"<data (\w+)>\n(.*)\n</data \1>", request.messages[1].content)
        assert shown and json.loads(shown[2]) == {"explanation": LABEL.description}
        assert request.purpose == "generate" and "Write 2 texts" in request.messages[0].content

    def test_missing_and_empty_texts_are_failures_and_further_ones_are_not_read(self) -> None:
        bench = WordBench({7: 10.0})
        answer = {"active": ["w7"], "silent": ["no token", "w1", "w2", "w3"]}
        found = graded(Generation(2), Model(answer, answer), bench=bench)
        assert [(one.wanted, one.peak, one.status) for one in found.written] == [
            (True, 10.0, "ok"), (True, None, "failed"), (False, None, "failed"), (False, 0.0, "ok")]  # fmt: skip
        assert "fewer texts" in str(found.written[1].reason) and "without tokens" in str(found.written[2].reason)
        assert {row.metric: (row.n_ok, row.n_failed) for row in found.rows} == {
            "auroc": (2, 2), "fires": (1, 1), "false_alarms": (1, 1), "strength": (1, 1),
        }  # fmt: skip
        assert [call[2] for call in bench.calls] == ["w7", "no token", "w1"]

    def test_where_memory_is_too_small_texts_are_read_one_by_one_and_fail_by_themselves(self) -> None:
        class SmallBench(WordBench):
            def peaks(self, feature_id: int, texts: Sequence[str]) -> list[float | None]:
                if len(texts) > 1 or "huge" in texts[0]:
                    raise TooLargeError("out of memory")
                return super().peaks(feature_id, texts)

        model = Model({"active": ["w7", "huge w7"], "silent": ["w1", "no token"]})
        found = graded(Generation(2), model, bench=SmallBench({7: 10.0}))
        assert [(one.peak, one.status) for one in found.written] == [
            (10.0, "ok"), (None, "failed"), (0.0, "ok"), (None, "failed")]  # fmt: skip
        assert found.written[1].reason == "too_large: out of memory" and found.written[1].text == "huge w7"
        assert {(row.n_ok, row.n_failed) for row in found.rows} == {(2, 2), (1, 1)}

    @pytest.mark.parametrize("strength", [float("inf"), float("nan")])
    def test_a_text_on_which_the_subject_model_overflows_is_failed(self, strength: float) -> None:
        model = Model({"active": ["w7", "w6"], "silent": ["w1", "w2"]})
        found = graded(Generation(2), model, bench=WordBench({7: strength, 6: 1.0}))
        assert [one.peak for one in found.written] == [None, 1.0, 0.0, 0.0]
        assert found.written[0].status == "failed" and "overflow" in str(found.written[0].reason)
        assert values(found)["auroc"] == 1.0

    def test_an_answer_that_cannot_be_used_is_asked_for_once_more(self) -> None:
        good = {"active": ["w7"], "silent": ["w1"]}
        model = Model("I'd rather not.", good)
        assert values(graded(Generation(1), model))["fires"] == 1.0 and [r.sample for r in model.requests] == [0, 1]
        assert (
            model.requests[0].check is not None
            and not model.requests[0].check("no")
            and model.requests[0].check(json.dumps(good))
        )
        found = graded(Generation(1), Model("no", {"active": "w7"}))
        assert {(one.status, one.text) for one in found.written} == {("failed", None)} and found.rows[
            0
        ].status == "failed"
        model = Model(RequestFailed(FailureKind.RATE_LIMITED, "later"))
        assert graded(Generation(1), model).written[0].reason == "rate_limited: later"

    def test_without_a_model_or_a_subject_the_run_ends(self) -> None:
        with pytest.raises(UserError, match="generation asks a model"):
            graded(Generation(1), None)
        with pytest.raises(UserError, match="subject model, which is not at hand"):
            asyncio.run(
                Generation(1)(LABEL, evidence([], {}), Means(VOCABULARY, Model({"active": ["w1"], "silent": ["w2"]})))
            )

    def test_blank_and_repeated_texts_are_failures(self) -> None:
        answer = {"active": ["w7", " \n", "w8"], "silent": ["w1", "w7", "w1"]}
        found = graded(Generation(3), Model(answer, answer))
        assert [(one.text, one.peak) for one in found.written] == [
            ("w7", 10.0), (" \n", None), ("w8", 30.0), ("w1", 0.0), ("w7", None), ("w1", None)]  # fmt: skip
        assert [str(one.reason) for one in found.written if one.reason] == [
            "malformed: a blank text", *["malformed: the same text as another one"] * 2]  # fmt: skip
        assert values(found)["auroc"] == 1.0 and found.rows[0].n_failed == 3

    @pytest.mark.parametrize("text", ["a\x00b w7", "w7 " * 40_000, "<|bos|></s> w7", "\\ud800 w7 «w7»", "w7\u2028\r\n"])
    def test_whatever_is_written_is_read_as_it_stands(self, text: str) -> None:
        found = graded(Generation(1), Model({"active": [text] * 2000, "silent": ["w1"] * 2000}))
        assert found.written[0].text == text and values(found)["fires"] == 1.0 and len(found.written) == 2

    def test_half_a_character_is_no_text(self) -> None:
        answer = '{"active": ["\\ud800 w7"], "silent": ["w1"]}'
        found = graded(Generation(1), Model(answer, answer))
        assert {(one.status, one.text) for one in found.written} == {("failed", None)}

    def test_of_two_answers_with_faults_the_better_one_stands(self) -> None:
        short, shorter = {"active": ["w7", "w8"], "silent": ["w1"]}, {"active": ["w7"], "silent": ["w1"]}
        for answers in ((short, shorter), (shorter, short), (short, "no"), ("no", short)):
            found = graded(Generation(2), Model(*answers))
            assert [one.text for one in found.written] == ["w7", "w8", "w1", None], answers
        model = Model(short, RequestFailed(FailureKind.OVER_BUDGET, "no"))
        assert graded(Generation(2), model).written[1].text == "w8"
        check = model.requests[0].check
        assert check is not None and not check(json.dumps(short))  # so that `retry` asks anew
        assert check(json.dumps({"active": ["w7", "w8"], "silent": ["w1", "w2"]}))

    def test_what_the_subject_has_read_is_not_read_again(self) -> None:
        bench = WordBench({7: 10.0})
        means = Means(VOCABULARY, Model({"active": ["w7"], "silent": ["w1"]}), bench=bench, peaks={"w7": 12.0})
        found = asyncio.run(Generation(1)(LABEL, evidence([], {}, feature=3), means))
        assert [one.peak for one in found.written] == [12.0, 0.0] and [call[2] for call in bench.calls] == ["w1"]
        missing = Means(VOCABULARY, Model({"active": ["w7"], "silent": ["w1"]}), bench=NoBench("no weights"))
        known = replace(missing, peaks={"w7": 12.0, "w1": 0.0}, ask=Model({"active": ["w7"], "silent": ["w1"]}))
        assert values(asyncio.run(Generation(1)(LABEL, evidence([], {}), known)))["auroc"] == 1.0
        with pytest.raises(UserError, match="generation needs the subject model: no weights"):
            asyncio.run(Generation(1)(LABEL, evidence([], {}), missing))

    def test_settings_and_version(self, tmp_path: Any) -> None:
        part = scorers.get("generation")
        assert part.wants.bench and part.wants.label and part.version == Generation().version
        assert part.configured(Settings(seed=3)).version == part.version != Generation(3).version
        (tmp_path / "generation.j2").write_text("{% block system %}{% endblock %}{% block user %}{% endblock %}")
        assert part.configured(Settings(directory=tmp_path)).version != part.version


class TestSensitivity:
    def contexts(self) -> list[Context]:
        return [
            context(1, 2, [0, 20.0, 0], tokens=[1, 7, 2]), context(2, 2, [15.0], tokens=[7]),
            context(3, 1, [0, 1.0], tokens=[3, 7]), context(4, 0, [0.0, 0.0]), context(5, 2, [9.0], split="explain", tokens=[9]),
        ]  # fmt: skip

    def test_bands_weigh_alike(self) -> None:
        # Band 2: one of two fires, with 30 of 20, so ½ · (1 + 0); band 1: its only one, with 5 of 20.
        found = evidence([], {0: 90, 1: 6, 2: 4}, maximum=20.0)
        rows = score_sensitivity(found, [2, 1, 2], wrote((True, 30.0), (True, 5.0), (True, 0.0)))
        assert {row.metric: row.value for row in rows} == {
            "fires": pytest.approx((1 / 2 + 1) / 2), "strength": pytest.approx((1 / 2 + 1 / 4) / 2),
            "base_rate": pytest.approx(0.1),
        }  # fmt: skip
        assert rows[2].lo is None and rows[2].n_ok == 100

    def test_the_model_sees_marked_texts_of_the_test_split_and_no_label(self) -> None:
        model = Model({"texts": ["w6 w7", "w5 w8", "w1"]})
        found = graded(Sensitivity(3), model, self.contexts())
        user = model.requests[0].messages[1].content
        data = json.loads(user.split("\n", 1)[1].rsplit("\n", 1)[0])
        assert data == {
            "marks": ["«", "»"],
            "texts": [{"text": " w1« w7» w2"}, {"text": " w3« w7»"}, {"text": "« w7»"}],
        }
        assert LABEL.description not in model.requests[0].messages[0].content + user
        assert values(found)["fires"] == pytest.approx((1 / 2 + 1) / 2)
        assert [context.window_id for context in shown_contexts(evidence(self.contexts(), {}), 2)] == [1, 3]

    def test_a_feature_without_contexts_is_not_asked_about(self) -> None:
        model = Model()
        found = graded(Sensitivity(3), model, [context(4, 0, [0.0])])
        assert not model.requests and found.rows[0].status == "undefined" and found.rows[0].value is None
        assert "no activating test contexts" in str(found.rows[0].reason)

    def test_copies_are_failures_and_marks_are_taken_out(self) -> None:
        words = list(range(10, 20))
        long = [context(1, 2, [0.0] * 9 + [20.0], tokens=words), context(2, 1, [5.0, 0], tokens=[7, 1])]
        run = " ".join(f"w{number}" for number in range(11, 18))  # seven words in a row
        for text, peak in (
            (run, None),
            (f"w1 {run} w2", None),
            (run.removesuffix(" w17") + " w1", 0.0),
            ("w2 «w7»", 10.0),
        ):
            answer = {"texts": [text, "w3 w8"]}
            first, _ = graded(Sensitivity(2), Model(answer, answer), long).written
            assert (first.peak, first.text) == (peak, text.replace("«", "").replace("»", ""))
            assert ("copied from a text that was shown" in str(first.reason)) == (peak is None)
        answer = {"texts": ["w3", "w7 w1"]}  # the whole of a short one
        assert [one.peak for one in graded(Sensitivity(2), Model(answer, answer), long).written] == [0.0, None]

    def test_it_is_of_the_feature_and_no_label(self) -> None:
        part = scorers.get("sensitivity")
        assert not part.wants.label and part.wants.bench
        assert (
            graded(Sensitivity(3), Model(RequestFailed(FailureKind.REFUSED, "no")), self.contexts()).rows[0].status
            == "failed"
        )


def test_intervals_shrink_with_the_number_of_texts() -> None:
    def width(count: int) -> float:
        peaks = [(bool(i % 2), float((i * 7919) % 97)) for i in range(count)]
        row = score_generation(evidence([], {}), wrote(*peaks))[0]
        assert row.lo is not None and row.hi is not None
        return row.hi - row.lo

    assert width(20) > 1.5 * width(120) > 0
    assert np.isfinite(width(4))
