"""Loss recovered: how much of the model's prediction survives when the SAE's output takes the hidden state's place.

    loss recovered = (CE_zero − CE_sae) / (CE_zero − CE_plain)

CE is the cross-entropy of the next token, in nats. 1: predictions are as good as the model's own; 0: as bad as with zeros in
the hidden state's place. This is the definition of SAEBench (Karvonen et al. 2025, loss recovered), after the Gated SAE paper
(Rajamanoharan et al. 2024); Gemma Scope (Lieberum et al. 2024) reports the difference CE_sae − CE_plain, which the stored
figures give. Zeros are far from anything that the model knows, so the figure flatters: the variant with the mean hidden
state in place of zeros stands beside it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autointerp.errors import UserError
from autointerp.harvest.forward import Reader
from autointerp.harvest.writing import output_site
from autointerp.subject.hookpoints import Hookpoint
from autointerp.subject.interventions import Edit, intervene
from autointerp.subject.windows import Windows

_LOGITS = 1 << 26  # the most logits of one forward pass: 256 MB in float32
_MOST_WINDOWS = 16
_LEAST_GAP = 1e-6  # nats: a smaller rise of the loss is rounding


@dataclass(frozen=True, slots=True)
class LossRecovered:
    """`plain`, `sae`, `zero` and `mean`: cross-entropy, nats a token, over `tokens` predicted tokens, with the hidden state
    left alone, replaced by the SAE's output, by zeros, by its mean.

    `recovered` is relative to zero-ablation, `recovered_mean` to mean-ablation. A value is None where it is undefined;
    `reason` then says why.
    """

    recovered: float | None = None
    recovered_mean: float | None = None
    plain: float | None = None
    sae: float | None = None
    zero: float | None = None
    mean: float | None = None
    tokens: int = 0
    site: str | None = None
    reason: str | None = None

    def describe(self) -> str:
        """One line for people."""
        if self.plain is None or self.sae is None or self.zero is None or self.mean is None:
            return f"loss recovered undefined: {self.reason}"
        return (
            f"loss recovered {_percent(self.recovered)} ({_percent(self.recovered_mean)} against the mean state): "
            f"{self.plain:.3f} nats a token, {self.sae:.3f} with the SAE, {self.zero:.3f} with zeros, {self.mean:.3f} with "
            f"the mean, over {self.tokens:,} tokens" + (f"; {self.reason}" if self.reason else "")
        )


def _percent(share: float | None) -> str:
    return "undefined" if share is None else f"{share:.1%}"


def measure_loss_recovered(reader: Reader, windows: Windows, *, max_tokens: int = 20_000) -> LossRecovered:
    """Over the first windows with `max_tokens` predicted tokens in all. BOS, padding and special tokens are neither
    replaced nor predicted. A transcoder reads at the reader's hookpoint and replaces what its own output site holds.
    What cannot be measured is None with its reason; nothing is raised for it. Every token's state is replaced, also where
    the harvest leaves it out for its length (`max_norm`).
    """
    try:
        return _measure(reader, windows, output_site(reader), max_tokens)
    except UserError as error:
        return LossRecovered(reason=str(error))


def _measure(reader: Reader, windows: Windows, site: Hookpoint, max_tokens: int) -> LossRecovered:
    batches, tokens = _batches(reader, windows, max_tokens)
    if tokens == 0:
        return LossRecovered(site=str(site), reason="no token has another before it that could predict it")
    state = _Moments()
    plain = _loss(reader, windows, batches, lambda valid: {site: state.watch(valid)})
    mean = state.mean()
    losses = {
        "sae": _loss(reader, windows, batches, lambda valid: _splice(reader, site, valid)),
        "zero": _loss(reader, windows, batches, lambda valid: {site: torch.zeros_like}),
        "mean": _loss(reader, windows, batches, lambda valid: {site: lambda x: mean.to(x).expand_as(x)}),
    }
    return _result(plain / tokens, {name: loss / tokens for name, loss in losses.items()}, tokens, str(site))


def _batches(reader: Reader, windows: Windows, max_tokens: int) -> tuple[list[tuple[int, int]], int]:
    """Ranges of windows that hold `max_tokens` predicted tokens or just more, as far as there are so many; how many."""
    vocabulary = reader.subject.model.config.get_text_config().vocab_size
    longest = int(np.diff(windows.offsets).max(initial=0)) + 1
    size = min(_MOST_WINDOWS, max(1, _LOGITS // (longest * vocabulary)))
    found, tokens = [], 0
    for begin in range(0, len(windows), size):
        if tokens >= max_tokens:
            break
        end = min(begin + size, len(windows))
        found.append((begin, end))
        tokens += int(reader.batch(windows, begin, end)[1][:, 1:].sum())
    return found, tokens


def _loss(
    reader: Reader,
    windows: Windows,
    batches: list[tuple[int, int]],
    edits: Callable[[Tensor], Mapping[Hookpoint, Edit]],
) -> float:
    """Summed cross-entropy of the real tokens that have one before them. `edits` makes them for a mask of real tokens."""
    model, device, total = reader.subject.model, reader.subject.device, 0.0
    for begin, end in batches:
        ids, valid = (torch.from_numpy(array).to(device) for array in reader.batch(windows, begin, end))
        with torch.inference_mode(), intervene(model, edits(valid), mask=valid):
            logits = model(input_ids=ids, use_cache=False).logits
            predicted = valid[:, 1:]
            given, truth = logits[:, :-1][predicted].float(), ids[:, 1:][predicted]
            total += float(torch.nn.functional.cross_entropy(given, truth, reduction="sum"))
    return total


def _splice(reader: Reader, site: Hookpoint, valid: Tensor) -> Mapping[Hookpoint, Edit]:
    """Edits that put the SAE's output in the place of what is at `site`."""
    sae = reader.sae
    read: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        read.append(x[valid])
        return x

    def replace(x: Tensor) -> Tensor:
        if site != reader.hookpoint and not read:
            raise UserError(f"the transcoder reads at {reader.hookpoint}, after {site}, which it predicts")
        given = x[valid] if site == reader.hookpoint else read.pop()
        new = x.to(torch.float32, copy=True)
        new[valid] = sae.decode_sparse(sae.encode_sparse(given), len(given), given).to(new)
        return new

    return {site: replace} if site == reader.hookpoint else {reader.hookpoint: keep, site: replace}


class _Moments:
    """The sum of the hidden states of real tokens, in float64."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = 0

    def watch(self, valid: Tensor) -> Edit:
        def look(x: Tensor) -> Tensor:
            part = x[valid].double().sum(0)
            self.total = part if self.total is None else self.total + part
            self.count += int(valid.sum())
            return x

        return look

    def mean(self) -> Tensor:
        assert self.total is not None, "the plain pass reaches the site, or intervene raises"
        return self.total / max(self.count, 1)


def _result(plain: float, losses: dict[str, float], tokens: int, site: str) -> LossRecovered:
    """The ratios, where they are defined."""
    if not all(math.isfinite(loss) for loss in (plain, *losses.values())):
        return LossRecovered(tokens=tokens, site=site, reason="a cross-entropy is not finite")
    ratios: dict[str, float | None] = {}
    reasons = []
    for how, name in (("zero", "zeros"), ("mean", "its mean")):
        gap = losses[how] - plain
        ratios[how] = (losses[how] - losses["sae"]) / gap if gap > _LEAST_GAP else None
        if gap <= _LEAST_GAP:
            reasons.append(f"the model predicts no worse with {name} in the hidden state's place")
    return LossRecovered(
        ratios["zero"], ratios["mean"], plain, **losses, tokens=tokens, site=site, reason="; ".join(reasons) or None
    )
