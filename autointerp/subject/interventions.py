"""Changing what a model computes: the activation at a hookpoint is replaced by a function of itself.

    with intervene(model, {hookpoint: lambda x: x + 4 * direction}):
        model(input_ids=ids)

It knows nothing of SAEs: reconstruction, ablation and steering are functions that are handed in.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn

from autointerp.errors import UserError
from autointerp.subject.hookpoints import Hookpoint, as_tokens, input_place

Edit = Callable[[Tensor], Tensor]
"""From the activations [B, T, d] at a hookpoint to those that take their place. It must not write into its argument."""


@contextmanager
def intervene(model: nn.Module, edits: Mapping[Hookpoint, Edit], *, mask: Tensor | None = None) -> Iterator[None]:
    """Within the block every forward pass of `model` runs with the edited activations.

    An edit is given [B, T, d] in the model's dtype, heads flattened ([B, T, heads, d_head] comes as [B, T, heads · d_head]),
    and returns the same shape in any float dtype. `mask`, bool [B, T]: only true positions are changed, all others stay as they
    are bit for bit (BOS, padding).

    An output is replaced for all that read it. An input is replaced for that module alone; but the input of a norm is the
    residual stream itself, which the block adds to again afterwards, so it is written in place and the whole block
    sees it. No gradient flows through such a write.

    Raises UserError for a hookpoint whose activation cannot be replaced, or that no forward pass within the block
    reached; ValueError for an edit or a mask of another shape.
    """
    edited = _Edited(model, mask)
    handles = [edited.watch_shape()]
    try:
        handles += [edited.attach(hookpoint, edit) for hookpoint, edit in edits.items()]
        yield
    finally:
        for handle in handles:
            handle.remove()
    missing = ", ".join(str(hookpoint) for hookpoint in sorted(set(edits) - edited.reached))
    if missing and edited.shape is not None:
        raise UserError(f"the forward pass never reached {missing}: nothing was changed there")


class _Edited:
    """The hooks of one `intervene`, and the shape [B, T] of the pass that is running."""

    def __init__(self, model: nn.Module, mask: Tensor | None) -> None:
        self.model, self.mask = model, mask
        self.shape: tuple[int, int] | None = None
        self.reached: set[Hookpoint] = set()

    def watch_shape(self) -> Any:
        """Modules inside see tokens in several layouts; only the whole model's input says how many rows there are."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            named = (kwargs.get(name) for name in ("input_ids", "inputs_embeds"))
            given = next((one for one in (*named, *args) if isinstance(one, Tensor)), None)
            self.shape = None if given is None else (given.shape[0], given.shape[1])

        base = cast(nn.Module, getattr(self.model, "base_model", self.model))
        return base.register_forward_pre_hook(hook, with_kwargs=True)

    def attach(self, hookpoint: Hookpoint, edit: Edit) -> Any:
        module = self.model.get_submodule(hookpoint.module)
        if hookpoint.side == "out":
            return module.register_forward_hook(self._output_hook(hookpoint, edit))
        return module.register_forward_pre_hook(self._input_hook(hookpoint, edit), with_kwargs=True)

    def _output_hook(self, hookpoint: Hookpoint, edit: Edit) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if isinstance(output, tuple):
                return (self._replaced(hookpoint, edit, output[0]), *output[1:])
            return self._replaced(hookpoint, edit, output)

        return hook

    def _input_hook(self, hookpoint: Hookpoint, edit: Edit) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            place = input_place(args, kwargs)
            old: Any = None if place is None else args[place] if isinstance(place, int) else kwargs[place]
            new = self._replaced(hookpoint, edit, old)
            if _is_norm(module):
                old.copy_(new)
                return None
            if isinstance(place, int):
                return (*args[:place], new, *args[place + 1 :]), kwargs
            return args, kwargs | {str(place): new}

        return hook

    def _replaced(self, hookpoint: Hookpoint, edit: Edit, value: Any) -> Tensor:
        """What takes the place of `value`, in its layout and dtype."""
        if self.shape is None:
            raise UserError(f"{hookpoint}: run the whole model, or its base model, with token ids [batch, length]")
        old = as_tokens(hookpoint, value, *self.shape)
        new = edit(old)
        if new.shape != old.shape:
            raise ValueError(f"the edit at {hookpoint} gave {list(new.shape)}, expected {list(old.shape)}")
        new = new.to(old)
        if self.mask is not None:
            if self.mask.shape != old.shape[:2]:
                raise ValueError(f"the mask is {list(self.mask.shape)}, expected {list(old.shape[:2])}")
            new = new.where(self.mask.to(old.device)[..., None], old)
        self.reached.add(hookpoint)
        return new.reshape(value.shape)


def _is_norm(module: nn.Module) -> bool:
    """RMSNorm and LayerNorm in all their spellings; no other property tells them apart in every family."""
    return "norm" in type(module).__name__.lower()
