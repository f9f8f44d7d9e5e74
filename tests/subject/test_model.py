"""Loading subjects, the fit of an SAE to a hookpoint, and the golden references end to end: token ids to
activations."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from autointerp.errors import UserError
from autointerp.sae import SAE, load_sae
from autointerp.subject.hookpoints import capture, resolve_hookpoint
from autointerp.subject.model import Subject, absorb_norm_gain, check_fit, load_subject

torch.set_num_threads(1)
SHARED = Path(__file__).resolve().parents[2].parent / "shared"
GOLDEN = sorted(path.parent.name for path in (SHARED / "golden").glob("*/reference.json"))


@pytest.fixture(scope="module")
def stories() -> Subject:
    if not SHARED.is_dir():
        pytest.skip("the folder shared/ is not beside the repository")
    return load_subject(str(SHARED / "data" / "stories-tok361"))


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_end_to_end(name: str, stories: Subject) -> None:
    """From token ids, through the hookpoint that the SAE's own files name, to the library's activations."""
    folder = SHARED / "golden" / name
    reference = json.loads((folder / "reference.json").read_text())
    tensors = load_file(folder / "reference.safetensors")
    sae = load_sae(folder / reference["path"])
    hookpoint = resolve_hookpoint(stories.model, str(sae.hook_in))
    assert hookpoint == resolve_hookpoint(stories.model, reference["input"])
    check_fit(stories, sae, hookpoint)
    x = capture(stories.model, [hookpoint], tensors["input_ids"])[hookpoint].flatten(0, 1)
    assert torch.allclose(x, tensors["x"], rtol=1e-5, atol=1e-5)
    assert (sae.encode(x) - tensors["f"]).abs().max() < 1e-4 * max(1.0, float(tensors["f"].max()))


def test_golden_transcoder_output(stories: Subject) -> None:
    folder = SHARED / "golden" / "sparsify-transcoder-skip"
    reference = json.loads((folder / "reference.json").read_text())
    tensors = load_file(folder / "reference.safetensors")
    sae = load_sae(folder / reference["path"])
    hook_in, hook_out = (resolve_hookpoint(stories.model, str(name)) for name in (sae.hook_in, sae.hook_out))
    assert (str(hook_in), str(hook_out)) == ("model.layers.2.mlp:in", "model.layers.2.mlp:out")
    found = capture(stories.model, [hook_in, hook_out], tensors["input_ids"])
    x, y = found[hook_in].flatten(0, 1), found[hook_out].flatten(0, 1)
    assert torch.allclose(x, tensors["x"], rtol=1e-5, atol=1e-5)
    assert torch.allclose(y, tensors["y"], rtol=1e-5, atol=1e-5)
    error = (y - sae.decode(sae.encode(x), x)).square().sum() / (y - y.mean(0)).square().sum()
    assert float(error) == pytest.approx(reference["fvu_reference"], abs=1e-4)


def test_load_subject(tiny_model: Path) -> None:
    subject = load_subject(str(tiny_model), device="cpu", dtype="bfloat16")
    assert (subject.name, subject.device) == (str(tiny_model), "cpu")
    assert not subject.model.training
    parameter = next(subject.model.parameters())
    assert parameter.dtype == torch.bfloat16 and not parameter.requires_grad
    assert subject.tokenizer.bos_token_id is not None
    assert next(load_subject(str(tiny_model)).model.parameters()).dtype == torch.float32


def message(*args: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_subject(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_models_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "there is no such folder, and it is not a hub id" in message("./no/such/model")
    assert "there is no such folder, and it is not a hub id" in message(str(tmp_path / "nowhere"))
    assert "there is no such folder, and it is not a hub id" in message("a/b/c")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "org/model: not found on this machine, and the Hugging Face hub cannot be reached" in message("org/model")


def test_folders_that_hold_no_model(tiny_model: Path, tmp_path: Path) -> None:
    assert "cannot be loaded as a causal language model" in message(str(tmp_path))
    for path in tiny_model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "cannot be loaded" in message(str(tmp_path))
    torch.save({}, tmp_path / "pytorch_model.bin")
    weights.unlink()
    assert "has no safetensors weights, and other files are not read" in message(str(tmp_path))


def test_options_that_do_not_exist(tiny_model: Path) -> None:
    assert "dtype is 'int3', expected one of auto, float32" in message(str(tiny_model), dtype="int3")
    assert "device 'gameboy' cannot be used here" in message(str(tiny_model), device="gameboy")


def sae_of_width(d_in: int, **options: Any) -> SAE:
    weights = torch.zeros(4, d_in)
    return SAE(
        activation="relu", encoder=weights, decoder=weights, b_enc=torch.zeros(4), b_dec=torch.zeros(d_in), **options
    )


def test_check_fit_names_both_widths_and_hookpoints_that_fit(tiny_model: Path) -> None:
    subject = load_subject(str(tiny_model), device="cpu")  # hidden 16, MLP 32
    hookpoint = resolve_hookpoint(subject.model, "model.layers.1")
    check_fit(subject, sae_of_width(16), hookpoint)
    with pytest.raises(UserError, match=r"reads 32 numbers, and model\.layers\.1:out of .* gives 16") as caught:
        check_fit(subject, sae_of_width(32), hookpoint)
    assert "such as model.layers.1.mlp.down_proj:in" in str(caught.value)
    with pytest.raises(UserError, match="but none of that layer's hookpoints has that width"):
        check_fit(subject, sae_of_width(48), hookpoint)
    embedding = resolve_hookpoint(subject.model, "embed_tokens")
    with pytest.raises(UserError, match=r"such as model\.layers\.0\.mlp\.down_proj:in"):
        check_fit(subject, sae_of_width(32), embedding)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_absorb_norm_gain(family: str) -> None:
    """An SAE trained on h / rms(h) reads the norm's output, whether the norm multiplies by w or by 1 + w."""
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        family, hidden_size=16, intermediate_size=24, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        num_hidden_layers=2, vocab_size=50,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    norm = "pre_feedforward_layernorm" if family == "gemma2" else "post_attention_layernorm"
    for name, parameter in model.named_parameters():
        if "layernorm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    subject = Subject(model, None, family, "cpu")
    encoder, skip = torch.randn(8, 16), torch.randn(16, 16)
    sae = SAE(
        activation="topk", k=3, encoder=encoder, decoder=torch.randn(8, 16), b_enc=torch.randn(8),
        b_dec=torch.zeros(16), skip=skip, transcoder=True, hook_in="blocks.1.ln2.hook_normalized",
    )  # fmt: skip
    moved = absorb_norm_gain(subject, sae)
    assert moved.hook_in == f"model.layers.1.{norm}:out"
    before = resolve_hookpoint(model, f"model.layers.1.{norm}:in")
    after = resolve_hookpoint(model, moved.hook_in)
    found = capture(model, [before, after], torch.tensor([[3, 4, 5]]))
    h, y = found[before][0], found[after][0]
    normalised = h / (h.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt()
    assert torch.allclose(moved.encode(y), sae.encode(normalised), atol=1e-4)
    assert torch.allclose(moved.decode(torch.zeros(3, 8), y), sae.decode(torch.zeros(3, 8), normalised), atol=1e-3)
    other = sae_of_width(16, hook_in="blocks.1.hook_resid_post")
    assert absorb_norm_gain(subject, other) is other


def test_absorb_norm_gain_refuses_what_is_no_rms_norm() -> None:
    import transformers

    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50)
    subject = Subject(transformers.GPT2LMHeadModel(config).eval(), None, "gpt2", "cpu")
    with pytest.raises(UserError, match="no norm module was found"):
        absorb_norm_gain(subject, sae_of_width(16, hook_in="blocks.0.ln2.hook_normalized"))
    neox = transformers.GPTNeoXConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, vocab_size=50
    )
    subject = Subject(transformers.GPTNeoXForCausalLM(neox).eval(), None, "neox", "cpu")
    with pytest.raises(UserError, match="is not an RMSNorm"):
        absorb_norm_gain(subject, sae_of_width(16, hook_in="blocks.0.ln2.hook_normalized"))
    llama = transformers.LlamaConfig(hidden_size=32, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
                                     vocab_size=50)  # fmt: skip
    subject = Subject(transformers.LlamaForCausalLM(llama).eval(), None, "llama", "cpu")
    with pytest.raises(UserError, match="has 32 gains, and the SAE reads 16"):
        absorb_norm_gain(subject, sae_of_width(16, hook_in="blocks.0.ln2.hook_normalized"))
