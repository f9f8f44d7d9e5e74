"""A question with one answer, asked once more where the first cannot be used; then it is failed."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from autointerp.llm.types import Answer, Ask, FailureKind, Request, RequestFailed
from autointerp.score.questions import MisalignedError, is_worth_asking_again

Value = TypeVar("Value")


async def answered(ask: Ask, request: Request, read: Callable[[Answer], Value]) -> Value | RequestFailed:
    """What `read` makes of the answer. It raises RequestFailed or MisalignedError for one of no use."""
    outcome: Value | RequestFailed = RequestFailed(FailureKind.MALFORMED, "not asked")
    for sample in (0, 1):
        outcome = await _once(ask, replace(request, sample=sample, check=_check(read)), read)
        if not is_worth_asking_again(outcome):
            break
    return outcome


async def _once(ask: Ask, request: Request, read: Callable[[Answer], Value]) -> Value | RequestFailed:
    try:
        return read(await ask(request))
    except RequestFailed as failure:
        return failure
    except MisalignedError as error:
        return RequestFailed(FailureKind.MALFORMED, str(error))


def _check(read: Callable[[Answer], Value]) -> Callable[[str], bool]:
    def is_of_use(text: str) -> bool:
        try:
            read(Answer("", text, "stop", ""))
        except (RequestFailed, MisalignedError):
            return False
        return True

    return is_of_use
