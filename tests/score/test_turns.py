"""Requests that begin alike take turns."""

import asyncio
from dataclasses import replace

import pytest

from autointerp.llm.types import Answer, Deferred, Message, Request
from autointerp.score.turns import Turns

TEXTS = Request([Message("system", "s"), Message("user", "texts, and a question")], shared=5)
OTHER = replace(TEXTS, messages=[Message("system", "s"), Message("user", "others, and a question")])


def again(request: Request, question: str) -> Request:
    return replace(
        request, messages=[*request.messages[:-1], Message("user", request.messages[-1].content[:5] + question)]
    )


async def test_the_first_goes_ahead_and_the_others_follow_together() -> None:
    under_way: list[str] = []
    most: list[list[str]] = []

    async def ask(request: Request) -> Answer:
        under_way.append(request.messages[-1].content)
        most.append(sorted(under_way))
        for _ in range(3):
            await asyncio.sleep(0)
        under_way.remove(request.messages[-1].content)
        return Answer("k", "", "stop", "m")

    turns = Turns()
    one, other = turns.of(ask), turns.of(ask)  # two labels of one feature
    await asyncio.gather(one(TEXTS), one(OTHER), other(again(TEXTS, "2")), one(again(TEXTS, "3")))
    assert most[1] == ["others, and a question", "texts, and a question"]  # unlike beginnings do not wait
    assert most[-1] == ["texts2", "texts3"]
    most.clear()
    plain = replace(TEXTS, shared=0)
    await asyncio.gather(one(plain), one(replace(plain, sample=1)))
    assert len(most[-1]) == 2  # nothing is shared, nobody waits


async def test_nobody_waits_for_ever() -> None:
    async def ask(request: Request) -> Answer:
        await asyncio.sleep(0)
        raise Deferred

    turn = Turns().of(ask)
    found = await asyncio.gather(turn(TEXTS), turn(again(TEXTS, "2")), turn(again(TEXTS, "3")), return_exceptions=True)
    assert [type(one) for one in found] == [Deferred] * 3
    with pytest.raises(Deferred):
        await turn(TEXTS)


async def test_a_first_request_that_fails_or_is_given_up_lets_the_others_go() -> None:
    release = asyncio.Event()
    asked: list[str] = []

    async def ask(request: Request) -> Answer:
        text = request.messages[-1].content[5:]
        asked.append(text)
        if text == "fails":
            raise ValueError(text)
        if text == "hangs":
            await release.wait()
        return Answer(text, "", "stop", "m")

    turns = Turns()
    turn = turns.of(ask)
    failed, after = await asyncio.gather(
        turn(again(TEXTS, "fails")), turn(again(TEXTS, "after")), return_exceptions=True
    )
    assert isinstance(failed, ValueError) and isinstance(after, Answer)
    hanging, *waiting = (asyncio.create_task(turn(again(TEXTS, text))) for text in ("hangs", "one", "two", "three"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting[1].cancel()  # one of those that wait, then the one that they wait for
    await asyncio.sleep(0)
    assert asked[2:] == ["hangs"]
    hanging.cancel()
    found = await asyncio.gather(hanging, *waiting, return_exceptions=True)
    assert [type(one) for one in found] == [asyncio.CancelledError, Answer, asyncio.CancelledError, Answer]
    assert asked[3:] == ["one", "three"] and not turns._ahead


async def test_beginnings_are_told_apart_by_all_messages_and_by_their_length() -> None:
    """Neither where a text ends nor which message it is in may be lost: those that wait would wait for nothing."""
    user = Message("user", "abcdef")
    told = [
        Request([Message("system", "s"), user], shared=3), Request([Message("system", "s"), user], shared=4),
        Request([Message("system", "sabc"), user], shared=0), Request([Message("system", ""), Message("user", "sabc")], shared=4),
        Request([user], shared=3), Request([Message("system", "s"), Message("user", "abcxyz")], shared=3),
    ]  # fmt: skip
    names = [request.beginning for request in told]
    assert len(set(names)) == 5 and names[0] == names[5]
