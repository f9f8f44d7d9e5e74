"""What each provider sends and how it reads what comes back; capabilities, addresses, keys; the mock."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autointerp.errors import UserError
from autointerp.llm import (
    CallFailed,
    Capabilities,
    Message,
    Reply,
    Request,
    Usage,
    chat,
    check_request,
    open_provider,
    require,
)
from autointerp.llm.providers import anthropic as anthropic_module
from autointerp.llm.providers.mock import MockProvider, default_answer
from autointerp.prompts_loader import fenced
from autointerp.running_text import written
from tests.llm.server import LlmServer, anthropic_reply, openai_reply

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 10}},
    "required": ["n"],
    "additionalProperties": False,
}
REQUEST = Request(
    [Message("system", "be brief"), Message("user", "one"), Message("assistant", "1"), Message("user", "two")],
    max_tokens=50,
    json_schema=SCHEMA,
    schema_name="number",
)
NAMES = ["anthropic", "anthropic-batch", "files", "http", "mock", "openai", "openai-batch", "sentence-transformers",
         "transformers"]  # fmt: skip
TURNS = [
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "two"},
]


def test_the_registry_knows_them_without_importing_their_clients() -> None:
    code = (
        "import sys, autointerp.llm as llm\n"
        "from autointerp.llm.provider import providers\n"
        f"assert providers.names() == {NAMES}, providers.names()\n"
        "llm.open_provider('http').payload('m', llm.Request([llm.Message('user', 'x')]))\n"
        "llm.open_provider('openai').payload('m', llm.Request([llm.Message('user', 'x')]))\n"
        "print([name for name in ('openai', 'anthropic', 'aiohttp', 'httpx2', 'tenacity') if name in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    with pytest.raises(UserError, match="no provider is named 'opnai'; there are: anthropic, anthropic-batch,"):
        open_provider("opnai")


@pytest.mark.parametrize("name", ["openai", "http"])
@pytest.mark.parametrize("base_url", ["localhost:8000/v1", "127.0.0.1", "ftp://host/v1", "http://", ""])
def test_a_base_url_that_is_none_is_refused_at_once(name: str, base_url: str) -> None:
    with pytest.raises(UserError, match="--base-url"):
        open_provider(name, base_url=base_url)


def test_a_password_in_the_base_url_is_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="holds a user name or password") as caught:
        open_provider("openai", base_url="http://user:word4711@127.0.0.1:9/v1")
    assert "word4711" not in str(caught.value)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://user:word4711@127.0.0.1:9/v1")
    with pytest.raises(UserError, match=r"OPENAI_BASE_URL for 127\.0\.0\.1 holds a user name"):
        open_provider("openai").connect()


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_a_missing_key_names_the_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = f"{name.upper()}_API_KEY"
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "another way in")
    with pytest.raises(UserError, match=f"{variable} is not set"):
        open_provider(name).connect()
    monkeypatch.setenv(variable, "  ")
    with pytest.raises(UserError, match=f"{variable} is not set"):
        open_provider(name).connect()
    with pytest.raises(UserError, match="MY_KEY is not set"):
        open_provider(name, api_key_env="MY_KEY").connect()


@pytest.mark.parametrize("name", ["openai", "http"])
async def test_what_openai_sends(name: str, llm_server: LlmServer) -> None:
    provider = open_provider(name, base_url=llm_server.openai_url)
    request = replace(REQUEST, temperature=0.0)
    provider.connect()
    await provider.send(request, provider.payload("m", request))
    await provider.close()
    assert llm_server.bodies == [
        {
            "model": "m",
            "messages": [{"role": "system", "content": "be brief"}, *TURNS],
            "max_tokens": 50,  # a compatible server; OpenAI's own gets max_completion_tokens
            "temperature": 0.0,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "number", "strict": True, "schema": SCHEMA},
            },
        }
    ]
    assert llm_server.keys == ["Bearer test-key-openai"]


async def test_what_anthropic_sends(llm_server: LlmServer) -> None:
    provider = open_provider("anthropic", base_url=llm_server.anthropic_url)
    provider.connect()
    await provider.send(REQUEST, provider.payload("m", REQUEST))
    await provider.close()
    schema = {
        "type": "object",
        # The API takes no bounds: the client turns them into a description.
        "properties": {"n": {"type": "integer", "description": "{minimum: 0, maximum: 10}"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    assert llm_server.bodies == [
        {
            "model": "m",
            "max_tokens": 50,
            "system": [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
            "messages": TURNS,
            "output_config": {"format": {"type": "json_schema", "schema": schema}},
        }
    ]
    assert llm_server.keys == ["Bearer test-key-anthropic"]


@pytest.mark.parametrize("name", ["openai", "http", "anthropic"])
async def test_what_questions_share_is_marked_for_the_cache(name: str, llm_server: LlmServer) -> None:
    provider = open_provider(name, base_url=llm_server.url_for(name))
    request = Request(
        [Message("system", "be brief"), Message("user", "Texts. Question?")], template_hash="t1", shared=6
    )
    other = replace(request, messages=[*request.messages[:1], Message("user", "Texts. Another?")], template_hash="t2")
    assert request.beginning == other.beginning != replace(request, shared=7).beginning
    assert replace(request, shared=0).beginning == "t1"
    assert provider.payload("m", request) == provider.payload(
        "m", replace(request, shared=0)
    )  # no part of the identity
    provider.connect()
    await provider.send(request, provider.payload("m", request))
    await provider.close()
    content = llm_server.bodies[0]["messages"][-1]["content"]
    if name == "anthropic":
        mark = {"cache_control": {"type": "ephemeral"}}
        assert content == [{"type": "text", "text": "Texts.", **mark}, {"type": "text", "text": " Question?"}]
        assert llm_server.bodies[0]["system"] == [{"type": "text", "text": "be brief", **mark}]
    else:
        assert content == "Texts. Question?"


@pytest.mark.parametrize("name", ["openai", "http", "anthropic"])
async def test_nothing_optional_is_sent_unasked(name: str, llm_server: LlmServer) -> None:
    provider = open_provider(name, base_url=llm_server.url_for(name))
    request = Request([Message("user", "hi")], template_hash="t1")
    provider.connect()
    await provider.send(request, provider.payload("m", request))
    await provider.close()
    messages = [{"role": "user", "content": "hi"}]
    assert llm_server.bodies == [{"model": "m", "max_tokens": 1024, "messages": messages}]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://api.openai.com/v1", "max_completion_tokens"),
        ("https://eu.api.openai.com/v1", "max_completion_tokens"),
        ("https://mine.openai.azure.com/openai/v1", "max_completion_tokens"),
        ("http://127.0.0.1:8000/v1", "max_tokens"),
        ("https://openai.com.example.org/v1", "max_tokens"),
        ("https://notopenai.com/v1", "max_tokens"),
    ],
)
def test_the_name_of_the_token_limit_depends_on_the_server(address: str, name: str) -> None:
    body = chat.wire_body(open_provider("openai").payload("m", REQUEST), address)
    assert body[name] == 50
    assert len({"max_tokens", "max_completion_tokens"} & body.keys()) == 1


def test_prompt_caching_is_asked_for_on_the_wire_and_changes_no_identity() -> None:
    request = replace(REQUEST, template_hash="t1")
    for name in ("openai", "anthropic"):
        provider = open_provider(name)
        assert provider.payload("m", request) == provider.payload("m", replace(REQUEST, template_hash="t2"))
        assert "cache" not in json.dumps(provider.payload("m", request))
    payload = open_provider("openai").payload("m", request)
    own, other = "https://api.openai.com/v1", "http://127.0.0.1:8000/v1"
    assert chat.wire_body(payload, own, "t1")["prompt_cache_key"] == "t1"
    assert "prompt_cache_key" not in chat.wire_body(payload, own)
    assert "prompt_cache_key" not in chat.wire_body(payload, other, "t1")  # some refuse what they do not know


def changed(body: dict[str, Any], **choice: Any) -> dict[str, Any]:
    return {**body, "choices": [{**body["choices"][0], **choice}]}


def test_how_a_chat_completion_is_read() -> None:
    body = openai_reply({"model": "m", "messages": [{"content": "x" * 40}]}, "hello", "stop")
    # The server counts a token a character: 40 in, of them 10 cached, 5 out.
    assert chat.read_completion(body) == Reply("hello", "stop", "m-dated", Usage(40, 5, 10))
    for reason, finish in [
        ("length", "length"),
        ("content_filter", "refusal"),
        ("tool_calls", "other"),
        (None, "stop"),
    ]:
        assert chat.read_completion(changed(body, finish_reason=reason)).finish == finish
    refused = chat.read_completion(changed(body, message={"content": None, "refusal": "no"}))
    assert (refused.finish, refused.text) == ("refusal", "no")
    for content in (None, "", " \n"):
        assert chat.read_completion(changed(body, message={"content": content})).finish == "empty"
    without_usage = {key: value for key, value in body.items() if key not in ("usage", "model")}
    assert chat.read_completion(without_usage) == Reply("hello", "stop", "", Usage())


@pytest.mark.parametrize(
    "body",
    [{}, {"choices": []}, {"choices": None}, {"choices": ["x"]}, {"choices": [{"message": None}]},
     {"choices": [{"text": "a completion"}]}, {"choices": [{"message": {"content": [{"type": "text"}]}}]}],
)  # fmt: skip
def test_what_is_no_chat_completion_is_tried_again(body: dict[str, Any]) -> None:
    with pytest.raises(CallFailed, match="not a chat completion") as caught:
        chat.read_completion(body)
    assert caught.value.retryable


def test_how_a_message_is_read() -> None:
    body = anthropic_reply({"model": "m", "messages": [{"content": "x" * 40}]}, "hello", "stop")
    # 40 in: 25 counted as input, 10 read from the cache, 5 written to it.
    assert body["usage"]["input_tokens"] == 25
    assert anthropic_module.read_message(body) == Reply("hello", "stop", "m-dated", Usage(40, 5, 10, 5))
    for reason, finish in [
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "refusal"),
        ("tool_use", "other"),
        ("pause_turn", "other"),
        ("stop_sequence", "stop"),
    ]:
        assert anthropic_module.read_message({**body, "stop_reason": reason}).finish == finish
    assert anthropic_module.read_message({**body, "content": []}).finish == "empty"
    blocks = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert anthropic_module.read_message({**body, "content": blocks}).text == "ab"
    for content in (None, "text", [1]):
        with pytest.raises(CallFailed, match="not a message"):
            anthropic_module.read_message({**body, "content": content})


def test_what_a_provider_lacks_is_refused_before_anything_is_sent() -> None:
    warm = replace(REQUEST, temperature=0.7, purpose="explain")
    check_request(open_provider("openai"), warm)
    check_request(open_provider("anthropic"), replace(warm, temperature=None))
    needs = r"the explain request needs temperature.*'anthropic'.*it offers: json_schema, tools, prompt_caching"
    with pytest.raises(UserError, match=needs):
        check_request(open_provider("anthropic"), warm)
    with pytest.raises(UserError, match="one_at_a_time needs logprobs"):
        require(open_provider("anthropic"), "json_schema", "logprobs", by="the simulator one_at_a_time")
    bare = MockProvider()
    bare.capabilities = Capabilities()
    with pytest.raises(UserError, match=r"needs json_schema.*it offers: none"):
        check_request(bare, replace(warm, temperature=None))


def test_capabilities_are_what_this_package_can_use() -> None:
    offered = {name: open_provider(name).capabilities for name in NAMES}
    chat_can = Capabilities(temperature=True, json_schema=True, logprobs=True, tools=True)
    assert offered == {
        "openai": replace(chat_can, prompt_caching=True, embeddings=True),
        "http": replace(chat_can, prompt_logprobs=True, embeddings=True),
        "anthropic": Capabilities(json_schema=True, tools=True, prompt_caching=True),
        "mock": replace(chat_can, prompt_logprobs=True, embeddings=True),
        "sentence-transformers": Capabilities(
            embeddings=importlib.util.find_spec("sentence_transformers") is not None, local=True
        ),
        "openai-batch": Capabilities(temperature=True, json_schema=True, tools=True, batch=True),
        "anthropic-batch": Capabilities(json_schema=True, tools=True, batch=True),
        "files": Capabilities(temperature=True, json_schema=True, tools=True, embeddings=True, batch=True),
        "transformers": Capabilities(
            temperature=True, seed=True, logprobs=True, prompt_logprobs=True, exact_logprobs=True, prompt_caching=True,
            local=True, json_schema=importlib.util.find_spec("llguidance") is not None,
        ),
    }  # fmt: skip


def test_the_table_in_the_documentation_is_what_they_offer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    text = (Path(__file__).resolve().parents[2] / "docs" / "providers.md").read_text()
    section = text.split("## What each can do")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.split("\n") if line.startswith("| `")]
    assert {row[0].strip("`") for row in rows} == set(NAMES)
    for name, *cells in rows:
        offers = open_provider(name.strip("`"), model="mock").capabilities
        columns = ("temperature", "json_schema", "tools", "logprobs", "prompt_logprobs", "prompt_caching", "embeddings")
        if name == "`sentence-transformers`":  # what it needs may not be installed here
            offers = replace(offers, embeddings=True)
        assert [cell == "yes" for cell in cells] == [getattr(offers, column) for column in columns], name


@pytest.mark.parametrize(
    ("address", "known"),
    [
        ("https://api.openai.com/v1", False),
        ("https://mine.openai.azure.com/openai/v1", False),
        ("http://127.0.0.1:8000/v1", True),
    ],
)
def test_log_probabilities_of_a_prompt_are_not_offered_by_openai_itself(
    address: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)  # it is known before connecting
    assert open_provider("openai", base_url=address).capabilities.prompt_logprobs is known
    assert open_provider("http", base_url=address).capabilities.prompt_logprobs is known
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    assert open_provider("openai").capabilities.prompt_logprobs is known
    asks = replace(REQUEST, continuation="x", purpose="simulate", json_schema=None)
    if not known:
        with pytest.raises(UserError, match="the simulate request needs prompt_logprobs"):
            check_request(open_provider("openai"), asks)


RICH_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "kind": {"enum": ["token", "context", "unclear"]},
        "version": {"const": 3},
        "sure": {"type": "boolean"},
        "score": {"type": "number", "minimum": -1, "maximum": 1},
        "activations": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": 10},
            "minItems": 64,
            "maxItems": 64,
        },
        "notes": {"type": ["string", "null"]},
        "rule": {"anyOf": [{"$ref": "#/$defs/rule"}, {"type": "null"}]},
        "nothing": {"type": "null"},
    },
    "$defs": {"rule": {"type": "object", "properties": {"words": {"type": "array", "items": {"type": "string"}}}}},
}


def test_the_mock_answers_from_the_schema_and_says_that_it_is_one() -> None:
    answer = json.loads(default_answer(RICH_SCHEMA, 1))
    assert set(answer) == set(RICH_SCHEMA["properties"])
    assert answer["title"].startswith("mock title ")
    assert answer["kind"] in ("token", "context", "unclear")
    assert answer["version"] == 3
    assert isinstance(answer["sure"], bool)
    assert -1 <= answer["score"] <= 1
    assert len(answer["activations"]) == 64
    assert set(answer["activations"]) <= set(range(11))
    assert len(set(answer["activations"])) > 5
    assert answer["notes"].startswith("mock notes ")
    assert all(word.startswith("mock words ") for word in answer["rule"]["words"])
    assert answer["nothing"] is None
    assert default_answer(RICH_SCHEMA, 1) == default_answer(RICH_SCHEMA, 1) != default_answer(RICH_SCHEMA, 2)
    assert default_answer(None, 1).startswith("mock answer ")


async def test_the_mock_answers_a_simulators_question_for_its_texts() -> None:
    words = [f" w{chr(97 + number // 10)}{chr(97 + number % 10)}" for number in range(50)]

    def about(kind: str, *texts: list[str]) -> Request:
        lines = fenced("\n".join(f"{number}|{written(text)}" for number, text in enumerate(texts, 1)))
        asked = fenced(json.dumps({"question": kind, "explanation": "numbers"}))
        return Request([Message("user", f"{lines}\n{asked}")], json_schema={}, schema_name="texts")

    async def answers(question: Request) -> list[list[Any]]:
        return list(json.loads((await provider.send(question, provider.payload("m", question))).text)["texts"])

    provider = MockProvider()
    question = about("activations", words, words[::-1], ["w"])
    first, second, third = await answers(question)
    assert (first[0], second[0], third) == (1, 2, [3])
    assert sorted(first[1:]) == sorted(second[1:])  # by explanation and token only
    assert 1 <= len(first[1:]) <= 15
    assert all(token in words and 1 <= value <= 10 for token, value in first[1:])
    assert [token for token, _ in second[1:]] == [token for token, _ in first[:0:-1]]
    verdicts = await answers(about("active", *([f" text{number}"] for number in range(400))))
    assert [number for number, _ in verdicts] == list(range(1, 401))
    assert 150 <= sum(active for _, active in verdicts) <= 250  # half of them, whatever the tokens
    assert await answers(about("active", [" text7"])) == [[1, verdicts[7][1]]]
    habit = await answers(about("activations", [piece for word in words for piece in ("(", word[1:])]))
    assert habit == [[1]]  # it does not know the tokenizer's habits, and names no token that depends on them
    unlike = replace(question, messages=[Message("user", "no data here")], json_schema=SCHEMA)
    assert set(json.loads((await provider.send(unlike, provider.payload("m", unlike))).text)) == {"n"}


def test_the_mock_takes_no_real_models_name() -> None:
    for name in (None, "mock", "mock-2"):
        assert open_provider("mock", model=name).name == "mock"
    with pytest.raises(UserError, match=r"gpt-5-mini.*--label-model mock.*--provider openai"):
        open_provider("mock", model="gpt-5-mini")


async def test_the_mock_answers_alike_to_like_and_anew_to_another_sample() -> None:
    provider = MockProvider()

    async def text(request: Request) -> str:
        return (await provider.send(request, provider.payload("m", request))).text

    first = await text(REQUEST)
    assert first == await text(replace(REQUEST, purpose="explain"))
    assert first != await text(replace(REQUEST, sample=1))
    assert len(provider.asked) == 3


async def test_the_mock_follows_a_script() -> None:
    replies: list[str | Reply] = ["plain", Reply("cut", "length", "mock", Usage(3, 2, 1))]
    provider = MockProvider(lambda request: replies[request.sample])
    assert (await provider.send(REQUEST, {})).text == "plain"
    assert await provider.send(replace(REQUEST, sample=1), {}) == replies[1]
