"""Texts that a model writes for a scorer, and what the feature does in them: asked for, looked over, read by the subject model.

A text that is missing, blank, there twice or copied is a failed item with its reason. It is not a silent text.
"""

import asyncio
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel

from autointerp.errors import UserError
from autointerp.explain.bench import Bench, TooLargeError
from autointerp.explain.experiments import NotAtHandError
from autointerp.explain.parsing import parse_answer, parse_json
from autointerp.llm.types import FailureKind, Request, RequestFailed
from autointerp.prompts_loader import fenced, render
from autointerp.score import Means, Written

Record = TypeVar("Record", bound=BaseModel)

# Words in a row that a new text may not have in common with one that was shown: one more than the prompt allows.
_COPY = 7
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A text that was asked for: whether the feature is to be active in it, what was written (None: nothing), and what is wrong
    with that, if anything.
    """

    active: bool
    text: str | None
    fault: str | None = None


def texts_schema(*fields: str) -> dict[str, Any]:
    """Of an answer that is a list of texts under each of some names."""
    return {
        "type": "object",
        "properties": {name: {"type": "array", "items": {"type": "string"}} for name in fields},
        "required": list(fields),
        "additionalProperties": False,
    }


def texts_request(
    scorer: str,
    purpose: str,
    schema: Mapping[str, Any],
    data: str,
    count: int,
    *,
    max_tokens: int,
    directory: Path | None,
) -> Request:
    """The request for `count` texts by the prompt of the scorer; `data`: JSON of what the model is told."""
    prompt = render(scorer, directory=directory, data=fenced(data), count=count)
    return Request(
        messages=prompt.messages, max_tokens=max_tokens, json_schema=schema, schema_name="texts_for_" + scorer,
        purpose=purpose, template_hash=prompt.template_hash,
    )  # fmt: skip


async def record_of(
    request: Request, record: type[Record], means: Means, scorer: str, faults: Callable[[Record], int]
) -> Record:
    """What the model answers. An answer that cannot be used, or has `faults`, is asked for once more; the better one stands.

    Raises RequestFailed where there is none; UserError where there is no model.
    """
    if means.ask is None:
        raise UserError(f"the scorer {scorer} asks a model, and none is given; name one")

    def check(text: str) -> bool:
        try:
            return not faults(parse_json(text, record))
        except RequestFailed:
            return False

    request = replace(request, check=check)
    found: Record | None = None
    try:
        found = parse_answer(await means.ask(request), record)
    except RequestFailed as failure:
        if failure.kind not in (FailureKind.MALFORMED, FailureKind.TRUNCATED):
            raise
    if found is not None and not faults(found):
        return found
    try:
        again = parse_answer(await means.ask(replace(request, sample=1)), record)
    except RequestFailed:
        if found is None:
            raise
        return found
    return again if found is None else min(found, again, key=faults)


def looked_over(wanted: Sequence[Wanted], shown: Sequence[str] = ()) -> list[Wanted]:
    """The texts with their faults. `shown`: texts that are not to be copied. Of equal texts the first one counts."""
    known = {run for text in shown for run in _runs(text)}
    whole = {text.strip() for text in shown}
    seen: set[str] = set()
    found = []
    for one in wanted:
        found.append(replace(one, fault=_fault(one.text, seen, whole, known)))
        seen.add(one.text or "")
    return found


def _fault(text: str | None, seen: set[str], whole: set[str], known: set[tuple[str, ...]]) -> str | None:
    if text is None:
        return "the model wrote fewer texts than were asked for"
    if not text.strip():
        return "a blank text"
    if text in seen:
        return "the same text as another one"
    if text.strip() in whole or any(run in known for run in _runs(text)):
        return f"{_COPY} words in a row, or all of it, are copied from a text that was shown"
    return None


def _runs(text: str) -> Iterator[tuple[str, ...]]:
    """All runs of `_COPY` words. Scripts without spaces have no words to speak of: only copies of the whole are noticed there."""
    words = _WORD.findall(text)
    return zip(*(words[start:] for start in range(_COPY)), strict=False)


def count_faults(wanted: Sequence[Wanted]) -> int:
    """How many of the texts cannot be used."""
    return sum(one.fault is not None for one in wanted)


async def read_by_subject(feature_id: int, wanted: Sequence[Wanted], means: Means, scorer: str) -> list[Written]:
    """The texts with the feature's maximum over each; what was read before is not read again.

    Where memory is too small for all together they are read one by one; what is too large by itself is failed. Raises UserError
    where the subject model is needed and cannot be had, or the device fails.
    """
    usable = [one.text for one in wanted if one.text is not None and one.fault is None]
    new = [text for text in usable if text not in means.peaks]
    peaks: dict[str, float | str | None] = {text: means.peaks[text] for text in usable if text in means.peaks}
    if new:
        if means.bench is None:
            raise UserError(f"the scorer {scorer} reads texts with the subject model, which is not at hand")
        try:
            read = await asyncio.to_thread(_peaks, means.bench, feature_id, new)
        except NotAtHandError as missing:
            raise UserError(f"the scorer {scorer} needs the subject model: {missing}") from None
        peaks |= zip(new, read, strict=True)
    return [_written(number, one, peaks.get(one.text or "")) for number, one in enumerate(wanted, start=1)]


def _peaks(bench: Bench, feature_id: int, texts: Sequence[str]) -> list[float | str | None]:
    """Of each text the maximum, None where it has no token, or why it could not be read."""
    try:
        return list(bench.peaks(feature_id, texts))
    except TooLargeError as error:
        if len(texts) == 1:
            return [f"{FailureKind.TOO_LARGE}: {error}"]
    return [_peaks(bench, feature_id, [text])[0] for text in texts]


def _written(number: int, wanted: Wanted, peak: float | str | None) -> Written:
    if isinstance(peak, float) and not math.isfinite(peak):
        peak = f"{FailureKind.MALFORMED}: the subject model's numbers overflow on this text"
    if wanted.fault is None and isinstance(peak, float):
        return Written(number, wanted.active, wanted.text, peak, "ok")
    reason = peak if isinstance(peak, str) else f"{FailureKind.MALFORMED}: {wanted.fault or 'a text without tokens'}"
    return Written(number, wanted.active, wanted.text, None, "failed", reason)


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
