"""Running the last layers again: equal to whole forward passes with the same change, wherever the change is made."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autointerp.subject.hookpoints import Hookpoint
from autointerp.subject.interventions import intervene
from autointerp.subject.model import load_subject
from autointerp.subject.tail import Tail

torch.set_num_threads(1)
IDS = torch.tensor([[0, 12, 45, 99, 3], [0, 7, 201, 8, 54]])
MASK = torch.tensor([[False, True, True, True, True]] * 2)
SITES = [
    Hookpoint("model.embed_tokens", "out"), Hookpoint("model.layers.0", "in"), Hookpoint("model.layers.0", "out"),
    Hookpoint("model.layers.1", "in"), Hookpoint("model.layers.1.mlp", "in"), Hookpoint("model.layers.1.mlp", "out"),
    Hookpoint("model.layers.1.post_attention_layernorm", "in"), Hookpoint("model.layers.2.self_attn.o_proj", "in"),
    Hookpoint("model.layers.2", "out"), Hookpoint("model.norm", "out"),
]  # fmt: skip


@pytest.fixture(scope="module")
def llama(tiny_model: Path) -> Any:
    return load_subject(str(tiny_model), device="cpu", dtype="float32").model


def whole(model: Any, site: Hookpoint, added: Tensor, keep: int = 1) -> Tensor:
    """The reference: everything is run."""
    with torch.inference_mode(), intervene(model, {site: lambda x: x + added}, mask=MASK):
        logits = model(input_ids=IDS, use_cache=False).logits
    return logits[:, -keep:].log_softmax(-1).reshape(len(IDS) * keep, -1)


@pytest.mark.parametrize("site", SITES, ids=str)
@pytest.mark.parametrize("keep", [1, 3])
def test_equals_a_whole_forward_pass_at_every_kind_of_place(llama: Any, site: Hookpoint, keep: int) -> None:
    tail = Tail(llama, site, IDS, MASK, keep=keep)
    added = torch.randn(3, 16, generator=torch.Generator().manual_seed(2))
    rows = added.repeat_interleave(len(IDS), 0)[:, None]
    found = tail.log_probs(lambda x: x + rows, 3)
    assert found.shape == (3, 2 * keep, 300)
    for one, row in zip(found, added, strict=True):
        assert torch.allclose(one, whole(llama, site, row, keep), atol=1e-5)
    assert not torch.allclose(found[0], found[1], atol=1e-2)
    # What was bypassed runs again, and nothing is left of the hooks.
    with torch.inference_mode():
        clean = llama(input_ids=IDS).logits[:, -keep:].log_softmax(-1)
    assert torch.allclose(tail.log_probs(lambda x: x)[0], clean.reshape(2 * keep, -1), atol=1e-5)


def test_blocks_that_do_not_matter_are_not_run(llama: Any) -> None:
    tail = Tail(llama, Hookpoint("model.layers.1", "out"), IDS, MASK)
    ran: list[str] = []
    names = ["model.layers.0.mlp", "model.layers.1.mlp", "model.layers.2.mlp"]
    handles = [
        llama.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name)) for name in names
    ]
    tail.log_probs(lambda x: x)
    for handle in handles:
        handle.remove()
    assert ran == ["model.layers.2.mlp"]


def test_blocks_that_give_tuples() -> None:
    """As Bloom's, Falcon's and GPT-J's do."""
    from transformers import GPTJConfig, GPTJForCausalLM

    torch.manual_seed(0)
    model = GPTJForCausalLM(
        GPTJConfig(vocab_size=300, n_embd=16, n_layer=3, n_head=2, rotary_dim=4, n_positions=32)
    ).eval()
    site, added = Hookpoint("transformer.h.1", "out"), torch.linspace(-3, 3, 16)
    found = Tail(model, site, IDS, MASK).log_probs(lambda x: x + added)[0]
    assert torch.allclose(found, whole(model, site, added), atol=1e-5)


def test_a_failure_leaves_the_model_as_it_was(llama: Any) -> None:
    tail = Tail(llama, Hookpoint("model.layers.1", "out"), IDS, MASK)

    def fail(x: Tensor) -> Tensor:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        tail.log_probs(fail)
    assert all("forward" not in vars(module) for module in nn.Module.modules(llama))
