"""The provider `transformers` against the plainest computation: batches, beginnings run once, log-probabilities, draws."""

import asyncio
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autointerp.errors import UserError
from autointerp.llm import Broker, CallFailed, FailureKind, Journal, Message, Reply, Request, RequestFailed
from autointerp.llm.local.engine import Engine
from autointerp.llm.local.jobs import Job
from autointerp.llm.local.loaded import Loaded, load
from autointerp.llm.provider import ProviderOptions, check_request, open_provider
from autointerp.llm.providers.transformers import Place, TransformersProvider, read_place
from tests.llm.local_models import FAMILIES, SYSTEM, naive, outcome, questions, save_model, send, send_all

torch.set_num_threads(1)
STORIES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "stories-tok361"
NEAR = 1e-4
Open = Callable[..., TransformersProvider]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("local")
    return {family: save_model(folder / family, family) for family in FAMILIES}


@pytest.fixture
def model(models: dict[str, Path]) -> str:
    return str(models["llama"])


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens providers and closes them at the end."""
    providers: list[TransformersProvider] = []

    def make(model: str | Path, argument: str = "cpu", **options: Any) -> TransformersProvider:
        providers.append(TransformersProvider(ProviderOptions(argument=argument, model=str(model), **options)))
        return providers[-1]

    yield make
    for provider in providers:
        asyncio.run(provider.close())


def same_values(reply: Reply, other: Reply, tolerance: float = NEAR) -> bool:
    assert [one.token for one in reply.logprobs] == [one.token for one in other.logprobs]
    for one, two in zip(reply.logprobs, other.logprobs, strict=True):
        assert one.logprob == pytest.approx(two.logprob, abs=tolerance)
        assert one.top == pytest.approx(two.top, abs=tolerance)
    return True


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_batch_and_the_plainest_computation_agree(family: str, models: dict[str, Path], opened: Open) -> None:
    """Mixed lengths, a shared beginning, sliding windows shorter than the prompt: every row as if it were alone, with no
    cache at all."""
    model, requests = str(models[family]), questions()
    plain: Loaded = load(model, None, "cpu", "auto")
    replies = await send_all(opened(model), requests, model)
    again = await send_all(opened(model, "cpu,batch=1"), requests, model)
    assert sum(reply.usage.cached for reply in replies) > 7 * 16
    for request, reply, alone in zip(requests, replies, again, strict=True):
        prompt = plain.prompts.encode(request.messages)
        expected = naive(plain.model, prompt, 12, plain.stops)
        assert reply.text == alone.text == "".join(plain.prompts.pieces(expected.tokens))
        assert [one.logprob for one in reply.logprobs] == pytest.approx(expected.logprobs, abs=NEAR)
        assert same_values(reply, alone)
        assert (reply.usage.input, reply.usage.output) == (len(prompt), len(expected.tokens))
        assert reply.finish == "length" or len(expected.tokens) < 12
        assert reply.usage.cached + reply.usage.written < reply.usage.input
        assert all(1 <= len(one.top) <= 3 and max(one.top.values()) == one.logprob for one in reply.logprobs)


async def test_beginnings_are_kept_from_batch_to_batch(model: str, opened: Open) -> None:
    requests = questions()
    provider = opened(model)
    first = await send_all(provider, requests[:2], model)
    shared = first[0].usage.written + first[1].usage.written
    assert shared > 16 and sorted([first[0].usage.cached, first[1].usage.cached])[0] == 0
    second = await send(provider, requests[2], model)
    assert second.usage.written == 0 and second.usage.cached >= shared - 2
    fresh = await send(opened(model), requests[2], model)
    assert fresh.usage.cached == fresh.usage.written == 0
    assert fresh.text == second.text and same_values(fresh, second)


async def test_more_beginnings_than_are_kept(model: str, opened: Open) -> None:
    provider = opened(model)
    for number in range(12):
        pair = [
            replace(one, messages=[Message("system", f"{number} {SYSTEM}"), one.messages[1]]) for one in questions(2)
        ]
        replies = await send_all(provider, pair, model)
        assert sum(reply.usage.written for reply in replies) > 16
        alone = await send(opened(model), pair[0], model)
        assert same_values(replies[0], alone)


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_continuation_is_read_as_token_by_token(family: str, models: dict[str, Path], opened: Open) -> None:
    """All positions at once equal feeding prefix by prefix, for several texts in one batch."""
    model = str(models[family])
    texts = ["the cat sat on the mat", "3", 'tab\t7\n"é" 日本 😀', "<|im_end|> is text here"]
    requests = [replace(one, continuation=text) for one, text in zip(questions(4), texts, strict=True)]
    plain = load(model, None, "cpu", "auto")
    for request, reply in zip(requests, await send_all(opened(model), requests, model), strict=True):
        prompt = plain.prompts.encode(request.messages)
        forced = plain.prompts.encode_continuation(str(request.continuation))
        assert "".join(one.token for one in reply.logprobs) == reply.text == request.continuation
        assert not {0, 1, 2, 3} & set(forced)
        assert (reply.usage.input, reply.usage.output) == (len(prompt) + len(forced), 0)
        for index, (token, value) in enumerate(zip(forced, reply.logprobs, strict=True)):
            with torch.inference_mode():
                logits = plain.model(torch.tensor([[*prompt, *forced[:index]]]), use_cache=False).logits[0, -1].float()
            expected = torch.log_softmax(logits, -1)
            assert value.logprob == pytest.approx(float(expected[token]), abs=NEAR)
            top: dict[str, float] = {}
            for other in expected.topk(3).indices.tolist():
                top.setdefault(plain.prompts.text_of(other), float(expected[other]))
            assert value.top == pytest.approx(top, abs=NEAR)


async def test_real_model(opened: Open) -> None:
    if not STORIES.is_dir():
        pytest.skip("the folder shared/ is not beside the repository")
    model, plain = str(STORIES), load(str(STORIES), None, "cpu", "auto")
    story = "Once upon a time there was a little girl named Lily."
    requests = [
        Request([Message("user", f"{story} She had a {word}.")], max_tokens=20, logprobs=1)
        for word in ("cat", "red hat", "dog")
    ]
    for request, reply in zip(requests, await send_all(opened(model), requests, model), strict=True):
        expected = naive(plain.model, plain.prompts.encode(request.messages), 20)
        assert reply.text == plain.prompts.tokenizer.decode(expected.tokens, skip_special_tokens=True)
        assert "".join(one.token for one in reply.logprobs) == reply.text
        assert [one.logprob for one in reply.logprobs] == pytest.approx(expected.logprobs, abs=NEAR)


async def test_draws_depend_on_the_request_alone(model: str, opened: Open) -> None:
    requests = [replace(one, temperature=1.0, logprobs=None) for one in questions()]
    together = await send_all(opened(model), requests, model)
    alone = await send_all(opened(model, "cpu,batch=1"), requests[::-1], model)
    greedy = await send_all(opened(model), [replace(one, temperature=0.0) for one in requests], model)
    assert [reply.text for reply in together] == [reply.text for reply in alone[::-1]]
    assert all(reply.text != other.text for reply, other in zip(together, greedy, strict=True))
    repeated = await send_all(opened(model), [replace(requests[0], sample=number) for number in range(4)], model)
    assert repeated[0].text == together[0].text and len({reply.text for reply in repeated}) == 4


async def test_draws_follow_the_distribution(model: str, opened: Open) -> None:
    """300 draws of one token at temperature 2 against the probabilities: no count further off than 4 standard deviations."""
    request = replace(questions(1)[0], temperature=2.0, max_tokens=1, logprobs=None)
    plain = load(model, None, "cpu", "auto")
    with torch.inference_mode():
        logits = plain.model(torch.tensor([plain.prompts.encode(request.messages)])).logits[0, -1]
    expected = torch.softmax(logits.double() / 2, -1)
    draws = [replace(request, sample=number) for number in range(300)]
    replies = await send_all(opened(model, concurrency=64), draws, model)
    counts = Counter(reply.text for reply in replies)
    texts = {token: plain.prompts.text_of(token) for token in expected.topk(20).indices.tolist()}
    clear = [token for token, text in texts.items() if text and "\ufffd" not in text]  # others share a text
    assert len(clear) > 3
    for token in clear:
        chance = float(expected[token])
        assert abs(counts[plain.prompts.text_of(token)] - 300 * chance) < 4 * math.sqrt(300 * chance * (1 - chance))


async def test_an_answer_ends_at_the_models_own_end(tmp_path: Path, model: str, opened: Open) -> None:
    request = questions(1)[0]
    plain = load(model, None, "cpu", "auto")
    tokens = naive(plain.model, plain.prompts.encode(request.messages), 12).tokens
    first = tokens.index(tokens[6])
    ending = str(save_model(tmp_path / "ending", eos=(1, tokens[6])))
    reply = await send(opened(ending), request, ending)
    assert (reply.finish, reply.usage.output) == ("stop" if first else "empty", first)
    assert reply.text == "".join(plain.prompts.pieces(tokens[:first]))
    silent = str(save_model(tmp_path / "silent", eos=tokens[:1]))
    assert (await send(opened(silent), request, silent)).finish == "empty"


async def test_an_answer_in_plain_text_ends_where_the_next_turn_begins(tmp_path: Path, opened: Open) -> None:
    """The mark is planted: a text that the model happens to write in the middle of a longer one."""
    model = str(save_model(tmp_path, template=None))
    request = questions(1, max_tokens=30)[0]
    whole = await send(opened(model), request, model)
    assert whole.finish == "length" and len(whole.text) > 12
    mark = whole.text[6:9]
    end = whole.text.index(mark)
    provider = opened(model)
    provider.connect()
    provider._worker._engine._loaded.prompts.stop_texts = ("never", mark)  # type: ignore[union-attr]
    reply = await send(provider, request, model)
    assert (reply.text, reply.finish) == (whole.text[:end], "stop")
    assert reply.usage.output < 30
    joined = "".join(one.token for one in reply.logprobs)
    assert joined.startswith(reply.text) and not joined[: -len(reply.logprobs[-1].token)].startswith(reply.text)
    assert same_values(reply, replace(whole, logprobs=whole.logprobs[: len(reply.logprobs)]))


async def test_no_more_than_fits_into_memory(model: str, opened: Open) -> None:
    """Rows are counted at the size of the largest: 100 tokens read and 900 written, or 64 read with all their logits."""
    loaded = load(model, None, "cpu", "auto")
    engine = Engine(loaded, "m", 8)
    loop = asyncio.get_running_loop()
    jobs = [Job(Request([], max_tokens=900), 0, loop, loop.create_future(), prompt=[5] * 100) for _ in range(20)]
    row = 1000 * 2 * 3 * 2 * 8 * 4 + 100 * (16 * 32 + 3 * 48) * 4 + 328 * 12
    assert loaded.row_bytes(100, 900, 1) == row
    for memory, fits in ((row * 100, 8), (row * 5, 5), (row * 5 - 1, 4), (row // 2, 1)):
        engine._memory = memory
        assert engine.fitting(jobs) == fits
    jobs[1].prompt = [5] * 3000
    engine._memory = row * 5
    assert engine.fitting(jobs) == 1
    assert loaded.row_bytes(64, 0, 64) > 64 * 328 * 12


async def test_the_window_bounds_prompt_and_answer(tmp_path: Path, opened: Open) -> None:
    model = str(save_model(tmp_path, window=64))
    short = Request([Message("user", "the cat")], max_tokens=1000)
    provider = opened(model)
    reply = await send(provider, short, model)
    assert reply.finish == "length" and reply.usage.input + reply.usage.output == 64
    failures = [
        await outcome(provider, replace(short, messages=[Message("user", "z" * 200)]), model),
        await outcome(provider, replace(short, continuation="z" * 60), model),
        await outcome(provider, replace(short, continuation=""), model),
    ]
    assert all(
        isinstance(one, CallFailed) and one.kind is FailureKind.REJECTED and not one.retryable for one in failures
    )
    tokens = 200 + reply.usage.input - 3  # "the cat" is the tokens "the", " c", "at" or fewer
    said = str(failures[0])
    assert "does not fit into the model's 64" in said and any(f"{tokens + more} tokens" in said for more in range(3))
    assert "and a continuation of 60" in str(failures[1])
    assert "the continuation is empty" in str(failures[2])


async def test_memory_that_runs_out_halves_the_batch(model: str, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    requests, expected = questions(), await send_all(opened(model), questions(), model)
    whole, sizes, most = Loaded.forward, [], 2

    def small(self: Loaded, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        sizes.append(len(ids))
        if len(ids) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
        return whole(self, ids, *rest)

    monkeypatch.setattr(Loaded, "forward", small)
    provider = opened(model)
    assert [one.text for one in await send_all(provider, requests, model)] == [one.text for one in expected]
    assert 8 in sizes and 4 in sizes and sizes[-1] <= 2
    most = 0
    failure = await outcome(provider, requests[0], model)
    assert isinstance(failure, CallFailed) and failure.kind is FailureKind.SERVER_ERROR and not failure.retryable
    assert failure.reason.startswith("out of memory: CUDA out of memory. Tried to allocate 2 GiB. (one request of ")
    most = 8
    assert (await send(provider, requests[0], model)).text == expected[0].text


async def test_a_model_of_nan_is_a_failure(tmp_path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    model = str(save_model(tmp_path))
    monkeypatch.setattr(Loaded, "forward", lambda self, ids, *rest: torch.full((len(ids), 1, 328), math.nan))
    failure = await outcome(opened(model), questions(1)[0], model)
    assert isinstance(failure, CallFailed) and "the model gave NaN" in failure.reason


async def test_a_fault_of_the_library_reaches_the_caller(
    model: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> Any:
        raise RuntimeError("shapes do not match")

    provider = opened(model)
    monkeypatch.setattr(Loaded, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        await send(provider, questions(1)[0], model)
    monkeypatch.undo()
    assert (await send(provider, questions(1)[0], model)).text


async def test_a_running_answer_can_be_cancelled(tmp_path: Path, opened: Open) -> None:
    model = str(save_model(tmp_path, window=100_000))
    provider = opened(model)
    endless = asyncio.create_task(send(provider, questions(1, max_tokens=90_000)[0], model))
    await asyncio.sleep(0.3)
    assert not endless.done()
    endless.cancel()
    reply = await asyncio.wait_for(send(provider, questions(2)[1], model), 20)
    assert reply.usage.output == 12
    with pytest.raises(asyncio.CancelledError):
        await endless
    left = asyncio.create_task(outcome(provider, questions(1, max_tokens=90_000)[0], model))
    await asyncio.sleep(0.1)
    await asyncio.wait_for(provider.close(), 20)
    failure = await left
    assert isinstance(failure, CallFailed) and "closed before" in failure.reason


async def test_through_broker_and_journal(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = questions(logprobs=None)
    stopped = replace(requests[0], max_tokens=12, continuation="the cat", logprobs=2)

    def provider() -> Any:
        return open_provider("transformers:cpu", model=model, folder=tmp_path / "state", concurrency=8)

    with Journal(tmp_path / "journal") as journal:
        async with Broker(provider(), model, journal) as broker:
            answer = await broker.ask(stopped)
            cut = await asyncio.gather(*map(broker.ask, requests), return_exceptions=True)
        assert (answer.text, answer.finish) == ("the cat", "stop")
        assert all(isinstance(one, RequestFailed) and one.kind is FailureKind.TRUNCATED for one in cut)
        assert [entry.usage.output for entry in journal.entries()] == [0] + [12] * 8
        monkeypatch.setattr(TransformersProvider, "connect", lambda self: pytest.fail("the model was opened"))
        async with Broker(provider(), model, journal) as broker:
            again = await broker.ask(stopped)
        assert again.from_journal and again.text == answer.text
        entry = next(journal.entries())
    assert entry.provider == "transformers"
    assert entry.served_model.startswith(f"{model}@files:") and entry.usage == answer.usage


def test_what_is_part_of_a_requests_identity(model: str, opened: Open) -> None:
    provider = opened(model)
    request = Request([Message("user", "why?")])
    payload = provider.payload(model, request)
    assert payload["weights"].startswith("files:") and payload["dtype"] == "auto"
    assert provider.payload(model, replace(request, temperature=0.0, purpose="x", schema_name="y")) == payload
    for fields in ({"temperature": 1.0}, {"max_tokens": 5}, {"logprobs": 1}, {"json_schema": {"type": "object"}},
                   {"continuation": "z"}, {"messages": [Message("user", "who?")]}):  # fmt: skip
        assert provider.payload(model, replace(request, **fields)) != payload
    assert opened(model, "cuda").payload(model, request) == payload
    assert opened(model, "bfloat16").payload(model, request) != payload


def test_places() -> None:
    assert read_place(None) == read_place("") == Place()
    assert read_place("cuda:1,bfloat16,batch=8") == Place("cuda:1", "bfloat16", 8)
    assert read_place("float32") == Place(dtype="float32")
    for wrong in ("gpu", "cuda,int3", "batch=0", "batch=x", ","):
        with pytest.raises(UserError, match="expected a device") as caught:
            read_place(wrong)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="expected no --base-url"):
        open_provider("transformers", base_url="http://127.0.0.1:1/v1")
    with pytest.raises(UserError, match="name its folder or hub id with --label-model"):
        open_provider("transformers").connect()


async def test_another_model_than_the_one_that_is_loaded(models: dict[str, Path], opened: Open) -> None:
    provider = opened(models["llama"])
    with pytest.raises(UserError, match="open another provider"):
        await send(provider, questions(1)[0], str(models["gpt2"]))


def test_without_llguidance_a_schema_is_refused(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    provider = open_provider("transformers", model=model)
    check_request(provider, Request([Message("user", "?")], temperature=1.0, logprobs=3, continuation="x"))
    with pytest.raises(UserError, match=r"needs json_schema, which .*; pip install 'autointerp\[local\]'"):
        check_request(provider, Request([Message("user", "?")], json_schema={"type": "object"}))


def test_torch_is_imported_when_the_provider_connects(model: str) -> None:
    program = (
        "import sys; from autointerp.llm import Message, Request; from autointerp.llm.provider import open_provider\n"
        f"provider = open_provider('transformers', model={model!r})\n"
        f"provider.payload({model!r}, Request([Message('user', '?')]))\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), 'imported too early'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, cwd=Path(__file__).resolve().parents[2])
