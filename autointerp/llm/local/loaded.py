"""The model in memory: what its configuration says of it, and how much of it fits into what is free."""

import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autointerp.llm.local.prompts import Prompts
from autointerp.subject.model import load_subject

_SHARE = 0.6  # of the free memory; the rest is for what the estimate does not know
_WIDTHS = 16  # activations of a layer that live at once, in multiples of the hidden width


@dataclass(frozen=True, slots=True)
class Loaded:
    """A causal language model with its prompts. `window`: tokens it can read, None without a limit. `stops`: tokens that
    end an answer. `cache_bytes`, `width_bytes`: of one token's keys and values in all layers, of its activations."""

    model: Any
    prompts: Prompts
    device: str
    window: int | None
    stops: frozenset[int]
    vocabulary: int
    cache_bytes: int
    width_bytes: int
    options: frozenset[str]

    def row_bytes(self, read: int, written: int, kept: int) -> int:
        """Memory of one request that reads and writes so many tokens and needs the logits of `kept` of them."""
        activations = read * self.width_bytes
        logits = kept * self.vocabulary * 12  # as the model gives them, in float32, and their log-softmax
        return (read + written) * self.cache_bytes + activations + logits

    def forward(self, ids: Tensor, mask: Tensor, cache: Any, keep: int) -> Tensor:
        """Logits [rows, keep, vocabulary] of the last `keep` of `ids` [rows, width], which are put into the cache.

        `mask` [rows, earlier + width] is 0 where there is only padding. Positions count what is not padding.
        """
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        given = {"position_ids": positions, "logits_to_keep": keep}
        known = {name: value for name, value in given.items() if name in self.options}
        output = self.model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **known)
        logits: Tensor = output.logits
        return logits[:, -keep:]


def load(source: str, revision: str | None, device: str, dtype: str) -> Loaded:
    """Load it as the subject model is loaded: safetensors only, no code from the repository. Raises UserError."""
    subject = load_subject(source, device, dtype, revision)
    model, config = subject.model, subject.model.config.get_text_config(decoder=True)
    prompts = Prompts(subject.tokenizer)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = model.dtype.itemsize
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return Loaded(
        model=model,
        prompts=prompts,
        device=subject.device,
        window=getattr(config, "max_position_embeddings", None),
        stops=prompts.turn_ends() | _end_tokens(model),
        vocabulary=model.get_output_embeddings().weight.shape[0],
        cache_bytes=2 * config.num_hidden_layers * heads * head_width * size,
        width_bytes=(_WIDTHS * config.hidden_size + 3 * inner) * size,
        options=frozenset(inspect.signature(model.forward).parameters),
    )


def _end_tokens(model: Any) -> frozenset[int]:
    named: int | Sequence[int] | None = model.generation_config.eos_token_id
    if named is None:
        named = model.config.get_text_config(decoder=True).eos_token_id
    return frozenset([named] if isinstance(named, int) else named or ())


def free_bytes(device: str) -> int:
    """Memory that a batch may take on `device`, with a margin."""
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(_SHARE * (free + reserved))
    return int(_SHARE * _available())


def _available() -> int:
    """Main memory that can be had without swapping: the kernel's own estimate, else a quarter of all there is."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
