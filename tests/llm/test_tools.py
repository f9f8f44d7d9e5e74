"""Tool calls through every protocol: what is sent, how it is read, that it is journalled, and what cannot break it."""

import json
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autointerp.errors import UserError
from autointerp.llm import (
    Answer,
    Broker,
    Deferred,
    FailureKind,
    Journal,
    Message,
    ProviderOptions,
    Request,
    RequestFailed,
    Tool,
    ToolCall,
    chat,
    check_request,
    open_provider,
    request_key,
)
from autointerp.llm.journal_export import export
from autointerp.llm.providers import anthropic as anthropic_module
from autointerp.llm.providers.mock import MockProvider
from autointerp.llm.rounds import drawn
from autointerp.llm.tools import MAX_ARGUMENTS, MAX_CALLS, arguments_of, calls_of, shown_arguments, turn_of
from autointerp.llm.types import prompt_text
from tests.llm import server as serve
from tests.llm.batch_driver import FAST, PROVIDERS
from tests.llm.batch_server import BatchServer
from tests.llm.server import LlmServer

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
ADD = Tool("add", "Add one.", SCHEMA)
CALL = ToolCall("call_1", "add", '{"n": 1}')
TOLD = [Message("system", "be brief"), Message("user", "count")]
ASKED = Request(TOLD, max_tokens=50, tools=(ADD,))
TURNS = [*TOLD, Message("assistant", "", (CALL,)), Message("tool", '{"sum":2}', call_id="call_1")]
PLAIN = Request(
    [Message("system", "be brief"), Message("user", "one"), Message("assistant", "1"), Message("user", "two")],
    max_tokens=50, json_schema=SCHEMA, schema_name="number", sample=2,
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("openai", "c03c860d019786c92819e8cfecba079f"), ("http", "fa209e7d48ae61d7b500d812f2863198"),
        ("anthropic", "efd25a8332ef754100f2d321937774f8"), ("mock", "caeb61efb2ec4fd273c170f530bf50a9"),
        ("files", "5cb48ca2c5eefef77b0917122f1002e0"), ("openai-batch", "c03c860d019786c92819e8cfecba079f"),
        ("anthropic-batch", "efd25a8332ef754100f2d321937774f8"),
    ],
)  # fmt: skip
def test_requests_without_tools_have_the_keys_that_they_had_before_there_were_tools(name: str, key: str) -> None:
    provider = open_provider(name)
    assert request_key(provider.name, "m", provider.payload("m", PLAIN), PLAIN.sample) == key


@pytest.mark.parametrize("name", ["openai", "http", "anthropic", "mock", "files"])
def test_tools_calls_and_results_are_part_of_the_identity(name: str) -> None:
    provider = open_provider(name)
    turns = replace(ASKED, messages=TURNS)
    variants = [
        replace(ASKED, tools=()),
        ASKED,
        replace(ASKED, may_call=False),
        replace(ASKED, tools=(replace(ADD, description="Add two."),)),
        turns,
        replace(ASKED, messages=[*TURNS[:2], replace(TURNS[2], calls=(replace(CALL, arguments='{"n":2}'),)), TURNS[3]]),
        replace(ASKED, messages=[*TURNS[:3], replace(TURNS[3], content="3")]),
    ]
    keys = [request_key(provider.name, "m", provider.payload("m", request), 0) for request in variants]
    assert len(set(keys)) == len(variants)


async def sent(name: str, server: LlmServer, request: Request) -> dict[str, Any]:
    provider = open_provider(name, base_url=server.url_for(name))
    provider.connect()
    await provider.send(request, provider.payload("m", request))  # type: ignore[union-attr]
    await provider.close()
    return dict(server.bodies[-1])


@pytest.mark.parametrize("name", ["openai", "http"])
async def test_what_is_sent_as_chat_completions(name: str, llm_server: LlmServer) -> None:
    llm_server.write = lambda body: "done"
    function = {"name": "add", "description": "Add one.", "parameters": SCHEMA}
    body = await sent(name, llm_server, replace(ASKED, messages=[*TURNS, Message("user", "now")], may_call=False))
    assert body == {
        "model": "m",
        "max_tokens": 50,
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "count"},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"n": 1}'}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": '{"sum":2}'},
            {"role": "user", "content": "now"},
        ],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "none",
    }  # fmt: skip
    assert "tool_choice" not in await sent(name, llm_server, ASKED)


async def test_what_is_sent_to_anthropic(llm_server: LlmServer) -> None:
    llm_server.write = lambda body: "done"
    mark = {"cache_control": {"type": "ephemeral"}}
    second = ToolCall("call_2", "add", "no JSON")
    turns = [*TOLD, Message("assistant", "I try", (CALL, second)), TURNS[3], Message("tool", "fault", call_id="call_2")]
    body = await sent("anthropic", llm_server, replace(ASKED, messages=turns))
    assert body["tools"] == [{"name": "add", "description": "Add one.", "input_schema": SCHEMA}]
    assert body["system"] == [{"type": "text", "text": "be brief", **mark}]
    assert body["messages"] == [
        {"role": "user", "content": "count"},
        {"role": "assistant", "content": [
            {"type": "text", "text": "I try"},
            {"type": "tool_use", "id": "call_1", "name": "add", "input": {"n": 1}},
            {"type": "tool_use", "id": "call_2", "name": "add", "input": {}},
        ]},
        {"role": "user", "content": [  # the results of one turn are one message, and the end of it is cached
            {"type": "tool_result", "tool_use_id": "call_1", "content": '{"sum":2}'},
            {"type": "tool_result", "tool_use_id": "call_2", "content": "fault", **mark},
        ]},
    ]  # fmt: skip
    last = await sent(
        "anthropic", llm_server, replace(ASKED, messages=[*turns, Message("user", "now")], may_call=False)
    )
    assert last["tool_choice"] == {"type": "none"} and last["tools"] == body["tools"]
    assert [block["type"] for block in last["messages"][2]["content"]] == ["tool_result", "tool_result", "text"]
    assert len(last["messages"]) == 3 and "cache_control" not in json.dumps(last["messages"])


@pytest.mark.parametrize("name", ["openai", "http", "anthropic"])
async def test_calls_are_answers_that_the_journal_keeps(name: str, llm_server: LlmServer, tmp_path: Path) -> None:
    llm_server.script(serve.calling(("call_1", "add", '{"n": 1}'), ("call_2", "add", '{"n": 2}'), text="let me see"))
    for from_journal in (False, True):
        with Journal(tmp_path) as journal:
            async with Broker(open_provider(name, base_url=llm_server.url_for(name)), "m", journal) as broker:
                answer = await broker.ask(ASKED)
            entry = next(iter(journal.entries()))
        assert answer.finish == "calls" and answer.text == "let me see" and answer.from_journal is from_journal
        assert answer.calls == (CALL, ToolCall("call_2", "add", '{"n": 2}'))
        assert entry.finish == "stop" and entry.calls == answer.calls
        assert (
            entry.prompt_chars == len(prompt_text(ASKED)) == len("be briefcount" + "addAdd one." + json.dumps(SCHEMA))
        )
    assert llm_server.total == 1
    line = json.loads(next(tmp_path.glob("*.jsonl")).read_text())
    assert line["calls"] == [["call_1", "add", '{"n": 1}'], ["call_2", "add", '{"n": 2}']]
    with Journal(tmp_path, read_only=True) as journal:
        export(journal.entries(), tmp_path / "out.csv")
    assert '""add""' in (tmp_path / "out.csv").read_text()


async def test_lines_without_calls_are_as_they_were(llm_server: LlmServer, tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        async with Broker(open_provider("http", base_url=llm_server.openai_url), "m", journal) as broker:
            assert (await broker.ask(PLAIN)).calls == ()
    assert "calls" not in json.loads(next(tmp_path.glob("*.jsonl")).read_text())


@pytest.mark.parametrize("name", ["openai", "http", "anthropic"])
async def test_a_model_that_ignores_tools_simply_answers(name: str, llm_server: LlmServer, tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        async with Broker(open_provider(name, base_url=llm_server.url_for(name)), "m", journal) as broker:
            answer = await broker.ask(ASKED)
    assert (answer.finish, answer.calls) == ("stop", ()) and answer.text.startswith("answer to")


@pytest.mark.parametrize("name", ["openai", "http", "anthropic"])
async def test_the_key_is_taken_out_of_arguments(name: str, llm_server: LlmServer, tmp_path: Path) -> None:
    key = f"test-key-{'anthropic' if name == 'anthropic' else 'openai'}"
    llm_server.script(serve.calling(("call_1", "add", json.dumps({"n": key}))))
    with Journal(tmp_path) as journal:
        async with Broker(open_provider(name, base_url=llm_server.url_for(name)), "m", journal) as broker:
            answer = await broker.ask(ASKED)
    assert json.loads(answer.calls[0].arguments) == {"n": "[key]"}
    assert all(key.encode() not in path.read_bytes() for path in tmp_path.iterdir())


def completion(calls: Any, reason: str | None = "tool_calls", content: str | None = None) -> dict[str, Any]:
    message = {"content": content, "tool_calls": calls}
    return {"choices": [{"message": message, "finish_reason": reason}], "model": "m"}


def function(ident: Any, name: Any, arguments: Any) -> dict[str, Any]:
    return {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_how_calls_of_a_chat_completion_are_read() -> None:
    one = function("a", "add", '{"n": 1}')
    for reason in ("tool_calls", "stop", None):
        reply = chat.read_completion(completion([one], reason))
        assert (reply.finish, reply.calls) == ("stop", (ToolCall("a", "add", '{"n": 1}'),))
    for reason, finish in (("length", "length"), ("content_filter", "refusal")):
        reply = chat.read_completion(completion([one], reason))
        assert (reply.finish, reply.calls) == (finish, ())
    # no tools were offered: calls of them are nothing that can be used
    assert chat.read_completion(completion([one]), PLAIN).finish == "other"
    assert chat.read_completion(completion([], content="hi"), ASKED).finish == "other"
    odd = chat.read_completion(completion([function(None, "add", None), function(7, "add", {"n": 2})])).calls
    assert odd == (ToolCall("", "add", ""), ToolCall("", "add", '{"n": 2}'))


@pytest.mark.parametrize(
    "calls",
    ["text", 5, ["x"], [{}], [{"function": None}], [{"function": {"arguments": "{}"}}], [function("a", "", "{}")],
     [function("a", 5, "{}")], [function("a", "add", "{}")] * (MAX_CALLS + 1)],
)  # fmt: skip
def test_calls_that_nothing_can_answer_are_no_answer(calls: Any) -> None:
    reply = chat.read_completion(completion(calls))
    assert (reply.finish, reply.calls) == ("other", ())


def test_how_calls_of_a_message_are_read() -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"n": 1}}
    body = {"content": [{"type": "text", "text": "so"}, use], "stop_reason": "tool_use", "model": "m"}
    reply = anthropic_module.read_message(body)
    assert (reply.text, reply.finish, reply.calls) == ("so", "stop", (ToolCall("toolu_1", "add", '{"n": 1}'),))
    cut = anthropic_module.read_message({**body, "stop_reason": "max_tokens"})
    assert (cut.finish, cut.calls) == ("length", ())
    for broken in ([{**use, "name": None}], [use] * (MAX_CALLS + 1), []):
        reply = anthropic_module.read_message({**body, "content": broken})
        assert (reply.finish, reply.calls) == ("other", ())
    array = anthropic_module.read_message({**body, "content": [{**use, "input": [1]}]}).calls[0]
    with pytest.raises(ValueError, match="a JSON list, not an object"):
        arguments_of(array)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [("{", "not JSON"), ("[1]", "a JSON list"), ("3", "a JSON int"), ('{"n": NaN}', "not JSON"), ('{"n": 1e999}', "not JSON"),
     ("[" * 100_000, "longer than 20,000"), ("[" * 15_000, "not JSON"), ('{"n": "\\ud800"}', "not JSON"),
     ('{"n": ' + "9" * 5000 + "}", "not JSON"), ('{"n": "' + "x" * MAX_ARGUMENTS, "longer than 20,000")],
)  # fmt: skip
def test_arguments_that_are_none_are_told_and_never_sent_back(arguments: str, fault: str) -> None:
    read = calls_of([("a", "add", arguments)])
    assert read is not None and len(read[0].arguments) <= MAX_ARGUMENTS
    with pytest.raises(ValueError, match=fault):
        arguments_of(read[0])
    assert shown_arguments(read[0]) == {}
    for name in ("openai", "anthropic", "mock"):
        request = replace(ASKED, messages=[*TOLD, Message("assistant", "", read), Message("tool", "x", call_id="a")])
        provider = open_provider(name)
        assert request_key(name, "m", provider.payload("m", request), 0)


def test_objects_that_are_no_json_are_kept_as_what_they_are() -> None:
    calls = calls_of([("a", "add", {"n": math.inf}), ("b", "add", "")])
    assert calls is not None and calls[0].arguments == "{'n': inf}" and arguments_of(calls[1]) == {}


def test_ids_that_are_missing_or_repeated_are_replaced() -> None:
    calls = (CALL, CALL, replace(CALL, id=""), replace(CALL, id="other"))
    answer = Answer("key", "", "calls", "m", calls=calls)
    turn = turn_of(answer, TOLD)
    ids = [call.id for call in turn.calls]
    assert ids[0] == "call_1" and ids[3] == "other" and len(set(ids)) == 4
    assert all(len(ident) == 9 and ident.isalnum() for ident in ids[1:3])
    again = turn_of(answer, [*TOLD, turn])
    assert not set(ids) & {call.id for call in again.calls}
    odd = turn_of(replace(answer, calls=(replace(CALL, name="functions.add <x>"),)), TOLD)
    assert odd.calls[0].name == "functions_add__x_"
    assert turn_of(answer, TOLD) == turn  # the same conversation on every machine
    assert [call.arguments for call in again.calls] == [CALL.arguments] * 4


def test_providers_without_tools_say_so_before_anything_is_sent() -> None:
    provider = open_provider("transformers", model="m")
    with pytest.raises(UserError, match="the explain request needs tools, which the provider 'transformers' does not"):
        check_request(provider, replace(ASKED, purpose="explain"))


async def test_the_mock_calls_every_tool_once_and_then_answers(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        async with Broker(MockProvider(), "mock", journal) as broker:
            first = await broker.ask(replace(ASKED, tools=(ADD, replace(ADD, name="sub"))))
            assert first.finish == "calls" and [call.name for call in first.calls] == ["add", "sub"]
            assert all(isinstance(arguments_of(call)["n"], int) for call in first.calls)
            results = [Message("tool", "2", call_id=call.id) for call in first.calls]
            second = await broker.ask(replace(ASKED, messages=[*TOLD, turn_of(first, TOLD), *results]))
            assert second.finish == "stop" and second.text.startswith("mock answer")
            told = replace(ASKED, may_call=False, json_schema=SCHEMA)
            assert "n" in json.loads((await broker.ask(told)).text)


async def test_a_retry_takes_up_calls_that_were_made_and_asks_only_what_failed(tmp_path: Path) -> None:
    provider = MockProvider(lambda request: "no label")
    with Journal(tmp_path) as journal:
        async with Broker(MockProvider(), "mock", journal) as broker:
            first = await broker.ask(ASKED)
        async with Broker(provider, "mock", journal) as broker:
            again = drawn(broker, 1)
            assert (await again(ASKED)).calls == first.calls and not provider.asked
            told = replace(ASKED, may_call=False, check=lambda text: False)
            await broker.ask(told)
            await again(told)
            assert [request.sample for request in provider.asked] == [0, 1000]


Asking = Callable[[Request], Awaitable[Answer]]


async def investigation(ask: Asking, turns: int = 2) -> str:
    """A conversation with a call in every turn but the last."""
    messages: list[Message] = list(TOLD)
    for number in range(turns + 1):
        answer = await ask(replace(ASKED, messages=tuple(messages)))
        if not answer.calls:
            return f"{number}: {answer.text}"
        turn = turn_of(answer, messages)
        messages.append(turn)
        for call in turn.calls:
            messages.append(Message("tool", f"result {arguments_of(call)['n']}", call_id=call.id))
    raise AssertionError("it never answers")


async def in_rounds(broker: Broker) -> str:
    for _ in range(10):
        try:
            return await investigation(broker.ask)
        except Deferred:
            assert await broker.collect()
    raise AssertionError("the rounds never end")


@pytest.mark.parametrize("name", ["openai", "anthropic"])
async def test_batches_take_a_round_for_every_turn(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k-planted")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k-planted")
    steps = {"count": [("a", "add", '{"n": 1}')], "result 1": [("a", "add", '{"n": 2}'), ("a", "add", '{"n": 3}')]}
    with BatchServer() as server, Journal(tmp_path / "journal") as journal:
        server.calls_of = lambda question: steps.get(question, [])
        url = server.openai_url if name == "openai" else server.anthropic_url
        provider = PROVIDERS[name](ProviderOptions((url,), folder=tmp_path / "state"), FAST)
        async with Broker(provider, "m", journal) as broker:
            assert await in_rounds(broker) == "2: answer to result 3"
        assert len(server.jobs) == 3
        async with Broker(open_provider(name, base_url=url), "m", journal) as live:  # nothing is sent: it is all there
            assert await investigation(live.ask) == "2: answer to result 3"


async def test_files_take_a_round_for_every_turn(tmp_path: Path) -> None:
    folder = tmp_path / "exchange"

    async def run() -> str:
        provider = open_provider(f"files:{folder}", folder=tmp_path / "state")
        with Journal(tmp_path / "journal") as journal:
            async with Broker(provider, "m", journal) as broker:
                return await in_rounds(broker)

    def answer(made: Callable[[dict[str, Any], str], dict[str, Any]]) -> None:
        line = json.loads((folder / "requests.jsonl").read_text())
        (folder / "responses.jsonl").write_text(json.dumps(made(line["body"], line["custom_id"])) + "\n")

    def by_engine(body: dict[str, Any], key: str) -> dict[str, Any]:
        reply = serve.openai_reply(body, "", "stop")
        serve.add_calls(reply, [("a", "add", '{"n": 1}')])
        return {"custom_id": key, "response": {"status_code": 200, "body": reply}, "error": None}

    with pytest.raises(UserError, match="1 requests wait"):
        await run()
    assert "A tool that may be called" in (folder / "requests.md").read_text()
    answer(by_engine)
    with pytest.raises(UserError, match="1 requests wait"):
        await run()
    shown = (folder / "requests.md").read_text()
    assert "assistant calls add:" in shown and "tool:\n\n```text\nresult 1" in shown
    answer(lambda body, key: {"custom_id": key, "calls": [{"name": "add", "arguments": {"n": 5}}]})
    with pytest.raises(UserError, match="1 requests wait"):
        await run()
    assert "result 5" in (folder / "requests.md").read_text()
    answer(lambda body, key: {"custom_id": key, "text": "six"})
    assert await run() == "2: six"


async def test_an_answer_with_too_many_calls_fails_and_is_journalled(llm_server: LlmServer, tmp_path: Path) -> None:
    llm_server.script(serve.calling(*[("a", "add", "{}")] * (MAX_CALLS + 1)))
    with Journal(tmp_path) as journal:
        async with Broker(open_provider("http", base_url=llm_server.openai_url), "m", journal) as broker:
            with pytest.raises(RequestFailed) as caught:
                await broker.ask(ASKED)
        assert [entry.finish for entry in journal.entries()] == ["other"] and len(journal) == 0
    assert caught.value.kind == FailureKind.MALFORMED and llm_server.total == 1
