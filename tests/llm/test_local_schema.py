"""Answers held to a JSON schema by a model that knows nothing of JSON."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("llguidance", reason="llguidance is not installed (the extra local)")

from autointerp.errors import UserError
from autointerp.explain.answers import SCHEMA as EXPLANATION
from autointerp.llm import CallFailed, FailureKind, Reply
from autointerp.llm.local.schema import Schemas
from autointerp.llm.provider import ProviderOptions, check_request
from autointerp.llm.providers.transformers import TransformersProvider
from autointerp.score.questions import SCHEMA as SIMULATION
from tests.llm.local_models import outcome, questions, save_model, send

SMALL = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 12}, "kind": {"enum": ["token", "phrase"]},
        "marks": {"type": "array", "minItems": 2, "maxItems": 3, "items": {"type": "integer", "minimum": 0, "maximum": 10}},
    },
    "required": ["title", "kind", "marks"], "additionalProperties": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_model(tmp_path_factory.mktemp("schema") / "model", window=4096))


async def test_every_answer_fits(model: str) -> None:
    """Greedy and drawn, with others without a schema in the batch."""
    provider = TransformersProvider(ProviderOptions(argument="cpu", model=model))
    asked = [replace(one, json_schema=SMALL, max_tokens=200) for one in questions(4)]
    asked += [replace(one, temperature=1.0, sample=number) for number, one in enumerate(asked)]
    for one in asked:
        check_request(provider, one)
    free = questions(2)
    replies = await asyncio.gather(*(send(provider, one, model) for one in [*asked, *free]))
    for reply in replies[:8]:
        answer = json.loads(reply.text)
        assert reply.finish == "stop" and list(answer) == ["title", "kind", "marks"]
        assert len(answer["title"]) <= 12 and answer["kind"] in ("token", "phrase")
        assert 2 <= len(answer["marks"]) <= 3 and all(0 <= mark <= 10 for mark in answer["marks"])
        assert "".join(one.token for one in reply.logprobs) == reply.text
    assert len({reply.text for reply in replies[4:8]}) == 4
    cut = await send(provider, replace(asked[0], max_tokens=3), model)
    assert (cut.finish, cut.usage.output) == ("length", 3)
    alone = await send(provider, free[0], model)
    assert alone.text == replies[8].text
    await provider.close()


async def test_the_schemas_of_our_own_prompts(model: str) -> None:
    provider = TransformersProvider(ProviderOptions(argument="cpu", model=model))
    for schema in (EXPLANATION, SIMULATION):
        reply = await outcome(
            provider, replace(questions(1)[0], json_schema=schema, max_tokens=600, temperature=0.7), model
        )
        assert isinstance(reply, Reply)
        assert reply.text.startswith("{") and (reply.finish == "length" or json.loads(reply.text))
    await provider.close()


async def test_a_schema_that_cannot_be_followed(model: str) -> None:
    provider = TransformersProvider(ProviderOptions(argument="cpu", model=model))
    broken = {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}}
    good, failure = await asyncio.gather(
        send(provider, questions(2)[1], model), outcome(provider, replace(questions(1)[0], json_schema=broken), model)
    )
    assert good.text
    assert isinstance(failure, CallFailed) and failure.kind is FailureKind.REJECTED
    assert "the JSON schema cannot be followed" in failure.reason and "nowhere" in failure.reason
    assert (await send(provider, questions(1)[0], model)).text
    await provider.close()


def test_the_capability_is_there(tmp_path: Path) -> None:
    assert TransformersProvider(ProviderOptions()).capabilities.json_schema


def test_a_tokenizer_that_cannot_be_used() -> None:
    with pytest.raises(UserError, match="cannot be held to a JSON schema with this model's tokenizer"):
        Schemas(object(), 10, [1])
