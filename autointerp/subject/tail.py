"""The last layers of a model, run again and again over the same prompts with something changed at one hookpoint.

What comes before the hookpoint's block is the same every time: it is run once and its result kept. When the model runs again,
the blocks before do nothing, and the last of them hands out what was kept. So this works for every model that is a list of
blocks, whatever it passes from one to the next; and the answer is that of a whole forward pass.
"""

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from autointerp.subject.hookpoints import Hookpoint, Layout, capture
from autointerp.subject.interventions import Edit, intervene


class Tail:
    """A causal language model over `input_ids` [P, T], without padding, from the block of the hookpoint `site` on.

    `mask` bool [P, T]: the positions that an edit may change. `keep`: how many positions of each text, the last ones, are
    looked at. Raises UserError for a site that the model does not reach.
    """

    def __init__(self, model: Any, site: Hookpoint, input_ids: Tensor, mask: Tensor, *, keep: int = 1) -> None:
        self.model, self.site, self.input_ids, self.mask, self.keep = model, site, input_ids, mask, keep
        self._idle = _blocks_before(model, site)
        self._kept: Tensor | None = None
        self._in_tuples = False  # blocks give a tuple in some families, a tensor in others
        if self._idle:
            last = Hookpoint(self._idle[-1], "out")
            handle = model.get_submodule(last.module).register_forward_hook(self._note_layout)
            try:
                self._kept = capture(model, [last], input_ids)[last]
            finally:
                handle.remove()
        self._only_last = (
            {"logits_to_keep": keep} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
        )

    def _note_layout(self, module: nn.Module, args: Any, output: Any) -> None:
        self._in_tuples = isinstance(output, tuple)

    def log_probs(self, edit: Edit, copies: int = 1) -> Tensor:
        """Log-probabilities [copies, P · keep, vocabulary] of what follows the positions looked at, float32, with `edit` at the
        site.

        The edit sees `copies` times the prompts, [copies · P, T, width], all of the first copy first.
        """
        ids, mask = self.input_ids.repeat(copies, 1), self.mask.repeat(copies, 1)
        with torch.inference_mode(), self._idling(copies), intervene(self.model, {self.site: edit}, mask=mask):
            logits = self.model(input_ids=ids, use_cache=False, **self._only_last).logits[:, -self.keep :]
            return torch.log_softmax(logits.float(), -1).reshape(copies, len(self.input_ids) * self.keep, -1)

    @contextmanager
    def _idling(self, copies: int) -> Iterator[None]:
        """Within the block the modules before the site do nothing, but the last of them gives what was kept."""
        modules = [self.model.get_submodule(path) for path in self._idle]
        kept = None if self._kept is None else self._kept.repeat(copies, 1, 1)
        try:
            for module in modules:
                module.forward = self._stand_in(kept if module is modules[-1] else None)
            yield
        finally:
            for module in modules:
                del module.forward  # the class's own is seen again

    def _stand_in(self, result: Tensor | None) -> Any:
        def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            given = hidden_states if result is None else result
            return (given,) if self._in_tuples else given

        return forward


def _blocks_before(model: nn.Module, site: Hookpoint) -> list[str]:
    """Paths of the blocks that need not run again: those before the site's block, and this one if the site is its output.

    Empty for a site outside of the blocks: the whole model is run then.
    """
    layout = Layout(model)
    found = re.match(re.escape(layout.blocks) + r"\.(\d+)(?P<within>\..+)?$", site.module) if layout.blocks else None
    if found is None:
        return []
    own = found["within"] is None and site.side == "out"
    return [layout.block(index) for index in range(int(found[1]) + own)]
