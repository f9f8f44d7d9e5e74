"""Where in the subject model an SAE reads: the input or the output of a module, by the Hugging Face model's own names.

Names that other tools write are translated: TransformerLens hooks, paths relative to the base model, `module.output`.
`capture` runs the model only as far as the last hookpoint.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from autointerp.errors import UserError

Side = Literal["in", "out"]
_SUFFIXES: dict[str, Side] = {
    ":in": "in", ":out": "out", ":input": "in", ":output": "out", ".input": "in", ".output": "out",
}  # fmt: skip
# What other models of the family put before the names of their blocks.
_PREFIXES = ("model.language_model.", "language_model.model.", "language_model.", "model.", "transformer.", "gpt_neox.")
_LENS_NAME = re.compile(r"blocks\.(?P<layer>\d+)\.(?P<site>.+)")

Site = tuple[str, Side]
_EVERY_MODEL: dict[str, Site] = {"hook_resid_pre": ("", "in"), "hook_resid_post": ("", "out")}
_GATED_MLP: dict[str, Site] = {
    "attn.hook_z": ("self_attn.o_proj", "in"),
    "mlp.hook_pre": ("mlp.gate_proj", "out"),
    "mlp.hook_post": ("mlp.down_proj", "in"),
    "mlp.hook_in": ("mlp", "in"),
    "mlp.hook_out": ("mlp", "out"),
}
_LLAMA: dict[str, Site] = _GATED_MLP | {
    "hook_resid_mid": ("post_attention_layernorm", "in"),
    "hook_attn_out": ("self_attn", "out"),
    "hook_mlp_out": ("mlp", "out"),
}
# Gemma 2 and 3 normalise what attention and MLP write: the normalised vectors are what is added to the residual stream.
_GEMMA: dict[str, Site] = _GATED_MLP | {
    "hook_resid_mid": ("pre_feedforward_layernorm", "in"),
    "hook_attn_out": ("post_attention_layernorm", "out"),
    "hook_mlp_out": ("post_feedforward_layernorm", "out"),
}
_GPT2: dict[str, Site] = {
    "hook_resid_mid": ("ln_2", "in"),
    "hook_attn_out": ("attn", "out"),
    "hook_mlp_out": ("mlp", "out"),
    "attn.hook_z": ("attn.c_proj", "in"),
    "mlp.hook_pre": ("mlp.c_fc", "out"),
    "mlp.hook_post": ("mlp.c_proj", "in"),
    "mlp.hook_in": ("mlp", "in"),
    "mlp.hook_out": ("mlp", "out"),
}
_NEOX: dict[str, Site] = {
    "hook_attn_out": ("attention", "out"),
    "hook_mlp_out": ("mlp", "out"),
    "attn.hook_z": ("attention.dense", "in"),
    "mlp.hook_pre": ("mlp.dense_h_to_4h", "out"),
    "mlp.hook_post": ("mlp.dense_4h_to_h", "in"),
    "mlp.hook_in": ("mlp", "in"),
    "mlp.hook_out": ("mlp", "out"),
}
# The modules that tell a family, by what its blocks have. The first that fits.
_FAMILIES: tuple[tuple[tuple[str, ...], dict[str, Site]], ...] = (
    (("self_attn", "mlp.down_proj", "pre_feedforward_layernorm", "post_feedforward_layernorm"), _GEMMA),
    (("self_attn.o_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm"), _LLAMA),
    (("attn.c_proj", "mlp.c_proj", "ln_2"), _GPT2),
    (("attention.dense", "mlp.dense_4h_to_h"), _NEOX),
)
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in")


@dataclass(frozen=True, slots=True, order=True)
class Hookpoint:
    """The input or the output of the module at path `module`. Its text form is "model.layers.2:out"."""

    module: str
    side: Side

    def __str__(self) -> str:
        return f"{self.module}:{self.side}"


class Layout:
    """How a model is put together: its modules by path, and where its blocks are."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = {name: module for name, module in model.named_modules() if name}
        self.blocks = self._find_blocks(model)
        self.base = self.blocks.rpartition(".")[0] if self.blocks else ""

    def _find_blocks(self, model: nn.Module) -> str | None:
        """The path of the list of transformer blocks of the language model."""
        config: Any = getattr(model, "config", None)
        depth = getattr(config.get_text_config(), "num_hidden_layers", None) if config is not None else None
        lists = [
            name for name, module in self.modules.items() if isinstance(module, nn.ModuleList) and len(module) == depth
        ]
        # A vision tower may happen to be as deep as the language model.
        return min(lists, key=lambda name: (bool(re.search("vision|audio|image", name)), len(name)), default=None)

    def path(self, name: str) -> str | None:
        """The module's full path for a path that may be relative to the base model, or None. Whole names only."""
        bare = next((name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)), name)
        for candidate in (name, f"{self.base}.{name}", f"{self.base}.{bare}", bare):
            if candidate in self.modules:
                return candidate
        return None

    def block(self, layer: int) -> str:
        if self.blocks is None:
            raise UserError("the model has no list of blocks that could be found: give the module's own path")
        path = f"{self.blocks}.{layer}"
        if path not in self.modules:
            depth = sum(1 for name in self.modules if re.fullmatch(re.escape(self.blocks) + r"\.\d+", name))
            raise UserError(f"layer {layer} was asked for; the model has layers 0 to {depth - 1}")
        return path

    def sites(self, block: str) -> dict[str, Site]:
        """What TransformerLens' names for the places in a block are in this model."""
        fitting = (table for needed, table in _FAMILIES if all(f"{block}.{name}" in self.modules for name in needed))
        table = next(fitting, {})
        sites = _EVERY_MODEL | table
        if table is _NEOX and getattr(self.modules[block], "use_parallel_residual", True) is False:
            sites["hook_resid_mid"] = ("post_attention_layernorm", "in")
        if "hook_resid_mid" in sites:
            sites["hook_mlp_in"] = sites["hook_resid_mid"]
        return {site: place for site, place in sites.items() if not place[0] or f"{block}.{place[0]}" in self.modules}


def resolve_hookpoint(model: nn.Module, name: str) -> Hookpoint:
    """The hookpoint that `name` means in this model.

    Accepts module paths, also relative to the base model, with ":in" or ":out" (or ":input", ".output", …; the output
    where nothing is said), and TransformerLens names. Raises UserError that lists the nearest names.
    """
    layout = Layout(model)
    path = layout.path(name)
    if path is not None:
        return Hookpoint(path, "out")
    for suffix, side in _SUFFIXES.items():
        if name.endswith(suffix):
            path = layout.path(name.removesuffix(suffix))
            if path is not None:
                return Hookpoint(path, side)
    lens = _LENS_NAME.fullmatch(name)
    if lens is not None:
        return _from_lens(layout, name, int(lens["layer"]), lens["site"])
    if name == "hook_embed":
        found = next((path for path in map(layout.path, _EMBEDDINGS) if path is not None), None)
        if found is not None:
            return Hookpoint(found, "out")
    raise UserError(f"the model has no module {name!r}; the nearest names are {_nearest(name, layout)}")


def _from_lens(layout: Layout, name: str, layer: int, site: str) -> Hookpoint:
    block = layout.block(layer)
    sites = layout.sites(block)
    if site in sites:
        module, side = sites[site]
        return Hookpoint(f"{block}.{module}" if module else block, side)
    if site.endswith("hook_normalized"):
        raise UserError(
            f"{name} is the normalised hidden state before the norm's gain is applied, which no module of the model "
            "yields: fold the gain into the SAE first (autointerp.subject.model.absorb_norm_gain)"
        )
    if site == "hook_resid_mid" and "attn.hook_z" in sites:
        raise UserError(
            f"{name}: attention and MLP run in parallel in this model: there is no residual stream between them"
        )
    raise UserError(
        f"the TransformerLens name {name} has no translation for this model ({', '.join(sorted(sites))} have): "
        f"give the module's path, for example {_nearest(f'{block}.{site}', layout)}"
    )


def _nearest(name: str, layout: Layout) -> str:
    bare = re.sub(r"[:.](in|out)(put)?$", "", name)
    found = difflib.get_close_matches(bare, layout.modules, n=5, cutoff=0.3)
    if not found and layout.blocks is not None:
        found = [path for path in layout.modules if path.startswith(f"{layout.blocks}.0")][:5]
    return ", ".join(found) or "none"


class _Captured(Exception):
    """Every hookpoint has fired: the rest of the forward pass is not needed."""


def capture(
    model: nn.Module,
    hookpoints: Sequence[Hookpoint],
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
) -> dict[Hookpoint, Tensor]:
    """Activations [B, T, d] at every hookpoint, in the model's dtype, for token ids [B, T].

    The forward pass stops once all have fired. Heads are flattened ([B, T, heads, d_head] becomes [B, T, heads ·
    d_head]). Raises UserError for a hookpoint that the base model never reaches.
    """
    wanted = set(hookpoints)
    found: dict[Hookpoint, Tensor] = {}

    def keep(hookpoint: Hookpoint, value: Any) -> None:
        if hookpoint in found:
            return
        # A later module may write into the tensor; the last one that is needed has no later module.
        tensor = as_tokens(hookpoint, value, *input_ids.shape)
        found[hookpoint] = tensor if len(found) + 1 == len(wanted) else tensor.clone()
        if len(found) == len(wanted):
            raise _Captured

    base = cast(nn.Module, getattr(model, "base_model", model))
    with _hooks(model, wanted, keep), torch.inference_mode():
        try:
            base(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        except _Captured:
            return found
    missing = ", ".join(str(hookpoint) for hookpoint in sorted(wanted - set(found)))
    raise UserError(f"the forward pass never reaches {missing}: only modules that the base model runs can be read")


@contextmanager
def _hooks(model: nn.Module, hookpoints: Iterable[Hookpoint], keep: Any) -> Iterator[None]:
    """Hooks on the modules, removed on the way out."""
    handles = []
    try:
        for hookpoint in hookpoints:
            module = model.get_submodule(hookpoint.module)
            if hookpoint.side == "in":
                handles.append(module.register_forward_pre_hook(_input_hook(hookpoint, keep), with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(_output_hook(hookpoint, keep)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _input_hook(hookpoint: Hookpoint, keep: Any) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        place = input_place(args, kwargs)
        keep(hookpoint, None if place is None else args[place] if isinstance(place, int) else kwargs[place])

    return hook


def _output_hook(hookpoint: Hookpoint, keep: Any) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        # Blocks and attention modules return a tuple in some versions and a tensor in others.
        keep(hookpoint, output if isinstance(output, Tensor) else output[0])

    return hook


def input_place(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int | str | None:
    """Which of a module's arguments holds the activations: a position or a name; None if no tensor is there."""
    if kwargs.get("hidden_states") is not None:
        return "hidden_states"
    places: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    return next((place for place, one in places if isinstance(one, Tensor)), None)


def as_tokens(hookpoint: Hookpoint, value: Any, batch: int, length: int) -> Tensor:
    """[B, T, d] of what a module was given or gave; a view where the layout allows one. Raises UserError."""
    if isinstance(value, Tensor) and value.is_floating_point():
        if value.shape[:2] == (batch, length):
            return value.flatten(2)
        if value.ndim == 2 and len(value) == batch * length:  # mixtures of experts lay all tokens in one row
            return value.view(batch, length, -1)
    shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
    raise UserError(f"{hookpoint} gives {shape}, expected activations of shape [{batch}, {length}, width]")
