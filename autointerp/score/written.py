"""Texts that a model writes for a scorer, and what the feature does in them: asked for, read by the subject model, counted.

A text that is missing from the answer, or has no token, is a failed item with its reason. It is not a silent text.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
from pydantic import BaseModel

from autointerp.errors import UserError
from autointerp.explain.bench import Bench
from autointerp.explain.experiments import NotAtHandError
from autointerp.explain.parsing import can_parse, parse_answer
from autointerp.llm.types import FailureKind, Request, RequestFailed
from autointerp.score import Means, Written

Record = TypeVar("Record", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A text that was asked for: whether the feature is to be active in it, and what was written; None where nothing was."""

    active: bool
    text: str | None


async def record_of(request: Request, record: type[Record], means: Means, scorer: str) -> Record:
    """What the model answers. An answer that cannot be used is asked for once more. Raises RequestFailed where there is none;
    UserError where there is no model."""
    if means.ask is None:
        raise UserError(f"the scorer {scorer} asks a model, and none is given; name one")
    request = replace(request, check=partial(can_parse, model=record))
    try:
        return parse_answer(await means.ask(request), record)
    except RequestFailed as failure:
        if failure.kind not in (FailureKind.MALFORMED, FailureKind.TRUNCATED):
            raise
    return parse_answer(await means.ask(replace(request, sample=1)), record)


async def read_by_subject(feature_id: int, wanted: Sequence[Wanted], bench: Bench | None, scorer: str) -> list[Written]:
    """The texts with the feature's maximum over each. Raises UserError where the subject model cannot be had."""
    if bench is None:
        raise UserError(f"the scorer {scorer} reads texts with the subject model, which is not at hand")
    texts = [one.text for one in wanted if one.text]
    try:
        peaks = iter(await asyncio.to_thread(bench.peaks, feature_id, texts) if texts else [])
    except NotAtHandError as missing:
        raise UserError(f"the scorer {scorer} needs the subject model: {missing}") from None
    return [_written(number, one, next(peaks) if one.text else None) for number, one in enumerate(wanted, start=1)]


def _written(number: int, wanted: Wanted, peak: float | None) -> Written:
    if wanted.text is None:
        reason = f"{FailureKind.MALFORMED}: the model wrote fewer texts than were asked for"
        return Written(number, wanted.active, None, None, "failed", reason)
    if peak is None:
        return Written(
            number, wanted.active, wanted.text, None, "failed", f"{FailureKind.MALFORMED}: a text without tokens"
        )
    return Written(number, wanted.active, wanted.text, peak, "ok")


def failed(wanted: Sequence[bool], failure: RequestFailed) -> list[Written]:
    """All texts that were asked for, where no answer could be had."""
    return [Written(number, one, None, None, "failed", str(failure)) for number, one in enumerate(wanted, start=1)]


def first(texts: Sequence[str], count: int, *, active: bool) -> list[Wanted]:
    """The first `count` texts; None for those that are missing."""
    padded: list[str | None] = [*texts[:count], *[None] * (count - len(texts))]
    return [Wanted(active, text) for text in padded]


def peaks_of(written: Sequence[Written]) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Of the texts that were read."""
    return np.array([one.peak for one in written if one.peak is not None], dtype=np.float64)
