"""The explainer `best_of_k`: other samples of one question, chosen by r on the rerank split and by nothing else."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autointerp.catalog.records import Candidate, Context, FeatureEvidence
from autointerp.errors import UserError
from autointerp.explain import Search, explainers
from autointerp.explain.best_of_k import BestOfK
from autointerp.explain.exemplars import Selection
from autointerp.llm.types import Answer, Deferred, FailureKind, Request, RequestFailed
from autointerp.score import Simulated
from tests.explain.test_token_activation import VOCABULARY, evidence, one_hot

RERANK = [
    one_hot(11, 8, split="rerank", kind="band", band=1),
    one_hot(12, 9, split="rerank", kind="band", band=2),
    one_hot(13, 0, split="rerank", kind="silent", band=0),
]
TEST = one_hot(31, 9, split="test", kind="band")
EVIDENCE = evidence([one_hot(1, 9), one_hot(2, 8, kind="band"), *RERANK, TEST])
PEAK = 20  # of every active context


class Model:
    """Candidate i is called "label i"; its simulation puts 10 at `at[i]` in every text. An exception is raised instead."""

    def __init__(self, at: Sequence[int | Exception], labels: dict[int, Exception | str] | None = None) -> None:
        self.at, self.labels = at, labels or {}
        self.requests: list[Request] = []

    async def __call__(self, request: Request) -> Answer:
        self.requests.append(request)
        return Answer(
            "key", self.simulation(request) if request.purpose == "rerank" else self.label(request), "stop", "m"
        )

    def label(self, request: Request) -> str:
        number = request.sample // 100
        planned = self.labels.get(number)
        if isinstance(planned, Exception):
            raise planned
        return planned or json.dumps({"title": f"label {number}", "description": f"says {number}", "kind": "token"})

    def simulation(self, request: Request) -> str:
        data = json.loads("\n".join(request.messages[1].content.split("\n")[1:-1]))
        at = self.at[int(data["explanation"].split()[1])]
        if isinstance(at, Exception):
            raise at
        texts = [{"id": name, "active": [[at, tokens[str(at)], 10]]} for name, tokens in data["texts"].items()]
        return json.dumps({"texts": texts})


async def run(model: Model, found: FeatureEvidence = EVIDENCE, **search: Any) -> Any:
    part = BestOfK(Search(**{"candidates": len(model.at), **search}))
    return await part(found, model, VOCABULARY)


async def test_the_candidate_with_the_best_r_on_the_rerank_split_is_chosen() -> None:
    label = await run(Model([3, PEAK, 7]))
    assert label.title == "label 1" and label.remark is None and list(label.evidence) == [1, 2]
    scores = [candidate.score for candidate in label.candidates]
    assert [candidate.chosen for candidate in label.candidates] == [False, True, False]
    assert label.candidates[1] == Candidate(2, "label 1", "says 1", scores[1], True)
    # By hand: weights 1/2 for each active text, 1 for the silent one, 64 tokens each. True: 8 and 9 at the peak. Simulated: 10 at
    # the peak of all three.
    w, a, s = np.repeat([0.5, 0.5, 1], 64), np.zeros(192), np.zeros(192)
    a[[20, 84]], s[[20, 84, 148]] = (8, 9), 10
    mean_a, mean_s = np.average(a, weights=w), np.average(s, weights=w)
    covariance = np.average((a - mean_a) * (s - mean_s), weights=w)
    spread = np.average((a - mean_a) ** 2, weights=w) * np.average((s - mean_s) ** 2, weights=w)
    assert scores[1] == pytest.approx(covariance / spread**0.5) and scores[0] == pytest.approx(scores[2])
    assert scores[0] is not None and scores[0] < 0


async def test_of_equal_ones_the_first_is_chosen() -> None:
    assert (await run(Model([PEAK] * 3))).title == "label 0"


async def test_candidates_are_other_samples_of_one_question_and_a_second_try_is_one_of_its_own() -> None:
    model = Model([PEAK, PEAK], {1: "no JSON at all"})
    label = await run(model)
    asked = [request for request in model.requests if request.purpose == "explain"]
    assert sorted(request.sample for request in asked) == [0, 100, 101]
    assert len({request.messages[:2] for request in asked}) == 1
    assert {request.temperature for request in asked} == {None}
    assert label.candidates[1] == Candidate(2, None, None, None, False, "malformed: no JSON object in the answer")


async def test_candidates_never_see_the_rerank_split_and_nobody_sees_the_test_split() -> None:
    model = Model([PEAK, 3])
    await run(model)
    for request in model.requests:
        text = request.messages[1].content
        hidden = [TEST] if request.purpose == "rerank" else [*RERANK, TEST]
        seen = {int(word) for word in re.findall(r"\bw(\d+)", text)}
        for one in hidden:
            assert not seen & set(map(int, one.tokens))


async def test_the_simulator_does_not_see_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    from autointerp.score import simulators

    given: list[Context] = []
    simulator = simulators.get("logprob_free")

    class Spy:
        needs_model, needs = True, ("json_schema",)

        async def __call__(self, label: Any, contexts: Sequence[Context], *rest: Any) -> list[Simulated]:
            given.extend(contexts)
            return await simulator(label, contexts, *rest)

    monkeypatch.setattr(BestOfK, "_simulator", lambda self: Spy())
    await run(Model([PEAK, PEAK]))
    assert len(given) == 6 and not any(context.activations.any() for context in given)


@pytest.mark.parametrize("contexts", [[], [RERANK[2]]])
async def test_without_an_activating_context_to_compare_on_the_first_is_taken_and_says_so(
    contexts: list[Context],
) -> None:
    model = Model([3, PEAK])
    label = await run(model, evidence([one_hot(1, 9), *contexts, TEST]))
    reason = "the feature is active in no context of the rerank split"
    assert label.title == "label 0" and label.remark == f"the first candidate, not chosen by score: {reason}"
    assert [(one.score, one.reason, one.chosen) for one in label.candidates] == [
        (None, reason, True),
        (None, reason, False),
    ]
    assert {request.purpose for request in model.requests} == {"explain"}


async def test_where_no_score_is_defined_the_first_is_taken_and_says_so() -> None:
    refused = RequestFailed(FailureKind.REFUSED, "no")
    label = await run(Model([refused, refused]))
    assert label.title == "label 0" and label.remark.startswith(
        "the first candidate, not chosen by score: no context could be"
    )
    assert "refused: no" in label.candidates[0].reason


async def test_candidates_whose_answer_is_of_no_use_are_out_of_the_choice_and_kept() -> None:
    refused = RequestFailed(FailureKind.REFUSED, "no")
    label = await run(Model([PEAK, 3, PEAK], {0: refused}))
    assert label.title == "label 2"
    assert label.candidates[0] == Candidate(1, None, None, None, False, "refused: no")
    with pytest.raises(RequestFailed, match="refused"):
        await run(Model([PEAK, 3], {0: refused, 1: refused}))


@pytest.mark.parametrize("failure", [RequestFailed(FailureKind.TIMEOUT, "so it was"), Deferred("so it was")])
async def test_what_may_pass_fails_or_defers_the_whole(failure: Exception) -> None:
    for model in (Model([PEAK, PEAK, 3], {1: failure}), Model([PEAK, failure, 3])):
        with pytest.raises(type(failure), match="so it was"):
            await run(model)
        assert len([r for r in model.requests if r.purpose == "explain"]) == 3  # none was left unasked


async def test_a_feature_without_evidence_is_a_failure() -> None:
    with pytest.raises(RequestFailed) as caught:
        await run(Model([PEAK, PEAK]), evidence(RERANK))
    assert caught.value.kind == FailureKind.NO_EVIDENCE


async def test_without_a_model_it_says_what_to_do() -> None:
    with pytest.raises(UserError, match="best_of_k asks a model"):
        await BestOfK()(EVIDENCE, None, VOCABULARY)


def test_no_explainer_asks_for_the_test_split() -> None:
    for name, part in explainers.items():
        assert "test" not in part.splits, name
        searching = ("best_of_k", "refine", "investigate")
        assert part.splits == (("explain", "rerank") if name in searching else ("explain",)), name


@pytest.mark.parametrize("inner", ["lexicon", "best_of_k", "refine"])
def test_what_has_nothing_to_choose_from_is_refused(inner: str) -> None:
    with pytest.raises(UserError, match=f"explain.inner = '{inner}'"):
        BestOfK().configured(Selection(), None, Search(inner))


def test_its_version_covers_what_it_depends_on() -> None:
    part = explainers.get("best_of_k")
    assert isinstance(part, BestOfK) and part.needs_model and part.needs == ("json_schema",)
    found = [
        BestOfK(), BestOfK(Search("dual")), BestOfK(Search(candidates=3)), BestOfK(Search(simulator="lexicon")),
        BestOfK(selection=Selection(window=64)),
    ]  # fmt: skip
    assert len({one.version for one in found}) == 5
    assert replace(found[0]).version == part.version
