"""What replies mean, the same for every provider over HTTP: limits in headers, the size of a body, errors."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.errors import UserError
from autointerp.llm import CallFailed, FailureKind, Message, Provider, Request, open_provider, wire
from autointerp.llm.wire import BodyTooLarge, ReplyReader, count, limited
from tests.llm import server as serve
from tests.llm.server import LlmServer

REQUEST = Request([Message("user", "why?")])
KEY = "planted-4f9c1e77"


@pytest.fixture(params=["openai", "anthropic", "http"])
async def provider(request: pytest.FixtureRequest, llm_server: LlmServer) -> AsyncIterator[Provider]:
    provider = open_provider(request.param, base_url=llm_server.url_for(request.param))
    provider.connect()
    yield provider
    await provider.close()


async def test_a_limit_just_used_up_is_reported_with_the_answer(provider: Provider, llm_server: LlmServer) -> None:
    names = {"requests": "x_ratelimit_{}_requests", "anthropic": "anthropic_ratelimit_requests_{}"}
    name = names["anthropic" if provider.name == "anthropic" else "requests"]
    used_up = {name.format("remaining"): "0", name.format("reset"): "12s"}
    llm_server.script(serve.answer(**used_up), serve.answer(**{**used_up, name.format("remaining"): "3"}))
    replies = [await provider.send(REQUEST, provider.payload("m", REQUEST)) for _ in range(3)]
    assert [reply.pause for reply in replies] == [12.0, None, None]
    assert replies[0].text == "answer to why?"


@pytest.mark.parametrize("code", [200, 500])
async def test_a_body_without_end_is_not_read_to_its_end(
    provider: Provider, llm_server: LlmServer, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "MAX_BODY_BYTES", 2**20)
    llm_server.script(serve.status(code, "x" * (2**20 + 1)), serve.answer("y" * 2**19))
    with pytest.raises(CallFailed, match=r"sent more than 1 MiB, which is no answer") as caught:
        await provider.send(REQUEST, provider.payload("m", REQUEST))
    assert (caught.value.kind, caught.value.retryable) == (FailureKind.MALFORMED, True)
    assert len((await provider.send(REQUEST, provider.payload("m", REQUEST))).text) == 2**19


async def test_a_body_that_swells_is_not_unpacked_to_its_end(
    provider: Provider, llm_server: LlmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "MAX_BODY_BYTES", 2**20)
    llm_server.script(serve.zipped("x" * 2**27), serve.zipped("y" * 2**19), serve.zipped())
    with pytest.raises(CallFailed, match=r"sent more than 1 MiB, which is no answer") as caught:
        await provider.send(REQUEST, provider.payload("m", REQUEST))
    assert (caught.value.kind, caught.value.retryable) == (FailureKind.MALFORMED, True)
    assert len((await provider.send(REQUEST, provider.payload("m", REQUEST))).text) == 2**19
    assert (await provider.send(REQUEST, provider.payload("m", REQUEST))).text == "answer to why?"


async def test_any_text_is_sent_as_it_is(provider: Provider, llm_server: LlmServer) -> None:
    for text in ('quotes " and \\ and \n', "é ü 猫 😀", "half of a pair: \ud83d", "\x00\u2028"):
        request = Request([Message("user", text)], temperature=None)
        await provider.send(request, provider.payload("m", request))
        assert llm_server.bodies[-1]["messages"] == [{"role": "user", "content": text}]


async def test_a_redirect_is_not_followed_with_the_key(provider: Provider, llm_server: LlmServer) -> None:
    llm_server.usual = serve.status(308, location="http://127.0.0.1:9/elsewhere")
    with pytest.raises(UserError, match=r"sends requests elsewhere \(HTTP 308\).*--base-url"):
        await provider.send(REQUEST, provider.payload("m", REQUEST))
    assert llm_server.total == 1


@pytest.mark.parametrize(
    ("status", "body", "kind", "retryable", "overloaded"),
    [
        (429, b"{}", FailureKind.RATE_LIMITED, True, True),
        (503, b"", FailureKind.SERVER_ERROR, True, True),
        (529, b'{"type":"error","error":{"type":"overloaded_error"}}', FailureKind.SERVER_ERROR, True, True),
        (500, b"", FailureKind.SERVER_ERROR, True, False),
        (408, b"", FailureKind.TIMEOUT, True, False),
        (409, b"", FailureKind.SERVER_ERROR, True, False),
        (400, b"\xff\xfe", FailureKind.REJECTED, False, False),
        (413, b"[" * 100_000, FailureKind.REJECTED, False, False),
        (400, b'{"error":{"code":"content_filter"}}', FailureKind.REFUSED, False, False),
        (200, b"[" * 100_000, FailureKind.MALFORMED, True, False),
        (200, b"null", FailureKind.MALFORMED, True, False),
        (200, b"7", FailureKind.SERVER_ERROR, True, False),
        (204, b"", FailureKind.REJECTED, False, False),
    ],
)
def test_what_becomes_of_a_status(status: int, body: bytes, kind: str, retryable: bool, overloaded: bool) -> None:
    failure = ReplyReader("", "THE_KEY").read("http://here", status, {}, body)
    assert isinstance(failure, CallFailed)
    assert (failure.kind, failure.retryable, failure.overloaded) == (kind, retryable, overloaded)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (402, b""),
        (429, b'{"error":{"code":"insufficient_quota"}}'),
        (400, b'{"error":{"type":"billing_error"}}'),
        (429, b'{"error":{"type":"rate_limit_error","details":{"error_code":"enforced_spend_limit_reached"}}}'),
    ],
)
def test_an_account_without_money_ends_the_run(status: int, body: bytes) -> None:
    failure = ReplyReader("", "THE_KEY").read("http://here", status, {"retry-after": "1"}, body)
    assert isinstance(failure, UserError)
    assert "the account at http://here has no credit" in str(failure)


def test_texts_are_short_and_hold_no_key() -> None:
    reader = ReplyReader(KEY, "THE_KEY")
    assert KEY not in repr(reader)
    for status in (200, 400, 403, 500):
        body = f'{{"error":{{"message":"Bearer {KEY} sk-pla****4a06 {"long " * 10**5}"}}}}'.encode()
        failure = reader.read("http://here", status, {}, body)
        assert KEY not in str(failure)
        assert "sk-pla" not in str(failure)
        assert len(str(failure)) < 500
    lost = reader.lost("http://here", OSError(f"proxy {KEY}"))
    assert lost.reason == "the connection to http://here failed (OSError: proxy [key])"


@pytest.mark.parametrize("told", [-1, 10**400, 2.5, True, "7", None, [7]])
def test_a_count_that_is_none_is_not_counted(told: object) -> None:
    assert count({"tokens": told}, "tokens") == 0
    assert count({"tokens": 7}, "tokens") == count({"in": {"tokens": 7}}, "in", "tokens") == 7


async def test_a_body_is_read_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    async def chunks(*sizes: int) -> AsyncIterator[bytes]:
        for size in sizes:
            yield b"x" * size

    monkeypatch.setattr(wire, "MAX_BODY_BYTES", 10)
    assert await limited(chunks()) == b""
    assert await limited(chunks(10)) == await limited(chunks(4, 6)) == b"x" * 10
    with pytest.raises(BodyTooLarge):
        await limited(chunks(4, 7))


@given(st.lists(st.sampled_from([KEY, KEY[:9], KEY[9:], KEY[:1], "x", ""]), max_size=12), st.integers(1, 30))
def test_the_key_is_taken_out_wherever_a_piece_ends(parts: list[str], length: int) -> None:
    text = "".join(parts).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(text), length):
            yield text[start : start + length]

    async def joined() -> bytes:
        return b"".join([piece async for piece in ReplyReader(KEY, "K").pieces_without_key(pieces())])

    found = asyncio.run(joined())
    assert found == text.replace(KEY.encode(), b"[key]")
