"""Names to modules on small models of every family, and what capture reads there, against the model's own
arithmetic."""

from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from autointerp.errors import UserError
from autointerp.subject.hookpoints import Hookpoint, capture, resolve_hookpoint

torch.set_num_threads(1)
_IDS = {"bos_token_id": 1, "eos_token_id": 2}
_SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "vocab_size": 50}
_LLAMA = _SMALL | {"num_hidden_layers": 12, "num_key_value_heads": 1, "head_dim": 8} | _IDS
_FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "qwen3": _LLAMA,
    "mistral": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
    "gpt2": {"n_embd": 16, "n_inner": 24, "n_layer": 12, "n_head": 2, "vocab_size": 50, "n_positions": 32,
             "bos_token_id": 1, "eos_token_id": 2},
    "gpt_neox": _SMALL | {"num_hidden_layers": 12, "bos_token_id": 1, "eos_token_id": 2},
    "olmo2": _LLAMA,
}  # fmt: skip
IDS = torch.tensor([[1, 5, 7, 9], [1, 8, 8, 3]])


@cache
def model(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    if name == "gemma3":
        config = transformers.Gemma3Config(
            text_config=_LLAMA,
            # A vision tower as deep as the language model.
            vision_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 12, "num_attention_heads":
            2, "image_size": 28, "patch_size": 14},
        )  # fmt: skip
    else:
        config = transformers.AutoConfig.for_model(name, **(_FAMILIES[name] | options))
    made = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


def at(name: str, hook: str) -> Tensor:
    hookpoint = resolve_hookpoint(model(name), hook)
    return capture(model(name), [hookpoint], IDS)[hookpoint]


@pytest.mark.parametrize(
    ("name", "hook", "expected"),
    [
        # module paths, with and without a side
        ("llama", "model.layers.2", "model.layers.2:out"),
        ("llama", "model.layers.2:in", "model.layers.2:in"),
        ("llama", "model.layers.2.mlp:out", "model.layers.2.mlp:out"),
        ("llama", "model.layers.2:output", "model.layers.2:out"),
        ("llama", "model.layers.2.output", "model.layers.2:out"),
        ("llama", "model.layers.2.self_attn.o_proj.input", "model.layers.2.self_attn.o_proj:in"),
        # paths relative to the base model
        ("llama", "layers.3", "model.layers.3:out"),
        ("llama", "layers.5.mlp:in", "model.layers.5.mlp:in"),
        ("llama", "embed_tokens", "model.embed_tokens:out"),
        ("gpt2", "h.3.mlp", "transformer.h.3.mlp:out"),
        ("gpt_neox", "layers.3.attention", "gpt_neox.layers.3.attention:out"),
        # a name that is another's prefix is itself
        ("llama", "layers.1", "model.layers.1:out"),
        ("llama", "layers.10", "model.layers.10:out"),
        ("llama", "blocks.1.hook_resid_post", "model.layers.1:out"),
        ("llama", "blocks.10.hook_resid_post", "model.layers.10:out"),
        # Llama, Qwen, Mistral
        ("llama", "blocks.2.hook_resid_pre", "model.layers.2:in"),
        ("qwen3", "blocks.2.hook_resid_mid", "model.layers.2.post_attention_layernorm:in"),
        ("mistral", "blocks.2.hook_attn_out", "model.layers.2.self_attn:out"),
        ("llama", "blocks.2.hook_mlp_out", "model.layers.2.mlp:out"),
        ("llama", "blocks.2.attn.hook_z", "model.layers.2.self_attn.o_proj:in"),
        ("llama", "blocks.2.mlp.hook_post", "model.layers.2.mlp.down_proj:in"),
        ("qwen3", "blocks.2.mlp.hook_in", "model.layers.2.mlp:in"),
        ("llama", "blocks.2.hook_mlp_in", "model.layers.2.post_attention_layernorm:in"),
        ("llama", "hook_embed", "model.embed_tokens:out"),
        # Gemma 2 and 3: what is added to the residual stream is normalised first
        ("gemma2", "blocks.2.hook_resid_post", "model.layers.2:out"),
        ("gemma2", "blocks.2.hook_resid_mid", "model.layers.2.pre_feedforward_layernorm:in"),
        ("gemma3_text", "blocks.2.hook_attn_out", "model.layers.2.post_attention_layernorm:out"),
        ("gemma2", "blocks.2.hook_mlp_out", "model.layers.2.post_feedforward_layernorm:out"),
        ("gemma2", "blocks.2.attn.hook_z", "model.layers.2.self_attn.o_proj:in"),
        ("gemma2", "blocks.2.mlp.hook_post", "model.layers.2.mlp.down_proj:in"),
        # Gemma 3 with vision: the language model is nested
        ("gemma3", "blocks.2.hook_resid_post", "model.language_model.layers.2:out"),
        ("gemma3", "blocks.2.hook_mlp_out", "model.language_model.layers.2.post_feedforward_layernorm:out"),
        ("gemma3", "model.layers.2.output", "model.language_model.layers.2:out"),
        ("gemma3", "layers.2", "model.language_model.layers.2:out"),
        ("gemma3", "hook_embed", "model.language_model.embed_tokens:out"),
        # GPT-2
        ("gpt2", "blocks.2.hook_resid_pre", "transformer.h.2:in"),
        ("gpt2", "blocks.2.hook_resid_mid", "transformer.h.2.ln_2:in"),
        ("gpt2", "blocks.2.hook_attn_out", "transformer.h.2.attn:out"),
        ("gpt2", "blocks.2.hook_mlp_out", "transformer.h.2.mlp:out"),
        ("gpt2", "blocks.2.attn.hook_z", "transformer.h.2.attn.c_proj:in"),
        ("gpt2", "blocks.2.mlp.hook_post", "transformer.h.2.mlp.c_proj:in"),
        ("gpt2", "hook_embed", "transformer.wte:out"),
        # NeoX
        ("gpt_neox", "blocks.2.hook_resid_post", "gpt_neox.layers.2:out"),
        ("gpt_neox", "blocks.2.hook_attn_out", "gpt_neox.layers.2.attention:out"),
        ("gpt_neox", "blocks.2.hook_mlp_out", "gpt_neox.layers.2.mlp:out"),
        ("gpt_neox", "blocks.2.attn.hook_z", "gpt_neox.layers.2.attention.dense:in"),
        ("gpt_neox", "blocks.2.mlp.hook_post", "gpt_neox.layers.2.mlp.dense_4h_to_h:in"),
        ("gpt_neox", "hook_embed", "gpt_neox.embed_in:out"),
        # a model of no family in the table: the residual stream at least
        ("olmo2", "blocks.2.hook_resid_post", "model.layers.2:out"),
    ],
)  # fmt: skip
def test_resolve(name: str, hook: str, expected: str) -> None:
    hookpoint = resolve_hookpoint(model(name), hook)
    assert str(hookpoint) == expected
    # The text form means itself.
    assert resolve_hookpoint(model(name), expected) == hookpoint


@pytest.mark.parametrize("bare", [True, False])
def test_a_base_model_without_a_head_is_taken_too(bare: bool) -> None:
    base = model("llama").model if bare else model("llama")
    hookpoint = resolve_hookpoint(base, "model.layers.2")
    assert hookpoint.module == ("layers.2" if bare else "model.layers.2")
    assert torch.equal(capture(base, [hookpoint], IDS)[hookpoint], at("llama", "layers.2"))


@pytest.mark.parametrize(
    ("name", "hook", "message"),
    [
        (
            "llama",
            "model.layers.2.mpl",
            r"no module 'model.layers.2.mpl'; the nearest names are .*model\.layers\.2\.mlp",
        ),
        ("llama", "model.layers.77", "the nearest names are model.layers"),
        ("llama", "zzz", "no module 'zzz'; the nearest names are model.layers.0"),
        ("llama", "blocks.12.hook_resid_post", "layer 12 was asked for; the model has layers 0 to 11"),
        ("llama", "blocks.2.hook_q", "TransformerLens name blocks.2.hook_q has no translation"),
        ("llama", "blocks.2.ln2.hook_normalized", "before the norm's gain is applied"),
        ("gpt_neox", "blocks.2.hook_resid_mid", "in parallel"),
        ("olmo2", "blocks.2.hook_mlp_out", "has no translation for this model"),
    ],
)
def test_names_that_mean_nothing(name: str, hook: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        resolve_hookpoint(model(name), hook)
    assert "\n" not in str(caught.value)


def test_neox_that_is_not_parallel_has_a_middle() -> None:
    serial = model("gpt_neox", use_parallel_residual=False)
    assert str(resolve_hookpoint(serial, "blocks.2.hook_resid_mid")) == "gpt_neox.layers.2.post_attention_layernorm:in"


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gemma3_text", "gemma3", "gpt2"])
def test_the_residual_stream_adds_up(name: str) -> None:
    """resid_mid = resid_pre + attn_out and resid_post = resid_mid + mlp_out: the translation's meaning, in each
    family."""
    pre, mid, post = (at(name, f"blocks.2.hook_resid_{place}") for place in ("pre", "mid", "post"))
    assert torch.allclose(mid, pre + at(name, "blocks.2.hook_attn_out"), atol=1e-4)
    assert torch.allclose(post, mid + at(name, "blocks.2.hook_mlp_out"), atol=1e-4)
    assert torch.equal(pre, at(name, "blocks.1.hook_resid_post"))


def test_the_residual_stream_of_neox_adds_up() -> None:
    name = "gpt_neox"
    total = at(name, "blocks.2.hook_resid_pre") + at(name, "blocks.2.hook_attn_out") + at(name, "blocks.2.hook_mlp_out")
    assert torch.allclose(total, at(name, "blocks.2.hook_resid_post"), atol=1e-4)


@pytest.mark.parametrize(("name", "module"), [
    ("llama", "self_attn.o_proj"), ("gemma2", "self_attn.o_proj"), ("gpt2", "attn.c_proj"), ("gpt_neox",
    "attention.dense"),
])  # fmt: skip
def test_hook_z_is_what_the_output_projection_reads(name: str, module: str) -> None:
    hookpoint = resolve_hookpoint(model(name), "blocks.2.attn.hook_z")
    with torch.inference_mode():
        projected = model(name).get_submodule(hookpoint.module)(at(name, "blocks.2.attn.hook_z"))
    assert hookpoint.module.endswith(module)
    assert torch.allclose(projected, at(name, hookpoint.module), atol=1e-5)


def test_the_last_block_is_read_before_the_final_norm() -> None:
    last = at("llama", "layers.11")
    states = model("llama").model(input_ids=IDS, output_hidden_states=True).hidden_states[-1]
    assert not torch.allclose(last, states, atol=1e-2)
    assert torch.allclose(model("llama").model.norm(last), states, atol=1e-4)


def count_hooks(whole: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in whole.modules())


def test_capture_several_at_once_and_stop() -> None:
    names = ("layers.1", "layers.3:in", "layers.3.mlp", "layers.0")
    hooks = [resolve_hookpoint(model("llama"), name) for name in names]
    reached: list[int] = []
    blocks = model("llama").model.layers
    handles = [block.register_forward_pre_hook(lambda *_, i=i: reached.append(i)) for i, block in enumerate(blocks)]
    before = count_hooks(model("llama"))
    found = capture(model("llama"), hooks, IDS)
    assert count_hooks(model("llama")) == before
    for handle in handles:
        handle.remove()
    assert reached == [0, 1, 2, 3]
    assert set(found) == set(hooks)
    for hookpoint, tensor in found.items():
        assert tensor.shape == (2, 4, 16)
        assert torch.equal(tensor, capture(model("llama"), [hookpoint], IDS)[hookpoint])


def test_a_later_module_that_writes_in_place_does_not_change_what_was_captured() -> None:
    class Writer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.add_(1.0)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Identity(), Writer()

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None, use_cache: bool) -> Tensor:
            out: Tensor = self.second(self.first(torch.zeros(*input_ids.shape, 3)))
            return out

    first, second = Hookpoint("first", "out"), Hookpoint("second", "out")
    found = capture(Two(), [first, second], IDS)
    assert (found[first] == 0).all() and (found[second] == 1).all()


def test_shapes_other_than_three_dimensions() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.tokens, self.wrong = nn.Identity(), nn.Identity(), nn.Identity()

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None, use_cache: bool) -> None:
            b, t = input_ids.shape
            x = torch.arange(float(b * t * 6)).view(b, t, 2, 3)
            self.heads(x), self.tokens(x.view(b * t, 6)), self.wrong(x.sum())

    odd = Odd()
    found = capture(odd, [Hookpoint("heads", "in"), Hookpoint("tokens", "out")], IDS)
    expected = torch.arange(48.0).view(2, 4, 6)
    assert all(torch.equal(tensor, expected) for tensor in found.values())
    with pytest.raises(UserError, match=r"wrong:out gives \[\], expected activations of shape \[2, 4, width\]"):
        capture(odd, [Hookpoint("wrong", "out")], IDS)


def test_a_module_that_is_never_run() -> None:
    before = count_hooks(model("llama"))
    with pytest.raises(UserError, match="never reaches lm_head:out"):
        capture(model("llama"), [Hookpoint("lm_head", "out")], IDS)
    assert count_hooks(model("llama")) == before


def test_the_attention_mask_is_passed_on() -> None:
    hookpoint = resolve_hookpoint(model("llama"), "layers.2")
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    masked = capture(model("llama"), [hookpoint], IDS, mask)[hookpoint]
    changed = IDS.clone()
    changed[1, 2:] = 4
    again = capture(model("llama"), [hookpoint], changed, mask)[hookpoint]
    assert torch.allclose(masked[1, :2], again[1, :2], atol=1e-5)
    assert torch.allclose(masked[0], at("llama", "layers.2")[0], atol=1e-5)
