"""Requests that begin alike take turns: the first goes ahead, the others follow when it has ended.

A provider's prompt cache holds a beginning only once a request with it has been read. Were simulation and detection of the same
texts sent at once, both would pay for the texts. Nothing waits where nothing is shared, and in a batch nobody waits for an
answer: there the first request ends at once, deferred.
"""

import asyncio

from autointerp.llm.types import Answer, Ask, Request


class Turns:
    """Of one stage; `of` wraps each of its ways to ask."""

    def __init__(self) -> None:
        self._ahead: dict[str, asyncio.Event] = {}

    def of(self, ask: Ask) -> Ask:
        """`ask`, in turn."""

        async def ask_in_turn(request: Request) -> Answer:
            if not request.shared:
                return await ask(request)
            beginning = request.beginning
            if beginning in self._ahead:
                await self._ahead[beginning].wait()
                return await ask(request)
            ended = self._ahead[beginning] = asyncio.Event()
            try:
                return await ask(request)
            finally:
                ended.set()
                del self._ahead[beginning]

        return ask_in_turn
