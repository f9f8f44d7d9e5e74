"""SAELens folders of every age, against the rules of the library's own classes written out by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from autointerp.errors import DataError
from autointerp.sae import load_sae

D, F = 6, 24
Draw = Callable[..., Tensor]
Write = Callable[[str, Any], Path]


def tensors(draw: Draw) -> dict[str, Tensor]:
    return {"W_enc": draw(D, F), "b_enc": draw(F), "W_dec": draw(F, D), "b_dec": draw(D)}


def flat(**options: Any) -> dict[str, Any]:
    """A cfg.json of versions 3 to 5."""
    return {
        "architecture": "standard", "d_in": D, "d_sae": F, "activation_fn_str": "relu", "apply_b_dec_to_input": True,
        "finetuning_scaling_factor": False, "context_size": 128, "model_name": "gpt2-small",
        "hook_name": "blocks.3.hook_resid_pre", "hook_layer": 3, "hook_head_index": None, "prepend_bos": True,
        "dataset_path": "Skylion007/openwebtext", "normalize_activations": "none", "dtype": "torch.float32",
        "device": "cpu", "model_from_pretrained_kwargs": {"center_writing_weights": False},
    } | options  # fmt: skip


def nested(architecture: str, *, metadata: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """A cfg.json of version 6."""
    return {
        "architecture": architecture, "d_in": D, "d_sae": F, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {"model_name": "m", "hook_name": "blocks.1.hook_mlp_out", "sae_lens_version": "6.54.12"}
        | (metadata or {}),
    } | options  # fmt: skip


@pytest.fixture
def folder(write: Write) -> Callable[..., Path]:
    def build(cfg: dict[str, Any], weights: dict[str, Tensor], **others: Any) -> Path:
        write("sae/cfg.json", cfg)
        for name, content in others.items():
            write(f"sae/{name}.json", content)
        return write("sae/sae_weights.safetensors", weights).parent

    return build


def pre(x: Tensor, w: dict[str, Tensor], *, subtract: bool = True) -> Tensor:
    return (x - w["b_dec"] * subtract) @ w["W_enc"] + w["b_enc"]


def test_flat_standard(folder: Callable[..., Path], draw: Draw) -> None:
    w, x = tensors(draw), draw(9, D)
    sae = load_sae(folder(flat(), w))
    assert torch.allclose(sae.encode(x), pre(x, w).relu(), atol=1e-5)
    assert (sae.hook_in, sae.hook_out) == ("blocks.3.hook_resid_pre", "blocks.3.hook_resid_pre")
    assert (sae.prepend_bos, sae.context_size, sae.dataset) == (True, 128, "Skylion007/openwebtext")
    assert (sae.model_name, sae.format, sae.l0_expected) == ("gpt2-small", "saelens", None)


def test_the_oldest_names(folder: Callable[..., Path], draw: Draw) -> None:
    """hook_point, activation_fn, a boolean normalize_activations; no architecture, no prepend_bos."""
    cfg = {
        "d_in": D, "d_sae": F, "hook_point": "blocks.2.hook_resid_pre", "hook_point_layer": 2, "activation_fn": "relu",
        "hook_point_head_index": None, "normalize_activations": False, "model_name": "gelu-2l", "dtype": "float32",
    }  # fmt: skip
    w, x = tensors(draw), draw(9, D)
    sae = load_sae(folder(cfg, w))
    assert (sae.hook_in, sae.prepend_bos, sae.subtract_b_dec) == ("blocks.2.hook_resid_pre", True, True)
    # Trained on TransformerLens' default, which centres: gpt2-small-res-jb is the published case.
    assert sae.center_input
    centred = x - x.mean(1, keepdim=True)
    assert torch.allclose(sae.encode(x), pre(centred, w).relu(), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"hook_point": "blocks.2.hook_resid_pre", "model_name": "gemma-2b"}, False),  # RMSNorm: never centred
        ({"hook_point": "blocks.2.attn.hook_z", "model_name": "gpt2-small"}, False),  # not the residual stream
        ({"hook_point": "blocks.2.hook_mlp_out", "model_name": "EleutherAI/pythia-70m"}, True),
        ({"hook_point": "blocks.2.hook_resid_pre", "model_name": "gpt2", "model_from_pretrained_kwargs": {}}, False),
        (
            {"hook_name": "blocks.2.hook_resid_pre", "model_from_pretrained_kwargs": {"center_writing_weights": True}},
            True,
        ),
    ],
)
def test_centring(folder: Callable[..., Path], draw: Draw, options: dict[str, Any], expected: bool) -> None:
    assert load_sae(folder({"d_in": D, "d_sae": F} | options, tensors(draw))).center_input is expected


def test_without_b_dec_on_the_input(folder: Callable[..., Path], draw: Draw) -> None:
    w, x = tensors(draw), draw(9, D)
    sae = load_sae(folder(flat(apply_b_dec_to_input=False), w))
    assert torch.allclose(sae.encode(x), pre(x, w, subtract=False).relu(), atol=1e-5)


def test_flat_topk_and_tanh_relu(folder: Callable[..., Path], draw: Draw) -> None:
    w, x = tensors(draw), draw(9, D)
    sae = load_sae(folder(flat(activation_fn_str="topk", activation_fn_kwargs={"k": 3}), w))
    values, index = pre(x, w).topk(3)
    assert torch.allclose(sae.encode(x), torch.zeros(9, F).scatter(1, index, values.relu()), atol=1e-5)
    assert (sae.k, sae.l0_expected) == (3, 3)
    sae = load_sae(folder(flat(activation_fn_str="tanh-relu"), w))
    assert torch.allclose(sae.encode(x), pre(x, w).relu().tanh(), atol=1e-5)


def test_finetuning_scaling_factor_acts_at_the_decode(folder: Callable[..., Path], draw: Draw) -> None:
    w, x, scale = tensors(draw), draw(9, D), draw(F).abs() + 0.5
    sae = load_sae(folder(flat(finetuning_scaling_factor=True), w | {"finetuning_scaling_factor": scale}))
    f = pre(x, w).relu()
    assert torch.allclose(sae.encode(x), f, atol=1e-5)
    assert torch.allclose(sae.decode(f), (f * scale) @ w["W_dec"] + w["b_dec"], atol=1e-4)
    ones = load_sae(folder(flat(), w | {"scaling_factor": torch.ones(F)}))
    assert torch.allclose(ones.decode(f), f @ w["W_dec"] + w["b_dec"], atol=1e-4)
    with pytest.raises(DataError, match="scaling_factor is not all ones"):
        load_sae(folder(flat(), w | {"scaling_factor": scale}))


@pytest.mark.parametrize("value", [True, "expected_average_only_in"])
def test_expected_average_only_in(folder: Callable[..., Path], draw: Draw, value: Any) -> None:
    w, x, s = tensors(draw), draw(9, D), 2.5
    sae = load_sae(folder(flat(normalize_activations=value), w, activation_scaler={"scaling_factor": s}))
    f = pre(x * s, w).relu()
    assert torch.allclose(sae.encode(x), f, atol=1e-4)
    assert torch.allclose(sae.decode(f), (f @ w["W_dec"] + w["b_dec"]) / s, atol=1e-4)


def test_an_unknown_input_scale_is_an_error(folder: Callable[..., Path], draw: Draw) -> None:
    with pytest.raises(DataError, match=r"activation_scaler\.json"):
        load_sae(folder(flat(normalize_activations="expected_average_only_in"), tensors(draw)))


@pytest.mark.parametrize("norm", ["layer_norm", "constant_norm_rescale"])
def test_run_time_norms(folder: Callable[..., Path], draw: Draw, norm: str) -> None:
    sae = load_sae(folder(nested("standard", normalize_activations=norm), tensors(draw)))
    assert sae.input_norm == norm


def test_the_input_scale_leaves_a_threshold_as_it_is(folder: Callable[..., Path], draw: Draw) -> None:
    """The threshold is in the units of the scaled inputs, as the activations are."""
    w, x, s = tensors(draw) | {"threshold": draw(F).abs()}, draw(9, D), 2.5
    cfg = nested("jumprelu", normalize_activations="expected_average_only_in")
    p = pre(x * s, w)
    sae = load_sae(folder(cfg, w, activation_scaler={"scaling_factor": s, "has_whitening": False}))
    assert torch.allclose(sae.encode(x), p.relu() * (p > w["threshold"]), atol=1e-4)


@pytest.mark.parametrize(
    ("scaler", "message"),
    [
        ({"scaling_factor": 2.0, "has_whitening": True}, "has_whitening is true: whitened inputs are not supported"),
        ({"scaling_factor": -2.0}, "scaling_factor is -2.0, expected a positive number"),
        ({"scaling_factor": "2"}, "scaling_factor is '2', expected a finite number"),
        ({"scaling_factor": None}, r"no file gives the scale: write \{\"scaling_factor\": s\} to activation_scaler"),
    ],
)
def test_scalers_that_cannot_be_applied(
    scaler: dict[str, Any], message: str, folder: Callable[..., Path], draw: Draw
) -> None:
    cfg = nested("standard", normalize_activations="expected_average_only_in")
    with pytest.raises(DataError, match=message):
        load_sae(folder(cfg, tensors(draw), activation_scaler=scaler))


def test_a_decoder_of_zeros_is_not_divided_by(folder: Callable[..., Path], draw: Draw) -> None:
    w, x = tensors(draw), draw(9, D)
    w["W_dec"][5] = 0
    sae = load_sae(folder(nested("topk", k=3, rescale_acts_by_decoder_norm=True), w))
    values, index = (pre(x, w) * w["W_dec"].norm(dim=1)).topk(3)
    f = torch.zeros(9, F).scatter(1, index, values.relu())
    assert torch.allclose(sae.encode(x), f, atol=1e-4)
    unit = torch.nn.functional.normalize(w["W_dec"], dim=1)
    assert torch.allclose(sae.decode(f), f @ unit + w["b_dec"], atol=1e-4)


def test_an_ordinary_threshold_is_scaled_by_the_decoders_norms(folder: Callable[..., Path], draw: Draw) -> None:
    w, x = tensors(draw) | {"threshold": draw(F).abs()}, draw(9, D)
    p, n = pre(x, w), w["W_dec"].norm(dim=1)
    sae = load_sae(folder(nested("jumprelu", rescale_acts_by_decoder_norm=True), w))
    assert torch.allclose(sae.encode(x), (p * n).relu() * (p > w["threshold"]), atol=1e-4)


@pytest.mark.parametrize("where", ["hook_head_index", "hook_point_head_index", "metadata"])
def test_an_sae_on_one_head_is_refused(where: str, folder: Callable[..., Path], draw: Draw) -> None:
    cfg = nested("standard", metadata={"hook_head_index": 0}) if where == "metadata" else flat() | {where: 0}
    with pytest.raises(DataError, match="hook_head_index is 0: the SAE reads one attention head"):
        load_sae(folder(cfg, tensors(draw)))


def test_a_skip_connection_that_is_not_there(folder: Callable[..., Path], draw: Draw) -> None:
    with pytest.raises(DataError, match="no key 'W_skip', expected with architecture 'skip_transcoder'"):
        load_sae(folder(nested("skip_transcoder", d_out=D), tensors(draw)))


def test_a_transcoder_is_found_by_hugging_face_names(folder: Callable[..., Path], draw: Draw) -> None:
    names = {"hf_hook_name": "model.layers.1.mlp.input", "hf_hook_name_out": "model.layers.1.mlp.output"}
    sae = load_sae(folder(nested("transcoder", d_out=D, metadata=names | {"hook_name_out": "b"}), tensors(draw)))
    assert (sae.hook_in, sae.hook_out) == tuple(names.values())


def test_gated_with_decoder_norms_is_refused(folder: Callable[..., Path], draw: Draw) -> None:
    with pytest.raises(DataError, match="rescale_acts_by_decoder_norm is True, expected false with architecture gated"):
        load_sae(folder(nested("gated", rescale_acts_by_decoder_norm=True), tensors(draw)))


def test_jumprelu_and_log_threshold(folder: Callable[..., Path], draw: Draw) -> None:
    w, x, threshold = tensors(draw), draw(9, D), draw(F).abs()
    p = pre(x, w)
    expected = p.relu() * (p > threshold)
    for extra in ({"threshold": threshold}, {"log_threshold": threshold.log()}):
        sae = load_sae(folder(nested("jumprelu"), w | extra))
        assert torch.allclose(sae.encode(x), expected, atol=1e-5)


def test_gated(folder: Callable[..., Path], draw: Draw) -> None:
    w, x = tensors(draw), draw(9, D)
    del w["b_enc"]
    w |= {"b_gate": draw(F), "b_mag": draw(F), "r_mag": 0.3 * draw(F)}
    u = x - w["b_dec"]
    gate = (u @ w["W_enc"] + w["b_gate"]) > 0
    expected = gate * (u @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"]).relu()
    assert torch.allclose(load_sae(folder(nested("gated"), w)).encode(x), expected, atol=1e-5)


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
def test_training_checkpoints_of_batchtopk(folder: Callable[..., Path], draw: Draw, architecture: str) -> None:
    """The scalar threshold was learnt on activations multiplied by the decoder's norms."""
    w, x = tensors(draw), draw(9, D)
    cfg = nested(architecture, k=4.5, rescale_acts_by_decoder_norm=True)
    sae = load_sae(folder(cfg, w | {"topk_threshold": torch.tensor(1.5)}))
    p = pre(x, w) * w["W_dec"].norm(dim=1)
    assert torch.allclose(sae.encode(x), p.relu() * (p > 1.5), atol=1e-4)
    assert sae.l0_expected == 4.5


@pytest.mark.parametrize(
    "architecture", ["transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"]
)
def test_transcoders(folder: Callable[..., Path], draw: Draw, architecture: str) -> None:
    d_out = 5
    w, x = tensors(draw) | {"W_dec": draw(F, d_out), "b_dec": draw(d_out)}, draw(9, D)
    if "jumprelu" in architecture:
        w["threshold"] = torch.full((F,), 0.7)
    if "skip" in architecture:
        w["W_skip"] = draw(d_out, D)
    metadata = {"hook_name": "blocks.1.ln2.hook_normalized", "hook_name_out": "blocks.1.hook_mlp_out"}
    cfg = nested(architecture, d_out=d_out, apply_b_dec_to_input=False, metadata=metadata)
    sae = load_sae(folder(cfg, w))
    p = x @ w["W_enc"] + w["b_enc"]
    expected = p.relu() * (p > (0.7 if "jumprelu" in architecture else 0.0))
    assert torch.allclose(sae.encode(x), expected, atol=1e-5)
    out = expected @ w["W_dec"] + w["b_dec"] + (x @ w["W_skip"].T if "skip" in architecture else 0.0)
    assert torch.allclose(sae.decode(expected, x), out, atol=1e-4)
    assert (sae.hook_in, sae.hook_out, sae.transcoder) == (metadata["hook_name"], metadata["hook_name_out"], True)


def test_the_hugging_face_name_wins(folder: Callable[..., Path], draw: Draw) -> None:
    cfg = nested("standard", metadata={"hf_hook_name": "model.layers.1.mlp.output"})
    assert load_sae(folder(cfg, tensors(draw))).hook_in == "model.layers.1.mlp.output"


def test_bfloat16_weights_are_brought_to_float32(folder: Callable[..., Path], draw: Draw) -> None:
    w, x = {key: value.bfloat16() for key, value in tensors(draw).items()}, draw(9, D)
    exact = {key: value.float() for key, value in w.items()}
    assert torch.allclose(load_sae(folder(flat(), w)).encode(x), pre(x, exact).relu(), atol=1e-5)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (flat(architecture="temporal"), "architecture is 'temporal'"),
        (flat(activation_fn_str="gelu"), "activation_fn_str is 'gelu'"),
        (flat(normalize_activations="whiten"), "normalize_activations is 'whiten'"),
        (flat(hook_head_index=3), "hook_head_index"),
        (flat(activation_fn_str="topk", activation_fn_kwargs={"k": 99}), "k is 99"),
        (flat(activation_fn_str="topk"), "no key 'k'"),
        (flat(d_sae=None), "no key 'd_sae'"),
        (flat(d_in="six"), "d_in is 'six'"),
        (nested("standard", normalize_activations="none", d_in=7), r"W_enc has shape \[6, 24\], expected \[7, 24\]"),
    ],
)
def test_what_cannot_be_read_is_named(
    folder: Callable[..., Path], draw: Draw, cfg: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_sae(folder(cfg, tensors(draw)))
    assert "\n" not in str(caught.value)
    assert str(folder(cfg, tensors(draw))) in str(caught.value)
