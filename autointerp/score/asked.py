"""Asking a model at all: that there is one, and that all is asked before anything is given up."""

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

from autointerp.errors import UserError
from autointerp.llm.types import Ask

Answered = TypeVar("Answered")


def needed(ask: Ask | None, by: str) -> Ask:
    """`ask`; raises UserError where there is none."""
    if ask is None:
        raise UserError(f"{by} asks a model, and none is given; name one, or score with the lexicon simulator")
    return ask


async def all_asked(questions: Iterable[Awaitable[Answered]]) -> list[Answered]:
    """What each comes to. All of them are asked before one is given up: where answers come later, later ones are queued, too."""
    tasks = [asyncio.ensure_future(question) for question in questions]
    await asyncio.gather(*tasks, return_exceptions=True)
    return [task.result() for task in tasks]  # what was raised, not what is an error and was returned
