"""Beginnings that prompts share, run once: their keys and values are kept and laid before the rest of every prompt.

A batch is padded on the left, and so are the kept beginnings: row i of length L with width w (the columns that are run) takes
the first L - w tokens from its beginning, shifted to the right so that no padding comes between them and the rest. Index and
position then differ by the same number everywhere in a row, as sliding windows and chunks need it; and what is run is the
same w columns for every row. A longer row runs no more because another shares less.

All layers are kept whole, those with a sliding window too (the mask sees to the window), because only then can a beginning be
cut short. Models whose state cannot be cut (linear attention, Mamba) run every prompt from its first token.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autointerp.llm.local.loaded import Loaded

_WORTH = 16  # tokens: a shorter beginning costs more in bookkeeping than it saves
_ENTRIES = 8
_GROUPS = 64

Layers = list[tuple[Tensor, Tensor] | None]  # keys and values, [heads, tokens, width]; None: the layer keeps nothing


@dataclass(frozen=True, slots=True)
class Beginning:
    tokens: tuple[int, ...]
    layers: Layers


@dataclass(frozen=True, slots=True)
class Shared:
    """`length` tokens of a row come from `beginning`; `fresh` of them were run just now, on account of this row."""

    beginning: Beginning | None = None
    length: int = 0
    fresh: int = 0


@dataclass(frozen=True, slots=True)
class Laid:
    """A batch ready to run: `ids` [rows, width], `mask` [rows, tokens of the longest row], and what comes before `ids`.

    `reused` tokens of a row are not run for it, `fresh` of these were run for it alone and kept.
    """

    ids: Tensor
    mask: Tensor
    cache: Any
    reused: list[int]
    fresh: list[int]


class Prefixes:
    """The few beginnings used last, at most `max_tokens` tokens of them all together."""

    def __init__(self, loaded: Loaded, max_tokens: int) -> None:
        self._loaded = loaded
        self._whole_layers = _whole_layers(loaded.model)
        self._max_tokens = max_tokens if self._whole_layers else 0
        self._kept: OrderedDict[tuple[int, ...], Beginning] = OrderedDict()
        self._last: OrderedDict[str, tuple[int, ...]] = OrderedDict()

    def lay(self, prompts: Sequence[Sequence[int]], groups: Sequence[str], limits: Sequence[int]) -> Laid:
        """The batch, with as much of each row as can be taken from a beginning, but at most `limits[i]` of its tokens.

        Rows of a group are looked through for a common beginning, the group's previous row included; one that is long
        enough and not kept yet is run and kept.
        """
        rows = [tuple(prompt) for prompt in prompts]
        shared = [Shared() for _ in rows]
        if self._max_tokens:
            fresh = dict(self._extend(group, rows, groups, limits) for group in dict.fromkeys(groups))
            shared = [
                self._match(row[:limit], fresh.get(i, 0))
                for i, (row, limit) in enumerate(zip(rows, limits, strict=True))
            ]
        width = max(len(row) - one.length for row, one in zip(rows, shared, strict=True))
        longest = max(map(len, rows))
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for index, row in enumerate(rows):
            run = row[-width:]
            ids[index, width - len(run) :] = torch.tensor(run)
            mask[index, longest - len(row) :] = 1
        taken = [max(0, len(row) - width) for row in rows]
        cache = self._cache([one.beginning for one in shared], taken, longest - width)
        fresh_here = [min(one.fresh, reused) for one, reused in zip(shared, taken, strict=True)]
        return Laid(ids.to(self._loaded.device), mask.to(self._loaded.device), cache, taken, fresh_here)

    def clear(self) -> None:
        """Give the memory back."""
        self._kept.clear()

    def _match(self, tokens: tuple[int, ...], fresh: int = 0) -> Shared:
        """The kept beginning that shares most with `tokens`."""
        best = max(self._kept.values(), key=lambda one: _common(one.tokens, tokens), default=None)
        length = 0 if best is None else _common(best.tokens, tokens)
        if best is None or length < _WORTH:
            return Shared()
        self._kept.move_to_end(best.tokens)
        return Shared(best, length, fresh)

    def _extend(
        self, group: str, rows: Sequence[tuple[int, ...]], groups: Sequence[str], limits: Sequence[int]
    ) -> tuple[int, int]:
        """Run and keep the group's common beginning if that is worth it. The group's first row, tokens run for it."""
        members = [index for index in range(len(rows)) if groups[index] == group]
        seen = [rows[index][: limits[index]] for index in members]
        compared = [*seen, self._last[group]] if group in self._last else seen
        self._last[group] = seen[0]
        self._last.move_to_end(group)
        if len(self._last) > _GROUPS:
            self._last.popitem(last=False)
        length = min((_common(seen[0], other) for other in compared[1:]), default=0)
        known = self._match(seen[0][:length])
        if length - known.length < _WORTH or length > self._max_tokens:
            return members[0], 0
        self._keep(seen[0][:length], known)
        return members[0], length - known.length

    def _keep(self, tokens: tuple[int, ...], known: Shared) -> None:
        device = self._loaded.device
        cache = self._cache([known.beginning], [known.length], known.length)
        ids = torch.tensor([tokens[known.length :]], device=device)
        self._loaded.forward(ids, torch.ones((1, len(tokens)), dtype=torch.long, device=device), cache, 1)
        layers: Layers = [
            (layer.keys[0].clone(), layer.values[0].clone()) if layer.get_seq_length() else None
            for layer in cache.layers
        ]
        for other in [one for one in self._kept if one == tokens[: len(one)]]:
            del self._kept[other]
        self._kept[tokens] = Beginning(tokens, layers)
        while len(self._kept) > _ENTRIES or sum(map(len, self._kept)) > self._max_tokens:
            self._kept.popitem(last=False)

    def _cache(self, beginnings: Sequence[Beginning | None], taken: Sequence[int], columns: int) -> Any:
        """The cache before a batch: row i ends with the first `taken[i]` tokens of its beginning."""
        from transformers import DynamicCache

        if not self._whole_layers:
            return DynamicCache(config=self._loaded.model.config)
        given = next((one for one in beginnings if one is not None), None)
        if given is None or columns == 0:
            return DynamicCache()
        filled: list[tuple[Tensor | None, Tensor | None]] = []
        for number, like in enumerate(given.layers):
            if like is None:
                filled.append((None, None))
                continue
            sides = []
            for side in (0, 1):
                states = like[side].new_zeros((len(taken), like[side].shape[0], columns, like[side].shape[2]))
                for index, (one, count) in enumerate(zip(beginnings, taken, strict=True)):
                    kept = None if one is None else one.layers[number]
                    if kept is not None and count:
                        states[index, :, columns - count :] = kept[side][:, :count]
                sides.append(states)
            filled.append((sides[0], sides[1]))
        return DynamicCache(filled)


def _whole_layers(model: Any) -> bool:
    """Whether every layer's state is keys and values by token, so that it can be kept whole and cut anywhere."""
    from transformers.cache_utils import DummyLayer, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    layers = DynamicCache(config=model.config).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer) for layer in layers)


def _common(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """Number of tokens with which both begin."""
    low, high = 0, min(len(first), len(second))
    while low < high:  # whole slices are compared, which is faster than token by token
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
