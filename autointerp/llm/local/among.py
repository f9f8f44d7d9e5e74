"""Log-probabilities of given texts at given tokens, exact: of one token from the distribution that was read anyway, of two by one
further pass.

The texts of two tokens ("10" where a tokenizer keeps digits apart) need p(second | first), once for every slot, after a text that
goes on otherwise. All slots are run together behind the text's keys and values: each of the added tokens sees the text up to its
slot and itself, and neither what follows nor the others. Models that see through a window or keep no keys and values by token are
not run in this way; there such texts are missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autointerp.llm.local.loaded import Loaded
from autointerp.llm.local.prompts import Prompts
from autointerp.llm.types import Request

_LOWEST = -1e9


@dataclass(frozen=True, slots=True)
class Texts:
    """Token ids of the texts of one token and of two; longer ones are left out."""

    one: Mapping[str, int]
    two: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Slots:
    """Of one row: where the added tokens go. `after`: how many of the row's tokens come before each."""

    after: Sequence[int]
    texts: Texts


def texts_at(prompts: Prompts, request: Request, forced: Sequence[int], starts: Sequence[int]) -> Texts:
    """The tokens of `request.among` as they are after what comes before the first slot. `starts`: where each forced token begins.

    A text whose beginning would melt into the token before it is left out.
    """
    slot = min(request.slots or (0,))
    before = (request.continuation or "")[:slot]
    known = sum(start < slot for start in starts)
    one: dict[str, int] = {}
    two: dict[str, tuple[int, int]] = {}
    for text in request.among:
        ids = prompts.encode_continuation(before + text)
        own = tuple(ids[known:])
        if list(ids[:known]) != list(forced[:known]):
            continue
        if len(own) == 1:
            one[text] = own[0]
        elif len(own) == 2:
            two[text] = (own[0], own[1])
    return Texts(one, two)


def singles(logits: Tensor, texts: Texts) -> list[dict[str, float]]:
    """Of each of the slots the log-probabilities of the texts of one token. `logits` [slots, vocabulary]."""
    if not texts.one:
        return [{} for _ in range(len(logits))]
    distribution = torch.log_softmax(logits.float(), dim=-1).clamp(min=_LOWEST)
    values = distribution[:, list(texts.one.values())].tolist()
    return [dict(zip(texts.one, row, strict=True)) for row in values]


def pairs(
    loaded: Loaded, mask: Tensor, cache: Any, logits: Sequence[Tensor], rows: Sequence[Slots]
) -> list[list[dict[str, float]]]:
    """Of each row and slot the log-probabilities of the texts of two tokens: p(first) · p(second | first).

    `mask` [rows, columns] and `cache` are those of the pass that gave `logits`, of each row [slots, vocabulary]. More is added to
    the cache, which is of no further use.
    """
    found: list[list[dict[str, float]]] = [[{} for _ in row.after] for row in rows]
    if not sees_all(loaded):
        return found
    firsts = [list(dict.fromkeys(first for first, _ in row.texts.two.values())) for row in rows]
    added = [
        [(slot, first) for slot in range(len(row.after)) for first in firsts[index]] for index, row in enumerate(rows)
    ]
    width = max(map(len, added))
    if not width:
        return found
    after = _after_each(loaded, mask, cache, rows, added, width)
    for index, row in enumerate(rows):
        if not added[index]:
            continue
        before = torch.log_softmax(logits[index].float(), dim=-1)
        then = torch.log_softmax(after[index, : len(added[index])].float(), dim=-1)
        place = {one: number for number, one in enumerate(added[index])}
        for slot in range(len(row.after)):
            for text, (first, second) in row.texts.two.items():
                value = before[slot, first] + then[place[slot, first], second]
                found[index][slot][text] = max(float(value), _LOWEST)
    return found


def _after_each(
    loaded: Loaded,
    mask: Tensor,
    cache: Any,
    rows: Sequence[Slots],
    added: Sequence[Sequence[tuple[int, int]]],
    width: int,
) -> Tensor:
    """Logits [rows, width, vocabulary] after each of the added (slot, token); padded on the right."""
    columns = mask.shape[1]
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    positions = torch.zeros((len(rows), width), dtype=torch.long)
    seen = torch.zeros((len(rows), 1, width, columns + width), dtype=torch.bool)
    seen[:, 0, torch.arange(width), columns + torch.arange(width)] = True  # itself
    starts = (columns - mask.sum(-1)).tolist()
    for index, row in enumerate(rows):
        for number, (slot, token) in enumerate(added[index]):
            ids[index, number] = token
            positions[index, number] = row.after[slot]
            seen[index, 0, number, starts[index] : starts[index] + row.after[slot]] = True
    device, dtype = mask.device, loaded.model.dtype
    hidden = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    output = loaded.model(
        input_ids=ids.to(device), attention_mask=hidden.to(device), position_ids=positions.to(device), past_key_values=cache,
        use_cache=True,
    )  # fmt: skip
    logits: Tensor = output.logits
    return logits


def sees_all(loaded: Loaded) -> bool:
    """Whether every token of the model sees all before it, and is told its position."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    layers = DynamicCache(config=loaded.model.config).layers
    return "position_ids" in loaded.options and all(type(layer) is DynamicLayer for layer in layers)
