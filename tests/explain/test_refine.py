"""The explainer `refine`: what is shown, what is compared, where it ends, and that it can be dropped and run again."""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autointerp.catalog.records import Candidate, Context, FeatureEvidence, Label, OutputLabel
from autointerp.errors import UserError
from autointerp.explain import Search, explainers
from autointerp.explain.exemplars import Selection
from autointerp.explain.mistakes import Findings
from autointerp.explain.output import Output
from autointerp.explain.refine import Refine, Rewriter
from autointerp.explain.refinement import batch, probed_contexts
from autointerp.explain.searching import SearchingExplainer
from autointerp.llm.types import Answer, Deferred, FailureKind, Message, Request, RequestFailed
from autointerp.prompts_loader import fenced, render
from autointerp.score import Simulated
from autointerp.vocabulary import Vocabulary
from tests.explain.test_inputside import ATTACKS, HOSTILE, data_of
from tests.explain.test_output import LENS, SAID
from tests.explain.test_token_activation import GOOD, VOCABULARY, evidence, one_hot

PEAK = 20  # of every active context
RERANK = [
    *(one_hot(30 + i, 9, split="rerank", kind="band", band=1 + i % 3) for i in range(6)),
    *(one_hot(40 + i, 0, split="rerank", kind="silent", band=0) for i in range(3)),
    one_hot(43, 0, split="rerank", kind="near", band=0),
]
TEST = [one_hot(60, 9, split="test", kind="band"), one_hot(61, 0, split="test", kind="near", band=0)]
UNSEEN = [one_hot(2 + i, 8, kind="band", band=1 + i % 2) for i in range(11)]
SILENT = [one_hot(20 + i, 0, kind="silent", band=0) for i in range(6)]
HARD = [one_hot(26, 0, kind="near", band=0), one_hot(27, 0, kind="token", band=0)]
EVIDENCE = evidence([one_hot(1, 9), *UNSEEN, *SILENT, *HARD, *RERANK, *TEST])
SELECTION = Selection(top=1, banded=0)  # the first prompt shows window 1 alone

Levels = dict[int, int]  # position → level, the same for each text


class Reader:
    """A simulator that asks one question, the contexts' windows and first tokens, and takes the levels that it is told."""

    needs_model, needs, version = True, ("json_schema",), "1"

    async def __call__(
        self, label: Label, contexts: Sequence[Context], maximum: float, ask: Any, vocabulary: Vocabulary
    ) -> list[Simulated]:
        assert not any(context.activations.any() for context in contexts)
        texts = {str(context.window_id): f" w{context.tokens[0]}" for context in contexts}
        data = fenced(json.dumps({"explanation": label.description, "texts": texts}))
        try:
            answer = await ask(Request((Message("system", "Predict."), Message("user", data))))
        except RequestFailed as failure:
            return [Simulated(context.window_id, None, "failed", str(failure)) for context in contexts]
        found = []
        for context in contexts:
            expected = np.zeros(len(context.tokens), np.float32)
            for at, level in json.loads(answer.text).items():
                expected[int(at)] = level
            found.append(Simulated(context.window_id, expected, "ok"))
        return found


@pytest.fixture(autouse=True)
def reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SearchingExplainer, "_simulator", lambda self: Reader())


class Model:
    """Label i, from 0, is called "label i"; of each text it predicts `at[i]`: position → level, or these by purpose. What is an
    exception is raised."""

    def __init__(self, at: Sequence[Any], labels: dict[int, Any] | None = None) -> None:
        self.at, self.labels = at, labels or {}
        self.requests: list[Request] = []

    async def __call__(self, request: Request) -> Answer:
        self.requests.append(request)
        text = self.label(request) if request.purpose == "explain" else self.simulation(request)
        return Answer("key", text, "stop", "m")

    def label(self, request: Request) -> str:
        number = request.sample // 100
        planned = self.labels.get(number)
        if isinstance(planned, Exception):
            raise planned
        return planned or json.dumps({"title": f"label {number}", "description": f"says {number}", "kind": "token"})

    def simulation(self, request: Request) -> str:
        levels = self.at[int(data_of(request)["explanation"].split()[1])]
        if isinstance(levels, dict) and request.purpose in levels:
            levels = levels[request.purpose]
        if isinstance(levels, Exception):
            raise levels
        return json.dumps(levels)

    def of(self, purpose: str) -> list[Request]:
        return [request for request in self.requests if request.purpose == purpose]

    @property
    def rewrites(self) -> list[dict[str, Any]]:
        return [data_of(request) for request in self.of("explain") if request.sample >= 100]


# Ever better: from the wrong place, place 3, to the right one.
BETTER: list[Levels] = [{3: 9}, {3: 9, PEAK: 2}, {3: 5, PEAK: 5}, {3: 2, PEAK: 9}]


def explainer(**search: Any) -> Refine:
    return Refine().configured(SELECTION, None, Search(**search))


async def run(model: Any, found: FeatureEvidence = EVIDENCE, **search: Any) -> Label:
    return await explainer(**search)(found, model, VOCABULARY)


def windows_of(requests: Sequence[Request]) -> list[int]:
    """Of the contexts that these requests simulate."""
    return sorted(int(window) for request in requests for window in data_of(request)["texts"])


class TestSteps:
    async def test_it_goes_on_while_the_score_rises_and_every_step_has_its_parent(self) -> None:
        model = Model(BETTER)
        label = await run(model)
        assert label.title == "label 3" and label.remark is None
        assert [(one.number, one.title, one.parent) for one in label.candidates] == [
            (1, "label 0", None), (2, "label 1", 1), (3, "label 2", 2), (4, "label 3", 3),
        ]  # fmt: skip
        scores = [one.score for one in label.candidates if one.score is not None]
        assert len(scores) == 4 and scores == sorted(scores)
        assert [one.chosen for one in label.candidates] == [False, False, False, True]
        # By hand: weights 1/6 for each of six active texts, 1/4 for each of four silent ones, 64 tokens each.
        w = np.repeat([1 / 6] * 6 + [1 / 4] * 4, 64)
        a, s = np.zeros((2, 10, 64))
        a[:6, PEAK], s[:, 3], s[:, PEAK] = 9, 2, 9
        a, s = a.ravel(), s.ravel()
        mean_a, mean_s = np.average(a, weights=w), np.average(s, weights=w)
        covariance = np.average((a - mean_a) * (s - mean_s), weights=w)
        spread = np.average((a - mean_a) ** 2, weights=w) * np.average((s - mean_s) ** 2, weights=w)
        assert scores[3] == pytest.approx(covariance / spread**0.5)

    async def test_the_budget_is_a_number_of_steps(self) -> None:
        label = await run(Model(BETTER), steps=2)
        assert [one.title for one in label.candidates] == ["label 0", "label 1", "label 2"]
        assert label.title == "label 2"

    async def test_it_ends_where_the_score_does_not_rise_and_the_better_label_stays(self) -> None:
        model = Model([BETTER[2], BETTER[0], BETTER[3]])
        label = await run(model)
        assert label.title == "label 0" and label.remark is None
        assert [(one.chosen, one.parent) for one in label.candidates] == [(True, None), (False, 1)]
        assert len(model.rewrites) == 1

    async def test_with_patience_it_tries_again_from_the_best_with_other_errors(self) -> None:
        model = Model([BETTER[2], BETTER[0], BETTER[3]])
        label = await run(model, patience=2, steps=2)
        assert label.title == "label 2"
        assert [(one.title, one.parent) for one in label.candidates] == [
            ("label 0", None),
            ("label 1", 1),
            ("label 2", 1),
        ]
        first, second = model.rewrites
        assert first["label"] == second["label"] and first["others"] == []
        assert [one["title"] for one in second["others"]] == ["label 1"]
        assert not {one["text"] for one in first["false_alarms"]} & {one["text"] for one in second["false_alarms"]}

    async def test_without_an_error_to_show_it_ends(self) -> None:
        silent = [one_hot(99, 9, kind="silent", split="rerank")]
        found = evidence(
            [context for context in EVIDENCE.contexts if context.band or context.split != "explain"] + silent
        )
        model = Model([{PEAK: 9}])
        label = await run(model, found)
        assert len(label.candidates) == 1 and label.remark is None and not model.rewrites

    async def test_any_score_is_better_than_none(self) -> None:
        label = await run(Model([{}, BETTER[2]]), steps=1)
        assert label.title == "label 1" and label.remark is None
        assert label.candidates[0] == Candidate(
            1, "label 0", "says 0", None, False, "the simulated activations are constant"
        )

    async def test_a_label_that_says_what_another_said_is_not_simulated_again(self) -> None:
        again = json.dumps({"title": "Other words", "description": "says 0", "kind": "token"})
        model = Model([BETTER[1]], {1: again})
        label = await run(model)
        assert label.title == "label 0" and [one.title for one in label.candidates] == ["label 0", "Other words"]
        assert label.candidates[0].score == label.candidates[1].score
        assert len(windows_of(model.of("rerank"))) == 10


class TestContexts:
    async def test_errors_are_of_the_explain_split_and_the_choice_of_the_rerank_split(self) -> None:
        model = Model(BETTER)
        await run(model)
        probed, unseen = windows_of(model.of("probe")), {context.window_id for context in (*UNSEEN, *SILENT, *HARD)}
        assert set(probed) == unseen | {1}  # the text of the first prompt is the last one of three steps
        assert set(windows_of(model.of("rerank"))) == {context.window_id for context in RERANK}
        shown = {
            int(word)
            for request in model.of("explain")
            for word in re.findall(r"\bw(\d+)", request.messages[1].content)
        }
        assert not shown & {int(token) for context in (*RERANK, *TEST) for token in context.tokens}
        asked = {
            int(word) for request in model.requests for word in re.findall(r"\bw(\d+)", request.messages[1].content)
        }
        assert not asked & {int(token) for context in TEST for token in context.tokens}

    async def test_no_label_is_simulated_twice_on_a_context(self) -> None:
        model = Model([BETTER[2], BETTER[0], BETTER[1], BETTER[0]])
        label = await run(model, patience=3)
        assert label.title == "label 0" and len(label.candidates) == 4
        pairs = [
            (data_of(request)["explanation"], window)
            for request in model.requests
            if request.purpose != "explain"
            for window in windows_of([request])
        ]
        assert len(pairs) == len(set(pairs))

    def test_those_that_the_first_prompt_did_not_show_come_first_of_all_bands_and_kinds(self) -> None:
        contexts = [
            one_hot(1, 9, kind="top", band=2), one_hot(2, 8, kind="top", band=2), one_hot(3, 0.9, kind="top", band=1),
            one_hot(1, 9, kind="band", band=2), one_hot(4, 8, kind="band", band=2), one_hot(5, 3, kind="band", band=1),
            one_hot(6, 8, kind="band", band=2), one_hot(7, 9, split="rerank"),
            *(one_hot(window, 0, kind="silent", band=0) for window in (20, 21, 22)),
            one_hot(30, 0, kind="near", band=0), one_hot(31, 0, kind="token", band=0), one_hot(32, 0, kind="token", band=0),
            one_hot(30, 0, kind="token", band=0),
        ]  # fmt: skip
        active, silent = probed_contexts(evidence(contexts), [1, 4])
        assert [one.window_id for one in active] == [5, 6, 2, 1, 4]  # window 3 is below a tenth of the maximum
        assert [one.window_id for one in silent] == [30, 22, 32, 21, 31, 20]

    def test_a_step_takes_the_next_ones_and_begins_again_after_the_last(self) -> None:
        active, silent = ([one_hot(window, 9) for window in windows] for windows in (range(7), range(10, 13)))
        found = [[one.window_id for one in batch((active, silent), step)] for step in (1, 2)]
        assert found == [[0, 1, 2, 3, 4, 10, 11, 12], [5, 6, 0, 1, 2, 12, 10, 11]]
        assert batch(([], []), 1) == []

    async def test_without_an_active_rerank_context_the_first_label_stays_and_says_so(self) -> None:
        model = Model(BETTER)
        label = await run(model, evidence([one for one in EVIDENCE.contexts if one.split == "explain"]))
        reason = "the feature is active in no context of the rerank split"
        assert label.title == "label 0" and label.remark == f"the first label, not chosen by score: {reason}"
        assert label.candidates == [Candidate(1, "label 0", "says 0", None, True, reason)]
        assert len(model.requests) == 1


class TestPrompt:
    async def test_the_model_is_told_label_errors_and_what_was_tried(self) -> None:
        model = Model(BETTER)
        label = await run(model)
        first, second, third = model.rewrites
        assert first["label"] == {"title": "label 0", "description": "says 0", "scope": "", "r": -0.01}
        assert [one["title"] for one in third["others"]] == ["label 0", "label 1"] and third["label"][
            "title"
        ] == "label 2"
        assert [one["r"] for one in third["others"]] == [round(one.score or 0, 2) for one in label.candidates[:2]]
        # Label 0 predicts 9 at place 3 of all texts, and misses the peak of five; each text counts once, as its worst error.
        assert len(first["false_alarms"]) == 4 and first["right"] == []
        for one in first["false_alarms"]:
            assert (one["predicted"], one["actual"]) == (9, 0) and f"«{one['token']}»" in one["text"]
        # The next five texts: label 1 says 9 at place 3 (worse than 2 for 8 at the peak), label 2 says 5 at both.
        assert {(one["predicted"], one["actual"]) for one in second["false_alarms"]} == {(9, 0)}
        assert second["misses"] == [] and second["right"] == []
        assert [(one["predicted"], one["actual"]) for one in third["right"]] == [(5, 8)] * 3
        for data in (first, second, third):
            texts = [one["text"] for side in ("false_alarms", "misses", "right") for one in data[side]]
            assert len(texts) == len(set(texts))

    async def test_requests_are_other_samples_and_the_beginning_is_the_same_for_all(self) -> None:
        model = Model(BETTER, {2: "no JSON at all"})
        await run(model)
        asked = [(request.sample, request.template_hash) for request in model.of("explain")]
        assert [sample for sample, _ in asked] == [0, 100, 200, 201]
        assert len({request.messages[0] for request in model.of("explain") if request.sample >= 100}) == 1
        assert {hashed for sample, hashed in asked if sample} == {Rewriter().template_hash}

    async def test_evidence_is_what_was_shown_and_active(self) -> None:
        label = await run(Model(BETTER), steps=1)
        windows = {context.window_id for context in UNSEEN}
        assert label.evidence[0] == 1 and set(label.evidence[1:]) <= windows and len(label.evidence) > 1
        assert list(label.evidence) == list(dict.fromkeys(label.evidence))

    async def test_planted_text_stays_inside_the_data(self) -> None:
        hostile = "".join(ATTACKS)
        tokens = np.arange(len(ATTACKS), dtype=np.int32)
        contexts = [
            Context(1, "explain", "top", 1, tokens, np.eye(len(ATTACKS), dtype=np.float32)[2] * 9),
            Context(2, "explain", "silent", 0, tokens[::-1].copy(), np.zeros(len(ATTACKS), np.float32)),
            Context(3, "rerank", "top", 1, tokens, np.eye(len(ATTACKS), dtype=np.float32)[2] * 9),
            Context(4, "rerank", "silent", 0, tokens, np.zeros(len(ATTACKS), np.float32)),
        ]
        said = json.dumps({**GOOD, "description": f"says 0 {hostile}"})
        model = Model([{0: 9}, {2: 9}], {0: said})
        await explainer(steps=1)(evidence(contexts), model, HOSTILE)
        (request,) = (request for request in model.of("explain") if request.sample >= 100)
        system, user = (message.content for message in request.messages)
        data, fence = data_of(request), user[6:22]
        assert [line for line in user.split("\n") if fence in line] == [f"<data {fence}>", f"</data {fence}>"]
        assert "<|im_" not in user and "[/INST]" not in user
        assert all(char.isprintable() or char == "\n" for char in user)
        opening, closing = data["marks"]
        assert data["label"]["description"] == " ".join(f"says 0 {hostile}".split())
        texts = [one["text"] for side in ("false_alarms", "misses") for one in data[side]]
        assert len(texts) == 2
        for text in texts:
            assert text.count(opening) == text.count(closing) == 1
            assert text.replace(opening, "").replace(closing, "") in (hostile, "".join(ATTACKS[::-1]))
        assert system == render("refine", data="").system and "pwned" not in system


class TestFailures:
    @pytest.mark.parametrize("kind", [FailureKind.REFUSED, FailureKind.MALFORMED, FailureKind.TRUNCATED])
    async def test_a_step_whose_answer_is_of_no_use_ends_it_with_a_remark(self, kind: FailureKind) -> None:
        label = await run(Model(BETTER, {2: RequestFailed(kind, "so")}))
        assert label.title == "label 1" and label.remark == f"refined no further: {kind}: so"
        assert label.candidates[2] == Candidate(3, None, None, None, False, f"{kind}: so", 2)
        assert [one.chosen for one in label.candidates] == [False, True, False]

    @pytest.mark.parametrize("failure", [RequestFailed(FailureKind.TIMEOUT, "so it was"), Deferred("so it was")])
    async def test_what_may_pass_fails_or_defers_the_whole(self, failure: Exception) -> None:
        models = [
            Model(BETTER, {0: failure}), Model(BETTER, {1: failure}), Model([failure]), Model([BETTER[0], failure]),
            Model([{"rerank": BETTER[0], "probe": failure}]),
        ]  # fmt: skip
        for model in models:
            with pytest.raises(type(failure), match="so it was"):
                await run(model)

    async def test_without_a_first_label_there_is_none(self) -> None:
        with pytest.raises(RequestFailed, match="refused: no"):
            await run(Model(BETTER, {0: RequestFailed(FailureKind.REFUSED, "no")}))
        with pytest.raises(UserError, match="refine asks a model"):
            await Refine()(EVIDENCE, None, VOCABULARY)

    async def test_where_nothing_can_be_simulated_it_says_so(self) -> None:
        refused = RequestFailed(FailureKind.REFUSED, "no")
        label = await run(Model([{"rerank": BETTER[0], "probe": refused}]))
        assert label.title == "label 0" and len(label.candidates) == 1
        assert label.remark == "refined no further: no context could be simulated to find errors: refused: no"
        label = await run(Model([refused]))
        assert label.remark is not None and label.remark.startswith(
            "the first label, not chosen by score: no context could be"
        )

    async def test_dropped_and_run_again_until_nothing_is_waited_for_it_is_the_same(self) -> None:
        model, journal = Model(BETTER), {}

        async def ask(request: Request) -> Answer:
            key = (request.messages, request.sample)
            if key not in journal:
                journal[key] = await model(request)
                raise Deferred("under way")
            return journal[key]

        label, turns = None, 0
        while label is None:
            turns += 1
            with suppress(Deferred):
                label = await run(ask)
        direct = Model(BETTER)
        assert label == await run(direct) and turns > 4 * 2
        asked = [sorted((str(one.messages), one.sample) for one in by.requests) for by in (model, direct)]
        assert asked[0] == asked[1]  # each was asked once


async def test_what_is_said_of_the_output_side_stays_but_is_not_compared_with_the_new_label() -> None:
    old = replace(Label("Bank", "A bank."), safety=("scams",), output=OutputLabel("Money", "Words for money.", True))
    none = Findings([], [], [])
    model = Model([], {0: json.dumps({**GOOD, "safety": ["privacy"]})})
    new = await Rewriter().rewritten(old, none, "{}", model)
    assert new.output == OutputLabel("Money", "Words for money.", None)
    assert new.title == GOOD["title"] and new.safety == ("privacy", "scams")
    plain = await Rewriter().rewritten(replace(old, output=None), none, "{}", model)
    assert plain.output is None and plain.safety == ("privacy",)


class BothSides(Model):
    """Answers `dual`'s two further questions, too: the output side is `said`, and the sides agree as `same` has it in turn."""

    def __init__(self, at: Sequence[Any], same: Sequence[Any], said: dict[str, Any] = SAID) -> None:
        super().__init__(at)
        self.same, self.said = same, said
        self.compared: list[dict[str, str]] = []

    def label(self, request: Request) -> str:
        if request.schema_name == "agreement":
            found = self.same[min(len(self.compared), len(self.same) - 1)]
            self.compared.append(data_of(request))
            if isinstance(found, Exception):
                raise found
            return json.dumps({"same": found})
        return json.dumps(self.said) if request.template_hash == Output().template_hash else super().label(request)


LENS_TOO = replace(
    EVIDENCE,
    promoted=LENS.promoted, suppressed=LENS.suppressed,
    promoted_logits=LENS.promoted_logits, suppressed_logits=LENS.suppressed_logits,
)  # fmt: skip


class TestBothSides:
    async def test_a_label_that_was_written_anew_is_compared_with_the_output_side_once(self) -> None:
        model = BothSides(BETTER, ["no", "yes"])
        label = await run(model, LENS_TOO, inner="dual")
        assert label.title == "label 3" and label.remark is None
        assert label.output is not None and (label.output.title, label.output.agrees) == (SAID["title"], True)
        assert [asked["input"] for asked in model.compared] == ["says 0", "says 3"]  # not those in between

    async def test_where_the_first_label_stays_its_own_comparison_does(self) -> None:
        model = BothSides([BETTER[3], BETTER[0]], ["no"])
        label = await run(model, LENS_TOO, inner="dual")
        assert label.title == "label 0" and label.output is not None and label.output.agrees is False
        assert len(model.compared) == 1

    async def test_there_is_nothing_to_compare_with_an_unclear_side(self) -> None:
        model = BothSides(BETTER, [], {**SAID, "kind": "unclear"})
        label = await run(model, LENS_TOO, inner="dual")
        assert label.title == "label 3" and label.output is not None and label.output.agrees is None
        assert model.compared == [] and label.remark is None

    async def test_a_judge_of_no_use_leaves_the_label_and_one_that_is_late_fails_it(self) -> None:
        model = BothSides(BETTER, ["no", RequestFailed(FailureKind.REFUSED, "the model refused")])
        label = await run(model, LENS_TOO, inner="dual")
        assert label.title == "label 3" and label.output is not None and label.output.agrees is None
        assert label.remark == "not known whether the two sides agree: refused: the model refused"
        with pytest.raises(RequestFailed, match="slow"):
            await run(BothSides(BETTER, ["no", RequestFailed(FailureKind.TIMEOUT, "slow")]), LENS_TOO, inner="dual")


@pytest.mark.parametrize("inner", ["lexicon", "best_of_k", "refine"])
def test_an_inner_explainer_that_cannot_begin_is_refused(inner: str) -> None:
    with pytest.raises(UserError, match=f"explain.inner = '{inner}': refine begins"):
        Refine().configured(Selection(), None, Search(inner))


def test_its_version_covers_what_it_depends_on(tmp_path: Path) -> None:
    part = explainers.get("refine")
    assert isinstance(part, Refine) and part.needs == ("json_schema",) and part.wants_negatives
    (tmp_path / "refine.j2").write_text("{% block system %}{% endblock %}{% block user %}{{ data }}{% endblock %}")
    found = [
        Refine(), Refine(Search("dual")), Refine(Search(steps=2)), Refine(Search(patience=2)), Refine(Search(errors=2)),
        Refine(Search(simulator="lexicon")), Refine(selection=Selection(window=64)), Refine(directory=tmp_path),
    ]  # fmt: skip
    assert len({one.version for one in found}) == len(found)
    assert Refine(Search(candidates=7)).version == part.version == Refine().version
    assert Refine(directory=tmp_path).template_hash != part.template_hash
