"""Interventions on small models of every family, against the model's own arithmetic done by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autointerp.errors import UserError
from autointerp.subject.hookpoints import Hookpoint, capture, resolve_hookpoint
from autointerp.subject.interventions import intervene
from tests.subject.test_hookpoints import IDS, count_hooks, model

torch.set_num_threads(1)
FAMILIES = ["llama", "gemma2", "gemma3_text", "gemma3", "gpt2", "gpt_neox"]
SITES = [
    "blocks.2.hook_resid_pre", "blocks.2.hook_resid_post", "blocks.2.hook_attn_out", "blocks.2.hook_mlp_out",
    "blocks.2.attn.hook_z", "blocks.2.mlp.hook_post", "blocks.2.mlp.hook_in", "hook_embed",
]  # fmt: skip
Edits = dict[Hookpoint, Any]


def logits(name: str, edits: Edits | None = None, mask: Tensor | None = None) -> Tensor:
    whole = model(name)
    with torch.inference_mode(), intervene(whole, edits or {}, mask=mask):
        out: Tensor = whole(input_ids=IDS, use_cache=False).logits
    return out


def at(name: str, hook: str) -> Hookpoint:
    return resolve_hookpoint(model(name), hook)


@pytest.mark.parametrize("name", FAMILIES)
def test_replacing_by_itself_changes_nothing_bit_for_bit(name: str) -> None:
    plain = logits(name)
    before = count_hooks(model(name))
    for site in SITES:
        hookpoint = at(name, site)
        seen: list[Tensor] = []

        def look(x: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(x.clone())
            return x.clone()

        assert torch.equal(logits(name, {hookpoint: look}), plain), site
        assert torch.equal(seen[0], capture(model(name), [hookpoint], IDS)[hookpoint]), site
        # The round trip through a wider dtype is exact, too.
        assert torch.equal(logits(name, {hookpoint: lambda x: x.double()}), plain), site
    assert count_hooks(model(name)) == before


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("site", ["hook_attn_out", "hook_mlp_out"])
def test_zeroing_what_a_sublayer_writes_leaves_the_rest_of_the_sum(name: str, site: str) -> None:
    """resid_post without one sublayer's output: resid_pre plus the other's, the other computed anew by the model."""
    other = {"hook_attn_out": "hook_mlp_out", "hook_mlp_out": "hook_attn_out"}[site]
    post, pre, kept = (at(name, f"blocks.2.{one}") for one in ("hook_resid_post", "hook_resid_pre", other))
    with intervene(model(name), {at(name, f"blocks.2.{site}"): torch.zeros_like}):
        found = {one: capture(model(name), [one], IDS)[one] for one in (post, pre, kept)}
    assert torch.allclose(found[post], found[pre] + found[kept], atol=1e-5)
    if site == "hook_mlp_out":
        assert torch.equal(found[kept], capture(model(name), [kept], IDS)[kept])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_replaced_residual_stream_is_all_that_later_layers_see(name: str) -> None:
    """Output of block 2, input of block 3: two names of one place. Its replacement decides the logits."""
    given = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(3))
    out, into = at(name, "blocks.2.hook_resid_post"), at(name, "blocks.3.hook_resid_pre")
    assert (out.side, into.side) == ("out", "in")
    expected = logits(name, {out: lambda x: given})
    assert torch.equal(logits(name, {into: lambda x: given}), expected)
    # Whatever happened before is forgotten.
    forgotten = logits(name, {at(name, "blocks.1.hook_mlp_out"): torch.zeros_like, out: lambda x: given})
    assert torch.equal(forgotten, expected)
    assert not torch.allclose(expected, logits(name), atol=1e-3)


def test_zeros_by_hand_at_the_last_block() -> None:
    """Zeroing the last residual stream leaves norm and head of a zero vector: for an RMSNorm, zero logits."""
    last = at("llama", "blocks.11.hook_resid_post")
    assert torch.equal(logits("llama", {last: torch.zeros_like}), torch.zeros(2, 4, 50))
    norm, head = model("gpt2").transformer.ln_f, model("gpt2").lm_head
    with torch.inference_mode():
        expected = head(norm(torch.zeros(2, 4, 16)))
    zeroed = logits("gpt2", {at("gpt2", "blocks.11.hook_resid_post"): torch.zeros_like})
    assert torch.equal(zeroed, expected)


@pytest.mark.parametrize(
    ("name", "site"),
    [("llama", "attn.hook_z"), ("llama", "mlp.hook_post"), ("gemma2", "attn.hook_z"), ("gpt2", "mlp.hook_post"),
     ("gpt_neox", "attn.hook_z"), ("gpt_neox", "mlp.hook_post")],
)  # fmt: skip
def test_an_input_is_replaced_for_its_module(name: str, site: str) -> None:
    hookpoint = at(name, f"blocks.2.{site}")
    assert hookpoint.side == "in"
    result = Hookpoint(hookpoint.module, "out")
    given = torch.randn(2, 4, capture(model(name), [hookpoint], IDS)[hookpoint].shape[-1])
    with intervene(model(name), {hookpoint: lambda x: given}):
        found = capture(model(name), [result], IDS)[result]
    with torch.inference_mode():
        expected = model(name).get_submodule(hookpoint.module)(given)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_the_middle_of_the_residual_stream_is_replaced_for_the_sum_as_well(name: str) -> None:
    """resid_mid is read at a norm's input, but the block adds to it afterwards: post = new mid + mlp(new mid)."""
    given = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(4))
    mid, post, mlp = (at(name, f"blocks.2.hook_{one}") for one in ("resid_mid", "resid_post", "mlp_out"))
    with intervene(model(name), {mid: lambda x: given}):
        found = {one: capture(model(name), [one], IDS)[one] for one in (post, mlp)}
    assert torch.allclose(found[post], given + found[mlp], atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_masked_positions_are_left_alone(name: str) -> None:
    hookpoint = at(name, "blocks.2.hook_resid_post")
    mask = torch.tensor([[False, True, True, False], [False, True, False, False]])
    next_input = at(name, "blocks.3.hook_resid_pre")
    with intervene(model(name), {hookpoint: torch.zeros_like}, mask=mask):
        found = capture(model(name), [next_input], IDS)[next_input]
    plain = capture(model(name), [hookpoint], IDS)[hookpoint]
    assert torch.equal(found[~mask], plain[~mask])
    assert (found[mask] == 0).all()
    # A position before the first change predicts what it did.
    changed = logits(name, {hookpoint: torch.zeros_like}, mask)
    assert torch.allclose(changed[:, 0], logits(name)[:, 0], atol=1e-6)
    assert not torch.allclose(changed[:, 1], logits(name)[:, 1], atol=1e-3)


def test_heads_and_rows_of_tokens_come_flattened_and_go_back_in_their_own_shape() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.rows = nn.Identity(), nn.Identity()

        def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
            b, t = input_ids.shape
            x = torch.arange(float(b * t * 6)).view(b, t, 2, 3)
            return self.heads(x), self.rows(x.view(b * t, 6))

    def double_last(x: Tensor) -> Tensor:
        assert x.shape == (2, 4, 6)
        return torch.cat([x[..., :5], 2 * x[..., 5:]], -1)

    odd = Odd()
    with intervene(odd, {Hookpoint("heads", "out"): double_last, Hookpoint("rows", "in"): double_last}):
        heads, rows = odd(IDS)
    expected = torch.arange(48.0).view(8, 6)
    expected[:, 5] *= 2
    assert heads.shape == (2, 4, 2, 3) and torch.equal(heads.reshape(8, 6), expected)
    assert torch.equal(rows, expected)


def test_half_precision_stays_what_it_is() -> None:
    from copy import deepcopy

    half = deepcopy(model("llama")).to(torch.bfloat16)
    hookpoint = resolve_hookpoint(half, "layers.2")
    with torch.inference_mode():
        plain = half(input_ids=IDS).logits
        with intervene(half, {hookpoint: lambda x: x.float()}):
            assert torch.equal(half(input_ids=IDS).logits, plain)


def test_generation_with_a_cache_is_edited_at_every_step() -> None:
    whole, hookpoint = model("llama"), at("llama", "layers.2")
    push = 5 * torch.randn(16, generator=torch.Generator().manual_seed(5))
    lengths: list[int] = []

    def steer(x: Tensor) -> Tensor:
        lengths.append(x.shape[1])
        return x + push

    options = {"do_sample": False, "max_new_tokens": 4, "pad_token_id": 0, "eos_token_id": None}
    with intervene(whole, {hookpoint: steer}):
        cached = whole.generate(IDS, attention_mask=torch.ones_like(IDS), **options)
    assert lengths == [4, 1, 1, 1]
    step = IDS
    for _ in range(4):
        with intervene(whole, {hookpoint: lambda x: x + push}), torch.inference_mode():
            step = torch.cat([step, whole(input_ids=step, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(cached, step)


def test_mistakes_are_named() -> None:
    before = count_hooks(model("llama"))
    hookpoint = at("llama", "layers.2")
    with pytest.raises(ValueError, match=r"gave \[2, 4, 1\], expected \[2, 4, 16\]"):
        logits("llama", {hookpoint: lambda x: x[..., :1]})
    with pytest.raises(ValueError, match=r"mask is \[2, 3\], expected \[2, 4\]"):
        logits("llama", {hookpoint: lambda x: x}, torch.ones(2, 3, dtype=torch.bool))
    whole, block = model("llama"), model("llama").model.layers[2]
    with (
        pytest.raises(UserError, match="never reached lm_head:out"),
        intervene(whole, {Hookpoint("lm_head", "out"): abs}),
    ):
        whole.model(input_ids=IDS)
    hookpoint = Hookpoint("model.layers.2.mlp", "out")
    with pytest.raises(UserError, match="run the whole model"), intervene(whole, {hookpoint: abs}):
        block.mlp(torch.zeros(1, 1, 16))
    assert count_hooks(model("llama")) == before
