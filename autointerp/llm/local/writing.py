"""Generation: one step of the loop writes a token of every answer in the batch, and an answer that is complete leaves it."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from autointerp.llm.local.among import singles, texts_at
from autointerp.llm.local.jobs import Job, Unanswerable
from autointerp.llm.local.loaded import Loaded
from autointerp.llm.local.prefixes import Prefixes
from autointerp.llm.local.reading import logprobs
from autointerp.llm.local.schema import Matcher
from autointerp.llm.provider import CallFailed, Finish, Reply
from autointerp.llm.types import FailureKind, TokenLogprobs, Usage

_TAIL = 16  # tokens in which the end of an answer is looked for where a text marks it

MakeMatcher = Callable[[Mapping[str, Any]], Matcher]


@dataclass(eq=False, slots=True)
class _Row:
    """One answer as it grows. `limit`: tokens that it may have; `draw` gives a number in [0, 1) for every token."""

    job: Job
    limit: int
    draw: random.Random
    matcher: Matcher | None
    reused: int
    fresh: int
    tokens: list[int] = field(default_factory=list)
    values: list[TokenLogprobs] = field(default_factory=list)


def write(loaded: Loaded, prefixes: Prefixes, jobs: Sequence[Job], served: str, make_matcher: MakeMatcher) -> None:
    """Deliver an answer, or the reason why there is none, to every job."""
    prompts = [job.prompt for job in jobs]
    laid = prefixes.lay(prompts, [job.group for job in jobs], [len(prompt) - 1 for prompt in prompts])
    rows = [_row(loaded, job, make_matcher, laid.reused[i], laid.fresh[i]) for i, job in enumerate(jobs)]
    logits = loaded.forward(laid.ids, laid.mask, laid.cache, 1)[:, -1].float()
    mask = laid.mask
    while True:
        tokens = _choose(rows, logits)
        going = [
            i
            for i, row in enumerate(rows)
            if not row.job.cancelled and not _took(loaded, row, tokens[i], logits[i], served)
        ]
        if not going:
            return
        if len(going) < len(rows):
            rows = [rows[index] for index in going]
            kept = torch.tensor(going, device=mask.device)
            laid.cache.batch_select_indices(kept)
            mask = mask[kept]
        mask = torch.cat([mask, mask.new_ones((len(rows), 1))], dim=1)
        ids = torch.tensor([row.tokens[-1:] for row in rows], device=mask.device)
        logits = loaded.forward(ids, mask, laid.cache, 1)[:, -1].float()


def _row(loaded: Loaded, job: Job, make_matcher: MakeMatcher, reused: int, fresh: int) -> _Row:
    request = job.request
    room = request.max_tokens if loaded.window is None else loaded.window - len(job.prompt)
    matcher = None
    if request.json_schema is not None:
        try:
            matcher = make_matcher(request.json_schema)
        except Unanswerable as error:
            _fail(job, error.failure)
    return _Row(job, min(room, request.max_tokens), random.Random(job.seed), matcher, reused - fresh, fresh)


def _choose(rows: Sequence[_Row], logits: Tensor) -> list[int]:
    """The next token of every row, from `logits` [rows, vocabulary]: the likeliest, or drawn at the row's temperature.

    A draw is the point where the cumulated probability passes the row's own random number, so that it does not depend on
    the other rows.
    """
    allowed = logits
    if any(row.matcher is not None for row in rows):
        allowed = logits.clone()
        for index, row in enumerate(rows):
            if row.matcher is not None:
                allowed[index].masked_fill_(row.matcher.forbidden().to(logits.device), -torch.inf)
    tokens: list[int] = allowed.argmax(dim=-1).tolist()
    for index, row in enumerate(rows):
        if row.job.request.temperature:
            scaled = torch.softmax(allowed[index].double() / row.job.request.temperature, dim=-1)
            cumulated = scaled.cumsum(0)
            point = cumulated[-1] * row.draw.random()
            drawn = int(torch.searchsorted(cumulated, point, right=True))
            tokens[index] = min(drawn, int(scaled.nonzero()[-1]))  # rounding must not draw what is impossible
    return tokens


def _took(loaded: Loaded, row: _Row, token: int, logits: Tensor, served: str) -> bool:
    """Add the token to the row's answer. True if that was the end of it, and it is delivered."""
    if row.job.done:
        return True
    if bool(torch.isnan(logits).any()):
        reason = "the model gave NaN instead of logits; try --provider transformers:float32"
        return _fail(row.job, CallFailed(FailureKind.SERVER_ERROR, reason))
    if token in loaded.stops and not (row.job.request.may_be_cut and not row.tokens):
        return _deliver(loaded, row, "stop", served)
    row.tokens.append(token)
    wanted = row.job.request.logprobs
    if wanted is not None:  # texts of pieces come with the whole answer
        (value,) = logprobs(logits[None], [token], [""], wanted, loaded.prompts)
        if row.job.request.among:
            (given,) = singles(logits[None], texts_at(loaded.prompts, row.job.request, [], []))
            value = replace(value, top={**value.top, **given})
        row.values.append(value)
    if row.matcher is not None:
        try:
            row.matcher.take(token)
        except Unanswerable as error:
            return _fail(row.job, error.failure)
        if row.matcher.complete:
            return _deliver(loaded, row, "stop", served)
    if _ends_in_text(loaded, row.tokens):
        return _deliver(loaded, row, "stop", served)
    return len(row.tokens) >= row.limit and _deliver(loaded, row, "length", served)


def _ends_in_text(loaded: Loaded, tokens: Sequence[int]) -> bool:
    stops = loaded.prompts.stop_texts
    return bool(stops) and _cut("".join(loaded.prompts.pieces(tokens[-_TAIL:])), stops) is not None


def _cut(text: str, stops: Sequence[str]) -> int | None:
    return min((text.index(stop) for stop in stops if stop in text), default=None)


def _deliver(loaded: Loaded, row: _Row, finish: Finish, served: str) -> bool:
    pieces = loaded.prompts.pieces(row.tokens)
    text = "".join(pieces)
    end = _cut(text, loaded.prompts.stop_texts)
    values = [TokenLogprobs(piece, one.logprob, one.top) for piece, one in zip(pieces, row.values, strict=False)]
    if end is not None:
        text = text[:end]
        starts = [sum(map(len, pieces[:index])) for index in range(len(values))]
        values = [one for one, start in zip(values, starts, strict=True) if start < end]
    if finish == "stop" and not text.strip():
        finish = "empty"
    if row.job.request.may_be_cut and (finish == "length" or values):
        finish = "stop"
    usage = Usage(len(row.job.prompt), len(row.tokens), row.reused, row.fresh)
    row.job.deliver(Reply(text, finish, served, usage, values))
    return True


def _fail(job: Job, failure: CallFailed) -> bool:
    job.deliver(failure)
    return True
