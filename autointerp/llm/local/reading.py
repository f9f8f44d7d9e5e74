"""Log-probabilities: exact, in float32, of the model itself (before temperature and schema)."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from autointerp.llm.local.among import Slots, Texts, pairs, singles, texts_at
from autointerp.llm.local.jobs import Job
from autointerp.llm.local.loaded import Loaded
from autointerp.llm.local.prefixes import Laid, Prefixes
from autointerp.llm.local.prompts import Prompts
from autointerp.llm.logprobs import at_slots
from autointerp.llm.provider import Reply
from autointerp.llm.types import TokenLogprobs, Usage

_LOWEST = -1e9  # stands for -inf, which JSON does not have


def read(loaded: Loaded, prefixes: Prefixes, jobs: Sequence[Job], served: str) -> None:
    """Deliver the log-probabilities of each job's forced tokens: one forward pass, all positions at once."""
    rows = [[*job.prompt, *job.forced[:-1]] for job in jobs]  # what comes before each forced token
    laid = prefixes.lay(rows, [job.group for job in jobs], [len(job.prompt) - 1 for job in jobs])
    keep = max(len(job.forced) for job in jobs)
    logits = loaded.forward(laid.ids, laid.mask, laid.cache, keep)
    pieces = [loaded.prompts.pieces(job.forced, opening=False) for job in jobs]
    given = (
        [{} for _ in jobs] if not any(job.request.among for job in jobs) else _among(loaded, laid, logits, jobs, pieces)
    )
    for index, job in enumerate(jobs):
        values = logprobs(
            logits[index, -len(job.forced) :], job.forced, pieces[index], job.request.logprobs or 0, loaded.prompts
        )
        values = [replace(one, top={**one.top, **given[index].get(at, {})}) for at, one in enumerate(values)]
        fresh = laid.fresh[index]
        usage = Usage(input=job.length, cached=laid.reused[index] - fresh, written=fresh)
        job.deliver(Reply(str(job.request.continuation), "stop", served, usage, at_slots(values, job.request.slots)))


def _among(
    loaded: Loaded, laid: Laid, logits: Tensor, jobs: Sequence[Job], pieces: Sequence[Sequence[str]]
) -> list[dict[int, dict[str, float]]]:
    """Of each job: the forced token's index at each slot → log-probabilities of the texts that the job names."""
    places: list[list[int]] = []
    rows: list[Slots] = []
    for job, texts in zip(jobs, pieces, strict=True):
        starts = list(itertools.accumulate(map(len, texts[:-1]), initial=0))
        wanted = None if job.request.slots is None else set(job.request.slots)
        at = [i for i, start in enumerate(starts) if wanted is None or (start in wanted and texts[i])]
        places.append(at if job.request.among else [])
        found = texts_at(loaded.prompts, job.request, job.forced, starts) if job.request.among else Texts({}, {})
        rows.append(Slots([len(job.prompt) + index for index in places[-1]], found))
    read = [logits[index, -len(job.forced) :][places[index]] for index, job in enumerate(jobs)]
    two = pairs(loaded, laid.mask, laid.cache, read, rows)
    return [
        {at: one | other for at, one, other in zip(places[i], singles(read[i], row.texts), two[i], strict=True)}
        for i, row in enumerate(rows)
    ]


def logprobs(
    logits: Tensor, tokens: Sequence[int], pieces: Sequence[str], alternatives: int, prompts: Prompts
) -> list[TokenLogprobs]:
    """Of each token, with the likeliest in its place. `logits` [tokens, vocabulary], `pieces` the tokens' texts.

    Alternatives with the same text (bytes that are no character by themselves) count once, as the likeliest.
    """
    distribution = torch.log_softmax(logits.float(), dim=-1).clamp(min=_LOWEST)
    chosen = distribution.gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
    best = distribution.topk(min(alternatives, distribution.shape[1]), dim=-1)
    values = []
    for piece, value, likely, likely_values in zip(
        pieces, chosen, best.indices.tolist(), best.values.tolist(), strict=True
    ):
        top: dict[str, float] = {}
        for token, other in zip(likely, likely_values, strict=True):
            top.setdefault(prompts.text_of(token), other)
        values.append(TokenLogprobs(piece, value, top))
    return values
