"""Log-probabilities: what is asked of the server, and what is read out of its reply. Bodies are written by hand."""

import json
from dataclasses import replace
from typing import Any

import pytest

from autointerp.errors import UserError
from autointerp.llm import CallFailed, FailureKind, Message, Reply, Request, TokenLogprobs, Usage, open_provider
from autointerp.llm.chat import chat_payload, read_completion, wire_body
from autointerp.llm.logprobs import at_slots
from tests.llm import server as serve
from tests.llm.server import LlmServer

OURS, OPENAIS = "http://127.0.0.1:8000/v1", "https://api.openai.com/v1"
GENERATED = Request([Message("user", "say it")], logprobs=2)
GIVEN = Request([Message("user", "say it")], continuation="the cat", logprobs=2, temperature=0.5, json_schema={})


def completion(content: str | None, logprobs: Any = None, reason: str = "stop") -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": reason, "logprobs": logprobs}
    return {"model": "m", "choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}


def token(text: str, logprob: float, **others: float) -> dict[str, Any]:
    top = [{"token": name, "logprob": value, "bytes": None} for name, value in others.items()]
    return {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": top}


@pytest.mark.parametrize("name", ["openai", "http"])
def test_what_is_asked(name: str) -> None:
    provider = open_provider(name, base_url=OURS)
    payload = provider.payload("m", GENERATED)
    assert (payload["logprobs"], payload["top_logprobs"]) == (True, 2)
    plain = provider.payload("m", replace(GENERATED, logprobs=None))
    assert plain == {key: value for key, value in payload.items() if key not in ("logprobs", "top_logprobs")}
    assert provider.payload("m", replace(GENERATED, logprobs=0))["top_logprobs"] == 0
    for wrong in (21, -1):
        with pytest.raises(
            UserError, match=f"asks for {wrong} alternatives at each token; chat completions give 0 to 20"
        ):
            provider.payload("m", replace(GENERATED, logprobs=wrong))
    assert wire_body(provider.payload("m", GIVEN), OURS) == {
        "model": "m",
        "messages": [{"role": "user", "content": "say it"}, {"role": "assistant", "content": "the cat"}],
        "max_tokens": 1,
        "continue_final_message": True,
        "add_generation_prompt": False,
        "prompt_logprobs": 2,
        "return_token_ids": True,
    }


def test_log_probabilities_of_an_answer() -> None:
    body = completion("Hi!", {"content": [token("Hi", -0.25, Yo=-2.5, Hi=-0.25), token("!", -0.5)]})
    assert read_completion(body, GENERATED).logprobs == (
        TokenLogprobs("Hi", -0.25, {"Hi": -0.25, "Yo": -2.5}),
        TokenLogprobs("!", -0.5, {}),
    )
    assert list(read_completion(body, GENERATED).logprobs[0].top) == ["Hi", "Yo"]  # likeliest first
    assert read_completion(body).logprobs == ()
    # What is no answer needs none: it fails for its own reason.
    for refused in (completion(None), completion("Hi", reason="length"), completion("x", reason="content_filter")):
        assert read_completion(refused, GENERATED).logprobs == ()


@pytest.mark.parametrize("logprobs", [None, {}, {"content": None}, {"tokens": ["Hi"], "token_logprobs": [-0.5]}])
def test_a_server_that_leaves_them_out_is_told_on(logprobs: Any) -> None:
    with pytest.raises(CallFailed, match="gives no log-probabilities") as caught:
        read_completion(completion("Hi", logprobs), GENERATED)
    assert (caught.value.kind, caught.value.retryable) == (FailureKind.REJECTED, False)


@pytest.mark.parametrize(
    "content",
    [
        7,
        [7],
        [{"token": "Hi"}],
        [token("Hi", float("nan"))],
        [token("Hi", -(10**400))],
        [token("Hi", 1000.0)],  # e^1000 is no number
        [{**token("Hi", -1), "top_logprobs": [1]}],
    ],
)
def test_what_cannot_be_read_is_malformed(content: Any) -> None:
    with pytest.raises(CallFailed, match="can't be read") as caught:
        read_completion(completion("Hi", {"content": content}), GENERATED)
    assert caught.value.kind == FailureKind.MALFORMED


def place(*tokens: tuple[int, str, float, int]) -> dict[str, Any]:
    return {str(number): {"logprob": lp, "rank": rank, "decoded_token": text} for number, text, lp, rank in tokens}


# <s>, user, " the", " cat": the second is not its position's likeliest, so vLLM lists three.
POSITIONS = [
    None,
    place((5, "user\n", -0.5, 1), (6, "bot", -3.0, 2)),
    place((7, "the", -0.1, 1), (8, "a", -2.5, 2)),
    place((9, " cat", -4.0, 3), (10, " dog", -0.5, 1), (11, " cow", -1.5, 2)),
]
IDS = [1, 5, 7, 9]


def prompt(positions: Any, ids: Any = None) -> dict[str, Any]:
    return {**completion("x", reason="length"), "prompt_logprobs": positions, "prompt_token_ids": ids}


THE_CAT = (
    TokenLogprobs("the", -0.1, {"the": -0.1, "a": -2.5}),
    TokenLogprobs(" cat", -4.0, {" dog": -0.5, " cow": -1.5}),
)


def test_log_probabilities_of_a_continuation() -> None:
    expected = Reply("the cat", "stop", "m", Usage(7, 2), THE_CAT)
    assert read_completion(prompt(POSITIONS), GIVEN) == expected
    assert read_completion(prompt(POSITIONS, IDS), GIVEN) == expected
    # An older vLLM puts the token that is there anywhere: its id tells it.
    shuffled = [position and dict(reversed(position.items())) for position in POSITIONS]
    assert read_completion(prompt(shuffled, IDS), GIVEN) == expected
    no_alternatives = read_completion(prompt([None, *(place(*[row]) for row in ((5, "user\n", -0.5, 1), (7, "the", -0.1, 1),
                                      (9, " cat", -4.0, 3)))]), replace(GIVEN, logprobs=None))  # fmt: skip
    assert no_alternatives.logprobs == (TokenLogprobs("the", -0.1, {}), TokenLogprobs(" cat", -4.0, {}))


def test_the_first_piece_of_a_character_belongs_to_what_follows() -> None:
    positions = [None, place((5, "user\n", -0.5, 1)), place((6, "", -1.0, 1)), place((7, "é", -2.0, 1))]
    reply = read_completion(prompt(positions), replace(GIVEN, continuation="é"))
    assert [found.logprob for found in reply.logprobs] == [-1.0, -2.0]


@pytest.mark.parametrize(
    ("continuation", "reason"),
    [
        ("he cat", "does not begin where a token"),  # inside "the"
        ("the cat ", "does not end with the tokens"),  # the template stripped the space
        ("user\nthe dog", "does not end with the tokens"),
        ("much longer than the whole prompt is", "does not end with the tokens"),
    ],
)
def test_a_continuation_that_is_not_the_last_tokens_is_refused(continuation: str, reason: str) -> None:
    with pytest.raises(CallFailed, match=reason) as caught:
        read_completion(prompt(POSITIONS, IDS), replace(GIVEN, continuation=continuation))
    assert (caught.value.kind, caught.value.retryable) == (FailureKind.MALFORMED, False)


def test_a_server_without_them_says_so() -> None:
    with pytest.raises(CallFailed, match="gives no log-probabilities of the prompt") as caught:
        read_completion(completion("x"), GIVEN)
    assert caught.value.kind == FailureKind.REJECTED


@pytest.mark.parametrize("positions", [7, [None, 7], [None, {}], [None, {"5": {"logprob": -1}}], [None, {"5": 1}]])
def test_prompt_log_probabilities_that_cannot_be_read(positions: Any) -> None:
    for ids in (None, [1, 5], [1]):
        with pytest.raises(CallFailed) as caught:
            read_completion(prompt(positions, ids), GIVEN)
        assert caught.value.kind == FailureKind.MALFORMED


@pytest.mark.parametrize("name", ["openai", "http"])
async def test_over_the_wire(name: str, llm_server: LlmServer) -> None:
    provider = open_provider(name, base_url=llm_server.openai_url)
    provider.connect()
    try:
        llm_server.script(serve.status(200, json.dumps(prompt(POSITIONS, IDS))))
        assert (await provider.send(GIVEN, provider.payload("m", GIVEN))).logprobs == THE_CAT
        with pytest.raises(CallFailed, match="of the prompt"):
            await provider.send(GIVEN, provider.payload("m", GIVEN))
    finally:
        await provider.close()


def test_alternatives_are_kept_at_slots_only() -> None:
    """Of "a\\tunknown": at the character after the tab. A piece without text before it begins there, too, and is not meant."""
    tokens = [TokenLogprobs(text, -1.0, {"7": -2.0}) for text in ("a", "\t", "", "un", "known")]
    kept = at_slots(tokens, (2,))
    assert [one.top for one in kept] == [{}, {}, {}, {"7": -2.0}, {}]
    assert [one.logprob for one in kept] == [-1.0] * 5
    assert at_slots(tokens, None) == tuple(tokens) and not any(one.top for one in at_slots(tokens, ()))


def test_slots_tell_requests_apart_and_are_not_sent() -> None:
    asked = Request([Message("user", "x")], continuation="a\tunknown", logprobs=15, slots=(2,))
    payload = chat_payload("m", asked)
    assert payload["slots"] == [2] and "slots" not in chat_payload("m", replace(asked, slots=None))
    assert "slots" not in wire_body(payload, "http://127.0.0.1:8000/v1")


@pytest.mark.parametrize(("may_be_cut", "finish"), [(True, "stop"), (False, "length")])
@pytest.mark.parametrize("text", ["7", " "])
def test_an_answer_of_one_token_that_may_be_cut(text: str, may_be_cut: bool, finish: str) -> None:
    content = [{"token": text, "logprob": -0.5, "top_logprobs": [{"token": "7", "logprob": -0.5}]}]
    choice = {"message": {"content": text}, "finish_reason": "length", "logprobs": {"content": content}}
    asked = Request([Message("user", "x")], max_tokens=1, logprobs=1, may_be_cut=may_be_cut)
    reply = read_completion({"choices": [choice]}, asked)
    assert reply.finish == finish
    assert [one.top for one in reply.logprobs] == ([{"7": -0.5}] if may_be_cut else [])
