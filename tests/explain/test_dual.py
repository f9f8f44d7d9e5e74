"""The explainer `dual`: two sides kept apart, and a third question that sees nothing but what was said of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autointerp.catalog.records import Label, OutputLabel
from autointerp.explain import explainers
from autointerp.explain.dual import Dual
from autointerp.explain.exemplars import Selection
from autointerp.explain.output import Output
from autointerp.explain.token_activation import TokenActivation
from autointerp.llm.types import Answer, Deferred, FailureKind, Request, RequestFailed
from autointerp.resources import packaged
from tests.explain.test_output import ATTACKS, LENS, SAID
from tests.explain.test_token_activation import GOOD, VOCABULARY, Model


class Sides:
    """Answers each of the three questions; an exception is raised in place of an answer."""

    def __init__(self, read: Any = GOOD, said: Any = SAID, same: Any = "yes") -> None:
        self.by_name = {
            TokenActivation().template_hash: read, Output().template_hash: said, "agreement": {"same": same},
        }  # fmt: skip
        if isinstance(same, Exception):
            self.by_name["agreement"] = same
        self.requests: list[Request] = []

    async def __call__(self, request: Request) -> Answer:
        self.requests.append(request)
        answer = self.by_name["agreement" if request.schema_name == "agreement" else request.template_hash]
        if isinstance(answer, Exception):
            raise answer
        return Answer("key", json.dumps(answer), "stop", "model")


@pytest.mark.parametrize(
    ("same", "agrees"), [("yes", True), ("no", False), (True, True), (False, False), (" No.", False)]
)
async def test_the_sides_are_kept_apart_and_judged(same: Any, agrees: bool) -> None:
    model = Sides(same=same)
    label = await Dual()(LENS, model, VOCABULARY)
    assert label == Label(
        "The word foo",
        'The word "foo".',
        "token",
        evidence=[3],
        output=OutputLabel("States", 'The word "States".', agrees),
    )
    assert [request.schema_name for request in model.requests] == ["label", "label", "agreement"]


async def test_the_sides_are_asked_as_their_own_explainers_ask() -> None:
    model, read, said = Sides(), Model(GOOD), Model(SAID)
    settings: dict[str, Any] = {"selection": Selection(window=16), "max_tokens": 99}
    await Dual(**settings)(LENS, model, VOCABULARY)
    await TokenActivation(**settings)(LENS, read, VOCABULARY)
    await Output(**settings)(LENS, said, VOCABULARY)
    for asked, alone in zip(model.requests, (read.requests[0], said.requests[0]), strict=False):
        assert replace(asked, check=None) == replace(alone, check=None)


async def test_the_judge_sees_the_two_descriptions_and_no_more() -> None:
    model = Sides()
    await Dual()(LENS, model, VOCABULARY)
    user = model.requests[2].messages[1].content
    assert user.split("\n")[1:-1] == [
        '{"input":"The word \\"foo\\".",', '"output":"The word \\"States\\"."}',
    ]  # fmt: skip


async def test_safety_tags_of_both_sides_are_kept() -> None:
    model = Sides({**GOOD, "safety": ["bias", "scams"]}, {**SAID, "safety": ["scams", "deception"]})
    assert (await Dual()(LENS, model, VOCABULARY)).safety == ("bias", "scams", "deception")


async def test_without_the_lens_there_is_no_output_label() -> None:
    model = Sides()
    bare = replace(LENS, promoted=(), suppressed=(), promoted_logits=(), suppressed_logits=())
    label = await Dual()(bare, model, VOCABULARY)
    assert label.title == "The word foo" and label.output is None and len(model.requests) == 1


@pytest.mark.parametrize(("read", "said"), [({**GOOD, "kind": "unclear"}, SAID), (GOOD, {**SAID, "kind": "unclear"})])
async def test_where_a_side_is_unclear_nobody_judges(read: Any, said: Any) -> None:
    model = Sides(read, said, RequestFailed(FailureKind.TIMEOUT, "not to be asked"))
    label = await Dual()(LENS, model, VOCABULARY)
    assert label.output is not None and (label.output.title, label.output.agrees) == ("States", None)


@pytest.mark.parametrize("side", ["read", "said", "same"])
async def test_a_request_that_fails_fails_the_whole(side: str) -> None:
    model = Sides(**{side: RequestFailed(FailureKind.TIMEOUT, "no answer within 120 s")})
    with pytest.raises(RequestFailed, match="no answer within") as caught:
        await Dual()(LENS, model, VOCABULARY)
    assert caught.value.kind == FailureKind.TIMEOUT


async def test_a_judge_that_says_neither_yes_nor_no_is_asked_again_and_then_fails() -> None:
    model = Sides(same="perhaps")
    with pytest.raises(RequestFailed) as caught:
        await Dual()(LENS, model, VOCABULARY)
    assert caught.value.kind == FailureKind.MALFORMED and [r.sample for r in model.requests] == [0, 0, 0, 1]


async def test_a_feature_that_is_never_active_has_no_label_whatever_the_lens_says() -> None:
    with pytest.raises(RequestFailed, match="active in no context of the explain split"):
        await Dual()(replace(LENS, contexts=[]), Sides(), VOCABULARY)


async def test_answers_that_are_under_way_are_both_asked_for_first() -> None:
    model = Sides(Deferred(), Deferred())
    with pytest.raises(Deferred):
        await Dual()(LENS, model, VOCABULARY)
    assert len(model.requests) == 2


async def test_what_a_side_says_cannot_speak_to_the_judge() -> None:
    hostile = "".join(ATTACKS)
    model = Sides({**GOOD, "description": hostile}, {**SAID, "description": hostile})
    label = await Dual()(LENS, model, VOCABULARY)
    system, user = (message.content for message in model.requests[2].messages)
    mark = user[6:22]
    assert [line for line in user.split("\n") if mark in line] == [f"<data {mark}>", f"</data {mark}>"]
    data = json.loads("\n".join(user.split("\n")[1:-1]))
    assert label.output is not None
    assert data == {"input": label.description, "output": label.output.description} and len(user.split("\n")) == 4
    assert "<|im_" not in user and "[/INST]" not in user and "pwned" not in system
    assert all(char.isprintable() or char == "\n" for char in user)


@pytest.mark.parametrize("template", ["dual", "output", "token_activation", "_label", "_output_label"])
def test_its_version_changes_with_each_of_its_prompts(tmp_path: Path, template: str) -> None:
    text = (packaged("prompts") / f"{template}.j2").read_text(encoding="utf-8")
    (tmp_path / f"{template}.j2").write_text(text.replace("token", "piece", 1).replace("feature", "unit", 1))
    changed = Dual(directory=tmp_path)
    assert changed.version != Dual().version and changed.template_hash != Dual().template_hash


def test_it_is_registered_and_its_version_changes_with_the_settings() -> None:
    part = explainers.get("dual")
    assert isinstance(part, Dual) and part.splits == ("explain",)
    settings: list[dict[str, Any]] = [{}, {"selection": Selection(window=64)}, {"max_tokens": 9}, {"temperature": 1.0}]
    assert len({Dual(**changed).version for changed in settings}) == 4
