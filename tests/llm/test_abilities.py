"""What a server turns out to be unable to do: one refusal that says so ends the run; an accident does not."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from autointerp import reasons
from autointerp.errors import UserError
from autointerp.llm import (
    Broker,
    CallFailed,
    Capabilities,
    Deferred,
    FailureKind,
    Journal,
    Message,
    Reply,
    Request,
    RequestFailed,
    open_provider,
)
from autointerp.llm.abilities import Use
from autointerp.llm.denials import denies
from autointerp.llm.embeddings import vector_request
from autointerp.llm.provider import Delivered
from autointerp.llm.providers.mock import MockProvider
from tests.llm import server as serve
from tests.llm.server import LlmServer
from tests.llm.test_outages import ask_all
from tests.llm.test_rounds import Slow

SCHEMA = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
USES = {"prompt_logprobs": Use("scorer surprisal", "leave surprisal out of score.scorers")}


def given(text: str = "the cat") -> Request:
    return Request([Message("user", "about cats")], logprobs=0, continuation=text)


def structured(text: str = "x", schema_name: str = "answer") -> Request:
    return Request([Message("user", text)], json_schema=SCHEMA, schema_name=schema_name)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal") as journal:
        yield journal


def broker_of(server: LlmServer, journal: Journal, **options: Any) -> Broker:
    provider = open_provider("http", base_url=server.openai_url)
    return Broker(provider, "m", journal, **{"backoff": 0.01, "by": "scorer surprisal", "uses": USES} | options)


@pytest.mark.parametrize(
    ("capability", "told"),
    [
        ("prompt_logprobs", "HTTP 400: prompt_logprobs is not supported"),
        ("prompt_logprobs", 'HTTP 422: [{"type": "extra_forbidden", "loc": ["body", "prompt_logprobs"]}]'),
        ("prompt_logprobs", "HTTP 400: Requested prompt logprobs of 15, which is greater than max allowed: 5"),
        ("logprobs", "HTTP 400: Unsupported parameter: 'logprobs' is not supported with this model."),
        ("logprobs", "You are not allowed to request logprobs from this model"),
        (
            "json_schema",
            "HTTP 400: Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.",
        ),
        ("tools", 'HTTP 400: "auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'),
        ("tools", "HTTP 404: No endpoints found that support tool use"),
        ("tools", "registry.ollama.ai/library/gemma:2b does not support tools"),
        ("embeddings", "HTTP 400: The model does not support Embeddings API"),
        ("embeddings", "HTTP 501: This server does not support embeddings. Start it with `--embeddings`"),
        ("embeddings", "HTTP 405: Method Not Allowed"),
    ],
)
def test_what_servers_say_of_what_they_lack(capability: str, told: str) -> None:
    assert denies(capability, told)
    assert not denies("temperature", told)


@pytest.mark.parametrize(
    "told",
    [
        "HTTP 400: Bad Request",
        "HTTP 400: This model's maximum context length is 4096 tokens, and logprobs are not supported beyond it",
        "HTTP 400: This model's maximum context length is 512 tokens. However, you requested 600 tokens in the input for "
        "embedding generation. Please reduce the length of the input.",
        "HTTP 500: prompt_logprobs failed",
        "the answer came without a token whose log-probabilities could be read",
    ],
)
def test_what_is_no_denial(told: str) -> None:
    assert not any(denies(name, told) for name in ("prompt_logprobs", "logprobs", "json_schema", "tools", "embeddings"))


async def test_a_server_that_refuses_is_asked_no_more(llm_server: LlmServer, journal: Journal) -> None:
    llm_server.usual = serve.status(400, {"message": "prompt_logprobs is not supported"})
    async with broker_of(llm_server, journal, concurrency=4) as broker:
        with pytest.raises(UserError) as ended:
            await broker.ask(given())
        assert str(ended.value) == (
            "the provider 'http' (model m) gives no log-probabilities of given texts (prompt_logprobs), which scorer surprisal "
            "needs (HTTP 400: prompt_logprobs is not supported); choose another provider: transformers, or http and openai with "
            "a server such as vLLM (--base-url); or leave surprisal out of score.scorers; what others found is kept"
        )
        assert {str(one) for one in await ask_all(broker, 50)} == {str(ended.value)}
    assert llm_server.total == 1 and len(journal) == 0


async def test_a_server_that_ignores_the_question_is_asked_no_more(llm_server: LlmServer, journal: Journal) -> None:
    async with broker_of(llm_server, journal) as broker:
        with pytest.raises(
            UserError, match=r"which scorer surprisal needs .the server gives no log-probabilities of the"
        ):
            await broker.ask(given())
    async with broker_of(llm_server, journal, uses={}, by="explainer mine") as broker:
        with pytest.raises(UserError, match=r"gives no log-probabilities of its answers .*do without explainer mine"):
            await broker.ask(Request([Message("user", "x")], logprobs=3))
    assert llm_server.total == 2


@pytest.mark.parametrize("accident", [serve.status(500, {"message": "prompt_logprobs is not supported"}), serve.reset(),
                                      serve.status(503), serve.malformed()])  # fmt: skip
async def test_an_accident_is_no_refusal(llm_server: LlmServer, journal: Journal, accident: serve.Behaviour) -> None:
    llm_server.gives_prompt_logprobs = True
    llm_server.script(accident)
    async with broker_of(llm_server, journal) as broker:
        assert (await broker.ask(given())).logprobs
    assert llm_server.total == 2


async def test_what_was_shown_is_there_and_a_later_refusal_is_the_requests_own(
    llm_server: LlmServer, journal: Journal
) -> None:
    llm_server.gives_prompt_logprobs = True
    async with broker_of(llm_server, journal) as broker:
        await broker.ask(given())
        llm_server.usual = serve.status(400, {"message": "prompt_logprobs is not supported for such a text"})
        for number in range(25):
            with pytest.raises(RequestFailed, match="rejected"):
                await broker.ask(given(f"the cat number {number}"))
        with pytest.raises(UserError, match="prompt_logprobs"):  # not so many alternatives
            await broker.ask(Request([Message("user", "x")], logprobs=15, continuation="the cat"))


async def test_unclear_refusals_count_for_what_they_asked_for(journal: Journal) -> None:
    def script(request: Request) -> str:
        if request.json_schema is not None:
            raise CallFailed(FailureKind.REJECTED, "HTTP 400: Bad Request")
        return "fine"

    async with Broker(MockProvider(script), "m", journal, by="scorer detection") as broker:
        for number in range(30):  # answers to other questions do not speak for these
            assert (await broker.ask(Request([Message("user", f"{number}")]))).text == "fine"
        for number in range(19):
            with pytest.raises(RequestFailed):
                await broker.ask(structured(f"{number}"))
        with pytest.raises(
            UserError,
            match=r"rejects every request with json_schema, which scorer detection needs \(20 so.*retry --kind rejected",
        ):
            await broker.ask(structured("20"))


async def test_answers_that_are_never_json_end_the_run_and_are_kept(journal: Journal) -> None:
    async with Broker(MockProvider(lambda request: "I think so."), "m", journal, by="scorer detection") as broker:
        for number in range(19):
            assert (await broker.ask(structured(f"{number}"))).text == "I think so."
        with pytest.raises(UserError, match=r"gives no structured output .*none of its 20 answers so far holds JSON"):
            await broker.ask(structured("20"))
    assert len(journal) == 20
    texts = iter(["I think so."] * 19 + ['Well: {"a": 1}'] + ["I think so."] * 30)
    async with Broker(MockProvider(lambda request: next(texts)), "other", journal) as broker:
        assert [(await broker.ask(structured(f"{number}"))).finish for number in range(50)] == ["stop"] * 50


@pytest.mark.parametrize("code", [404, 405, 501])
async def test_a_server_without_vectors(llm_server: LlmServer, journal: Journal, code: int) -> None:
    """Not halved until every text has been refused by itself."""
    llm_server.usual = serve.status(code, {"message": "Not Found"})
    uses = {"embeddings": Use("scorer embedding", "leave embedding out of score.scorers")}
    async with broker_of(llm_server, journal, uses=uses, concurrency=64) as broker:
        outcomes = [one async for one in _all(broker, 200)]
    assert {type(one) for one in outcomes} == {UserError}
    assert all("makes no vectors (embeddings), which scorer embedding needs" in str(one) for one in outcomes)
    assert len({str(one) for one in outcomes}) == 1 and llm_server.total <= 4


async def _all(broker: Broker, count: int) -> AsyncIterator[object]:
    import asyncio

    asked = (broker.ask(vector_request(f"text {number}", purpose="embed")) for number in range(count))
    for outcome in await asyncio.gather(*asked, return_exceptions=True):
        yield outcome


async def test_a_batch_of_nothing_but_refusals_ends_the_run_once_all_is_taken(journal: Journal) -> None:
    class Later(Slow):
        capabilities = Capabilities(batch=True, json_schema=True)
        taken = 0

        async def collect(self) -> AsyncIterator[Delivered]:
            async for one in super().collect():
                yield one
                self.taken += 1

    refusal = CallFailed(FailureKind.REJECTED, "HTTP 400: 'response_format' is not supported with this model")
    provider = Later()
    provider.fate = {"a": [refusal], "b": [refusal], "c": [refusal], "d": [Reply("yes")]}
    async with Broker(provider, "m", journal, by="scorer detection") as broker:
        await _queue(broker, "a", "b")
        with pytest.raises(UserError, match=r"gives no structured output .*which scorer detection needs"):
            await broker.collect()
        assert provider.taken == 2
        await _queue(broker, "c", "d")
        assert await broker.collect()  # one of several: its own trouble


async def _queue(broker: Broker, *texts: str) -> None:
    for text in texts:
        with pytest.raises(Deferred):
            await broker.ask(structured(text))


def test_every_kind_of_failure_has_its_advice() -> None:
    kinds = {str(kind) for kind in FailureKind}
    assert kinds >= {*reasons.PASSING, *reasons.LASTING}
    told = {kind: reasons.advice(kind) for kind in kinds}
    assert {kind for kind, what in told.items() if "same command" in what} == set(reasons.PASSING)
    assert {kind for kind, what in told.items() if what.startswith("for other answers")} == {
        "refused", "truncated", "malformed",
    }  # fmt: skip
    assert told["no_evidence"] == "" and "--kind rejected" in told["rejected"]
