"""Log-probabilities: exact, in float32, of the model itself (before temperature and schema)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from autointerp.llm.local.jobs import Job
from autointerp.llm.local.loaded import Loaded
from autointerp.llm.local.prefixes import Prefixes
from autointerp.llm.local.prompts import Prompts
from autointerp.llm.provider import Reply
from autointerp.llm.types import TokenLogprobs, Usage

_LOWEST = -1e9  # stands for -inf, which JSON does not have


def read(loaded: Loaded, prefixes: Prefixes, jobs: Sequence[Job], served: str) -> None:
    """Deliver the log-probabilities of each job's forced tokens: one forward pass, all positions at once."""
    rows = [[*job.prompt, *job.forced[:-1]] for job in jobs]  # what comes before each forced token
    laid = prefixes.lay(rows, [job.group for job in jobs], [len(job.prompt) - 1 for job in jobs])
    keep = max(len(job.forced) for job in jobs)
    logits = loaded.forward(laid.ids, laid.mask, laid.cache, keep)
    for index, job in enumerate(jobs):
        pieces = loaded.prompts.pieces(job.forced, opening=False)
        values = logprobs(
            logits[index, -len(job.forced) :], job.forced, pieces, job.request.logprobs or 0, loaded.prompts
        )
        fresh = laid.fresh[index]
        usage = Usage(input=job.length, cached=laid.reused[index] - fresh, written=fresh)
        job.deliver(Reply(str(job.request.continuation), "stop", served, usage, values))


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
