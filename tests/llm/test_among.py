"""Exact log-probabilities of given texts on a local model, of one token and of two, against the plainest computation."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from autointerp.llm import Message, Request
from autointerp.llm.local.among import sees_all
from autointerp.llm.local.loaded import Loaded, load
from autointerp.llm.provider import ProviderOptions
from autointerp.llm.providers.transformers import TransformersProvider
from tests.llm.local_models import FAMILIES, SYSTEM, save_model, send, send_all

torch.set_num_threads(1)
NUMBERS = tuple(str(number) for number in range(11))
LINES = ["the\tunknown\ncat\tunknown\nsat\tunknown", 'x\tunknown\n\\"é"\tunknown', "a\tunknown"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("among")
    return {family: save_model(folder / family, family) for family in FAMILIES}


@pytest.fixture
def opened() -> Iterator[Any]:
    providers: list[TransformersProvider] = []

    def make(model: str) -> TransformersProvider:
        providers.append(TransformersProvider(ProviderOptions(argument="cpu", model=model)))
        return providers[-1]

    yield make
    for provider in providers:
        asyncio.run(provider.close())


def slots_of(text: str) -> list[int]:
    return [at + 1 for at, char in enumerate(text) if char == "\t"]


def naive_logprob(plain: Loaded, before: list[int], ids: list[int]) -> float:
    """log p(ids | before), every token from the whole text, without a cache."""
    total = 0.0
    for index, token in enumerate(ids):
        with torch.inference_mode():
            logits = plain.model(torch.tensor([[*before, *ids[:index]]]), use_cache=False).logits[0, -1].float()
        total += float(torch.log_softmax(logits, -1)[token])
    return total


@pytest.mark.parametrize("family", FAMILIES)
async def test_numbers_at_slots_equal_the_plainest_computation(
    family: str, models: dict[str, Path], opened: Any
) -> None:
    """The tokenizer cuts "10" in two; several rows of different lengths and numbers of slots in one batch."""
    model = str(models[family])
    plain = load(model, None, "cpu", "auto")
    assert len(plain.prompts.encode_continuation("\t10")) == 3
    requests = [
        Request([Message("system", SYSTEM), Message("user", str(i))], continuation=text, logprobs=0, slots=slots_of(text),
                among=NUMBERS)
        for i, text in enumerate(LINES)
    ]  # fmt: skip
    for request, reply in zip(requests, await send_all(opened(model), requests, model), strict=True):
        text, prompt = str(request.continuation), plain.prompts.encode(request.messages)
        starts = [0]
        for one in reply.logprobs:
            starts.append(starts[-1] + len(one.token))
        read = {start: one for start, one in zip(starts, reply.logprobs, strict=False) if one.top}
        assert sorted(read) == request.slots
        for slot, one in read.items():
            before = plain.prompts.encode_continuation(text[:slot])
            given = set(NUMBERS) if sees_all(plain) else set(NUMBERS) - {"10"}
            assert one.top.keys() == given
            for number in given:
                ids = plain.prompts.encode_continuation(text[:slot] + number)[len(before) :]
                assert one.top[number] == pytest.approx(naive_logprob(plain, [*prompt, *before], ids), abs=1e-4)


def test_which_families_are_read_in_one_pass(models: dict[str, Path]) -> None:
    """Those with a sliding window are not: an added token would see too much."""
    seen = {family: sees_all(load(str(models[family]), None, "cpu", "auto")) for family in FAMILIES}
    assert seen == {"llama": True, "qwen2": False, "gemma3_text": False, "gpt2": True, "gpt_neox": True}


async def test_alternatives_come_beside_what_is_asked_for(models: dict[str, Path], opened: Any) -> None:
    model = str(models["llama"])
    base = Request([Message("user", "x")], continuation=LINES[0], logprobs=3)
    both = Request([Message("user", "x")], continuation=LINES[0], logprobs=3, among=("7",), slots=(4,))
    provider = opened(model)
    without, with_them = await send(provider, base, model), await send(provider, both, model)
    at = [one.token for one in without.logprobs].index("\t") + 1
    assert with_them.logprobs[at].top.keys() == without.logprobs[at].top.keys() | {"7"}
    assert all(not one.top for index, one in enumerate(with_them.logprobs) if index != at)
    assert all(one.top for one in without.logprobs)
    assert provider.payload(model, base) != provider.payload(model, both)


async def test_a_cut_answer_is_an_answer_where_that_is_said(models: dict[str, Path], opened: Any) -> None:
    model, provider = str(models["llama"]), opened(str(models["llama"]))
    asked = Request([Message("user", "x")], max_tokens=1, logprobs=2, among=NUMBERS)
    cut = await send(provider, asked, model)
    kept = await send(
        provider, Request([Message("user", "x")], max_tokens=1, logprobs=2, among=NUMBERS, may_be_cut=True), model
    )
    assert (cut.finish, kept.finish) == ("length", "stop")
    (one,) = kept.logprobs
    plain = load(model, None, "cpu", "auto")
    prompt = plain.prompts.encode(asked.messages)
    assert set(NUMBERS[:10]) <= one.top.keys()
    for number in NUMBERS[:10]:
        ids = plain.prompts.encode_continuation(number)
        assert one.top[number] == pytest.approx(naive_logprob(plain, prompt, ids), abs=1e-4)
