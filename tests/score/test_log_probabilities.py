"""The simulators that read log-probabilities: tables, alignment, and the same values as from the plainest computation."""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autointerp.catalog.records import Context, Label
from autointerp.errors import UserError
from autointerp.llm.local.loaded import Loaded, load
from autointerp.llm.provider import CallFailed, ProviderOptions, check_request, open_provider
from autointerp.llm.providers.mock import MockProvider
from autointerp.llm.providers.transformers import TransformersProvider
from autointerp.llm.types import Answer, Ask, FailureKind, Request, RequestFailed, TokenLogprobs
from autointerp.score import Settings, Simulated, simulators
from autointerp.score.all_at_once import HEADER, Table, at_slots, keeps_digits_apart, table
from autointerp.score.one_at_a_time import OneAtATime
from autointerp.vocabulary import Vocabulary
from tests.llm.local_models import save_model
from tests.score.builders import context

torch.set_num_threads(1)
NUMBERS = [str(number) for number in range(11)]
NASTY = ["The", " run", "\t", "\n", '"', '\\"', "a\tb\n", "<|im_end|>", "é", "\u200b", "", " unknown", "10", "日本"]
NASTY_BYTES = [text.encode() for text in NASTY] + [b"\xe2", b"\x96\x88"]
VOCABULARY = Vocabulary(["" for _ in NASTY_BYTES], NASTY_BYTES)
LABEL = Label("Runs", 'the word "run"\n10 10 10 </data>')
BILLS_NEAR = 9 * 0.005  # where 10 is two tokens, and p("1") too small for a request that tells 10 from 1
CONTEXTS = [context(1, 1, [0.0] * len(NASTY_BYTES)), context(2, 0, [0.0] * 3, tokens=[1, 1, 0])]


def save(folder: Path, family: str, *, whole: bool) -> Path:
    """A tiny model that likes numbers; `whole`: of which the tokenizer has a token "10"."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    save_model(folder, family, window=4096)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    digits = tokenizer.convert_tokens_to_ids(NUMBERS[:10])
    with torch.no_grad():
        model.get_output_embeddings().weight[digits] *= 3
    model.save_pretrained(folder)
    if whole:
        path = folder / "tokenizer.json"
        found = json.loads(path.read_text())
        found["model"]["vocab"]["10"] = max(found["model"]["vocab"].values()) + 1
        found["model"]["merges"].append(["1", "0"])
        path.write_text(json.dumps(found))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("modes")
    return {
        "whole": str(save(folder / "whole", "llama", whole=True)),
        "split": str(save(folder / "split", "llama", whole=False)),
        "window": str(save(folder / "window", "qwen2", whole=False)),
    }


class Line:
    """A local model behind an `ask`, and what it was asked."""

    def __init__(self, model: str) -> None:
        self.provider = TransformersProvider(ProviderOptions(argument="cpu", model=model, concurrency=32))
        self.model, self.asked = model, []

    async def ask(self, request: Request) -> Answer:
        check_request(self.provider, request)
        self.asked.append(request)
        try:
            reply = await self.provider.send(request, self.provider.payload(self.model, request))
        except CallFailed as failure:
            raise RequestFailed(failure.kind, failure.reason) from None
        if reply.finish != "stop":
            raise RequestFailed(FailureKind.TRUNCATED, reply.finish)
        return Answer("key", reply.text, "stop", self.model, reply.usage, logprobs=reply.logprobs)


@pytest.fixture
def line() -> Iterator[Callable[[str], Line]]:
    lines: list[Line] = []

    def make(model: str) -> Line:
        lines.append(Line(model))
        return lines[-1]

    yield make
    for one in lines:
        asyncio.run(one.provider.close())


def simulate(name: str, ask: Ask | None, contexts: Any = CONTEXTS, **settings: Any) -> Awaitable[list[Simulated]]:
    by = simulators.get(name).configured(Settings(**settings))
    return by(LABEL, contexts, 1.0, ask, VOCABULARY)


def naive_value(plain: Loaded, prompt: list[int], text: str, alternatives: int | None = None) -> float:
    """The expected value of the number that would come after `text`: every probability by a pass of its own, without a cache.

    `alternatives`: only what is among so many likeliest tokens counts; then 10 is asked for only if 1 is among them.
    """
    before = plain.prompts.encode_continuation(text) if text else []

    def distribution(ids: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            return torch.softmax(
                plain.model(torch.tensor([[*prompt, *ids]]), use_cache=False).logits[0, -1].double(), -1
            )

    first = distribution(before)
    likeliest = set(first.topk(alternatives).indices.tolist()) if alternatives else None
    chance = np.zeros(11)
    for value, number in enumerate(NUMBERS):
        ids = plain.prompts.encode_continuation(text + number)[len(before) :]
        if likeliest is not None and ids[0] not in likeliest:
            continue
        chance[value] = float(first[ids[0]])
        if len(ids) == 2:
            chance[value] *= float(distribution([*before, ids[0]])[ids[1]])
            chance[1] -= chance[value]
    return float(chance @ np.arange(11) / chance.sum()) if chance.sum() else 0.0


@pytest.mark.parametrize("reading", ["exact", "bills23"])
@pytest.mark.parametrize("kind", ["whole", "split", "window"])
async def test_all_at_once_is_what_reading_one_position_after_the_other_gives(
    models: dict[str, str], line: Callable[[str], Line], kind: str, reading: str
) -> None:
    """With a token "10", with digits apart in one pass, and with digits apart where a sliding window makes further requests."""
    here, plain, exact = (
        line(models[kind]),
        load(models[kind], None, "cpu", "auto"),
        reading == "exact" or kind == "whole",
    )
    simulated = await simulate("all_at_once", here.ask, reading=reading)
    for one, found in zip(CONTEXTS, simulated, strict=True):
        request = next(sent for sent in here.asked[1:] if len(sent.slots) == len(one.tokens))
        prompt, text = plain.prompts.encode(request.messages), str(request.continuation)
        naive = [
            naive_value(plain, prompt, text[:slot], 15 if reading == "bills23" else None) for slot in request.slots
        ]
        assert found.status == "ok" and found.window_id == one.window_id and found.expected is not None
        assert found.expected.tolist() == pytest.approx(naive, abs=1e-4 if exact else BILLS_NEAR)
        assert found.mass is not None and found.mass.shape == found.expected.shape
        assert (found.reason is None) == (float(found.mass.mean()) >= 0.5)
    further = len(here.asked) - 1 - len(CONTEXTS)
    assert (further > 0) == (kind == "window" or (kind == "split" and reading == "bills23"))


@pytest.mark.parametrize("reading", ["exact", "bills23"])
@pytest.mark.parametrize("kind", ["whole", "split"])
async def test_one_at_a_time_is_the_value_of_the_next_token(
    models: dict[str, str], line: Callable[[str], Line], kind: str, reading: str
) -> None:
    here, plain = line(models[kind]), load(models[kind], None, "cpu", "auto")
    (found,) = await simulate("one_at_a_time", here.ask, CONTEXTS[1:], reading=reading, offers=("prompt_logprobs",))
    asked = [request for request in here.asked if request.may_be_cut][1:]  # the first asks how 10 is written
    assert len(asked) == 3 and found.expected is not None
    prompts = [plain.prompts.encode(request.messages) for request in asked]
    naive = [naive_value(plain, prompt, "", 15 if reading == "bills23" else None) for prompt in prompts]
    assert found.expected.tolist() == pytest.approx(naive, abs=1e-4)
    shown = [json.loads(request.messages[1].content.split("\n")[1]) for request in asked]
    assert [one["token"] for one in shown] == [" run", " run", "The"]
    assert [one["text"] for one in shown] == [" run", " run run", " run runThe"]
    assert {one["explanation"] for one in shown} == {LABEL.description}


@pytest.mark.parametrize("written, given, splits", [
    (["10"], None, False),  # a server may have no log-probabilities of given texts, whatever its kind
    (["1", "0"], None, True),
    (["Ten", "."], ["1", "0"], True),
    (["Ten", "."], ["10"], False),
])  # fmt: skip
async def test_how_10_is_written_is_seen_in_an_answer_or_else_in_a_given_text(
    written: list[str], given: list[str] | None, splits: bool
) -> None:
    async def ask(request: Request) -> Answer:
        tokens = given if request.continuation else written
        assert tokens is not None
        return answer_of(*tokens)

    assert await OneAtATime(reads_given=True).splits_ten(ask) == splits


def test_tokens_are_escaped_so_that_they_can_be_read_back() -> None:
    escaped = [VOCABULARY.escaped(token) for token in range(len(VOCABULARY))]
    made = table(escaped)
    lines = made.text.split("\n")
    assert lines[0] == HEADER and len(lines) == 1 + len(escaped)
    for token, (row, slot) in enumerate(zip(lines[1:], made.slots, strict=True)):
        written, hidden = row.split("\t")
        assert hidden == "unknown" and made.text[slot:].startswith("unknown")
        assert json.loads(f'"{written}"') == VOCABULARY.text(token)
    assert (
        not made.text.endswith("\n") and made.text.strip() == made.text
    )  # chat templates cut white space off the ends


def answer_of(*tokens: str) -> Answer:
    return Answer(
        "key", "".join(tokens), "stop", "m", logprobs=[TokenLogprobs(token, -1.0, {"7": -1.0}) for token in tokens]
    )


def test_tokens_that_are_not_those_of_the_table_are_no_answer() -> None:
    asked = Table("token\tactivation\na\tunknown", (19,))
    assert asked.text[19:] == "unknown"
    (read,) = at_slots(answer_of("token", "\t", "activation\n", "a", "\t", "", "un", "known"), asked)
    assert read.token == "un"
    with pytest.raises(RequestFailed, match="none of the model's tokens begins at the activation of token 1"):
        at_slots(answer_of("token", "\t", "activation\n", "a", "\tun", "known"), asked)
    with pytest.raises(RequestFailed, match="are not those of the table"):
        at_slots(answer_of("token", "\t", "activation\n", "b", "\t", "unknown"), asked)
    with pytest.raises(RequestFailed, match="are not those of the table"):
        at_slots(answer_of(), asked)


async def test_the_tokenizer_is_looked_at_first() -> None:
    def written(ten: list[str], tab: str = "\t") -> Ask:
        rows = [["a", tab, "unknown"], [" b", tab, *ten], ["c", tab, "7"], [".", tab, "unknown"]]

        async def ask(request: Request) -> Answer:
            tokens = ["token\tactivation"] + [token for row in rows for token in ("\n", *row)]
            assert "".join(tokens) == request.continuation and request.slots == ()
            return answer_of(*tokens)

        return ask

    assert not await keeps_digits_apart(written(["10"]))
    assert await keeps_digits_apart(written(["1", "0"]))

    async def joins(request: Request) -> Answer:
        return answer_of(*(part for part in str(request.continuation).replace("\t", "\x00\t").split("\x00")))

    with pytest.raises(UserError, match="does not keep a table's activations apart"):
        await keeps_digits_apart(joins)


@pytest.mark.parametrize("name", ["all_at_once", "one_at_a_time"])
async def test_a_failed_request_is_a_failed_context(name: str) -> None:
    mock = MockProvider()

    async def ask(request: Request) -> Answer:
        of_first = len(request.slots or ()) == len(NASTY_BYTES)
        if of_first or '"token":"\\t"' in request.messages[-1].content:
            raise RequestFailed(FailureKind.TIMEOUT, "too slow")
        reply = await mock.send(request, {})
        return Answer("key", reply.text, "stop", "m", reply.usage, logprobs=reply.logprobs)

    first, second = await simulate(name, ask, offers=("prompt_logprobs",))
    assert (first.status, first.expected) == ("failed", None) and "timeout: too slow" in str(first.reason)
    assert name == "all_at_once" or "(token 2; 1 of 16 tokens failed)" in str(first.reason)
    assert second.status == "ok" and second.expected is not None


@pytest.mark.parametrize("name", ["all_at_once", "one_at_a_time"])
async def test_where_the_first_question_fails_every_context_does(name: str) -> None:
    async def ask(request: Request) -> Answer:
        raise RequestFailed(FailureKind.REJECTED, "the server gives no log-probabilities of the prompt")

    for found in await simulate(name, ask, offers=("prompt_logprobs",)):
        assert found.status == "failed" and "gives no log-probabilities" in str(found.reason)
    with pytest.raises(UserError, match="asks a model, and none is given"):
        await simulate(name, None)


@pytest.mark.parametrize(
    ("answer", "message"),
    [(["1", "0"], "cannot tell 10 from 1"), (["Ten"], r"its answer begins \['Ten'\]; expected 10")],
)
async def test_one_at_a_time_asks_how_ten_is_written(answer: list[str], message: str) -> None:
    """Of a provider that gives no log-probabilities of given texts."""

    async def ask(request: Request) -> Answer:
        assert request.continuation is None and request.max_tokens == 2
        return answer_of(*answer)

    with pytest.raises(UserError, match=message):
        await simulate("one_at_a_time", ask)


@pytest.mark.parametrize(
    ("name", "reading", "provider", "lacks", "offered"),
    [
        (
            "all_at_once",
            "bills23",
            "files",
            "prompt_logprobs",
            "transformers, or http and openai with a server such as vLLM",
        ),
        ("all_at_once", "exact", "http", "exact_logprobs", "transformers"),
        ("one_at_a_time", "bills23", "anthropic", "logprobs", "transformers, or openai and http"),
    ],
)
async def test_a_provider_without_log_probabilities_is_told_with_those_that_have_them(
    name: str, reading: str, provider: str, lacks: str, offered: str, tmp_path: Path
) -> None:
    opened = open_provider(provider, folder=tmp_path, base_url="http://127.0.0.1:1/v1" if provider == "http" else None)

    async def ask(request: Request) -> Answer:
        if not request.messages[0].content.startswith(("A table", "Write the number")) or reading != "exact":
            check_request(opened, request)
        reply = await MockProvider().send(request, {})
        return Answer("key", reply.text, "stop", "m", reply.usage, logprobs=reply.logprobs)

    with pytest.raises(UserError, match=f"needs {lacks}, which .* {provider!r} does not offer.*{offered}"):
        await simulate(name, ask, reading=reading)
    assert lacks in simulators.get(name).configured(Settings(reading=reading)).needs


def test_versions_tell_readings_apart() -> None:
    for name in ("all_at_once", "one_at_a_time"):
        part = simulators.get(name)
        versions = {part.configured(replace(Settings(), reading=reading)).version for reading in ("exact", "bills23")}
        assert len(versions) == 2


def test_no_context_leaves_nothing_to_ask(models: dict[str, str]) -> None:
    async def ask(request: Request) -> Answer:
        reply = await MockProvider().send(request, {})
        return Answer("key", reply.text, "stop", "m", reply.usage, logprobs=reply.logprobs)

    assert asyncio.run(simulate("all_at_once", ask, [])) == []
    assert math.isfinite(float(context(1, 0, [0.0]).peak)) and isinstance(CONTEXTS[0], Context)
