"""All classes of dictionary_learning, against their encode written out by hand."""

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


def linear(draw: Draw) -> dict[str, Tensor]:
    return {"encoder.weight": draw(F, D), "encoder.bias": draw(F), "decoder.weight": draw(D, F)}


def plain(draw: Draw) -> dict[str, Tensor]:
    return {"W_enc": draw(D, F), "b_enc": draw(F), "W_dec": draw(F, D), "b_dec": draw(D)}


def config(name: str, **trainer: Any) -> dict[str, Any]:
    return {
        "trainer": {"dict_class": name, "layer": 4, "lm_name": "m", "submodule_name": "mlp_out_layer_4"} | trainer,
        "buffer": {"io": "out", "ctx_len": 64},
    }


def topk(p: Tensor, k: int) -> Tensor:
    values, index = p.relu().topk(k)
    return torch.zeros_like(p).scatter(1, index, values)


def case(name: str, draw: Draw) -> tuple[dict[str, Tensor], Callable[[Tensor], Tensor]]:
    """A state_dict of the class and the class's encode."""
    if name == "GatedAutoEncoder":
        w = linear(draw)
        del w["encoder.bias"]
        w |= {"decoder_bias": draw(D), "r_mag": 0.3 * draw(F), "gate_bias": draw(F), "mag_bias": draw(F)}

        def gated(x: Tensor) -> Tensor:
            pi = (x - w["decoder_bias"]) @ w["encoder.weight"].T
            return ((pi + w["gate_bias"]) > 0) * (w["r_mag"].exp() * pi + w["mag_bias"]).relu()

        return w, gated
    if name in ("AutoEncoder", "AutoEncoderNew"):
        new = name == "AutoEncoderNew"
        w = linear(draw) | {"decoder.bias" if new else "bias": draw(D)}
        shift = 0.0 if new else w["bias"]
        return w, lambda x: ((x - shift) @ w["encoder.weight"].T + w["encoder.bias"]).relu()
    if name in ("AutoEncoderTopK", "BatchTopKSAE"):
        w = linear(draw) | {"b_dec": draw(D), "k": torch.tensor(3), "threshold": torch.tensor(0.8)}

        def ranked(x: Tensor) -> Tensor:
            p = (x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]
            return topk(p, 3) if name == "AutoEncoderTopK" else p.relu() * (p > 0.8)

        return w, ranked
    subtract = name == "MatryoshkaBatchTopKSAE"
    w = plain(draw) | {"threshold": torch.tensor(0.8) if subtract else draw(F).abs()}
    if subtract:
        w |= {"k": torch.tensor(3), "group_sizes": torch.tensor([8, 16])}

    def by_threshold(x: Tensor) -> Tensor:
        p = (x - w["b_dec"] * subtract) @ w["W_enc"] + w["b_enc"]
        return p.relu() * (p > w["threshold"])

    return w, by_threshold


CLASSES = [
    "AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE",
    "JumpReluAutoEncoder",
]  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
def test_class(name: str, write: Write, draw: Draw) -> None:
    w, encode = case(name, draw)
    write("sae/config.json", config(name))
    sae, x = load_sae(write("sae/ae.pt", w).parent), draw(9, D)
    assert torch.allclose(sae.encode(x), encode(x), atol=1e-5)
    assert (sae.hook_in, sae.model_name, sae.context_size) == ("blocks.4.hook_mlp_out", "m", 64)
    assert sae.l0_expected == (3 if "k" in w else None)
    decoder = w["W_dec"] if "W_dec" in w else w["decoder.weight"].T
    bias = next(w[key] for key in ("bias", "decoder.bias", "decoder_bias", "b_dec") if key in w)
    f = encode(x)
    assert torch.allclose(sae.decode(f), f @ decoder + bias, atol=1e-5)


@pytest.mark.parametrize("name", ["AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "JumpReluAutoEncoder"])
def test_class_without_a_config(name: str, write: Write, draw: Draw) -> None:
    w, encode = case(name, draw)
    sae, x = load_sae(write("sae/ae.pt", w)), draw(9, D)
    assert torch.allclose(sae.encode(x), encode(x), atol=1e-5)
    assert sae.hook_in is None


def test_two_classes_with_the_same_tensors_need_the_config(write: Write, draw: Draw) -> None:
    w, _ = case("BatchTopKSAE", draw)
    with pytest.raises(DataError, match=r"do not tell the class .*config\.json"):
        load_sae(write("sae/ae.pt", w))


@pytest.mark.parametrize("name", CLASSES)
def test_an_interrupted_run_is_scaled_by_its_norm_factor(name: str, write: Write, draw: Draw) -> None:
    """The library trains on x / c; at the end of a run it multiplies the biases by c: f(x) is then c · f_trained(x /
    c)."""
    w, encode = case(name, draw)
    c = 7.5
    write("sae/config.json", config(name))
    state = {"step": 100, "ae": w, "optimizer": {"lr": 1e-3}, "config": {"k": 3}, "norm_factor": c}
    sae, x = load_sae(write("sae/ae.pt", state).parent), draw(9, D) * c
    assert torch.allclose(sae.encode(x), c * encode(x / c), atol=1e-4)


def test_a_checkpoint_finds_the_config_one_folder_up(write: Write, draw: Draw) -> None:
    w, encode = case("AutoEncoderTopK", draw)
    write("sae/config.json", config("AutoEncoderTopK"))
    sae, x = load_sae(write("sae/checkpoints/ae_1000.pt", w)), draw(9, D)
    assert sae.k == 3 and torch.allclose(sae.encode(x), encode(x), atol=1e-5)


def test_a_threshold_that_was_never_set_is_plain_relu(write: Write, draw: Draw) -> None:
    w, _ = case("BatchTopKSAE", draw)
    write("sae/config.json", config("BatchTopKSAE"))
    sae, x = load_sae(write("sae/ae.pt", w | {"threshold": torch.tensor(-1.0)}).parent), draw(9, D)
    p = (x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]
    assert torch.allclose(sae.encode(x), p.relu(), atol=1e-5)


def test_an_interrupted_run_may_have_set_no_threshold_and_no_norm(write: Write, draw: Draw) -> None:
    w, _ = case("MatryoshkaBatchTopKSAE", draw)
    w["threshold"] = torch.tensor(-1.0)
    write("sae/config.json", config("MatryoshkaBatchTopKSAE"))
    sae, x = load_sae(write("sae/ae.pt", {"step": 1, "ae": w, "norm_factor": None}).parent), draw(9, D)
    assert torch.allclose(sae.encode(x), ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu(), atol=1e-5)


@pytest.mark.parametrize(
    ("trainer", "io", "hook"),
    [
        ({"submodule_name": "resid_post_layer_4"}, "out", "blocks.4.hook_resid_post"),
        ({"submodule_name": "attention_out_layer_4"}, "out", "blocks.4.hook_attn_out"),
        ({"submodule_name": "model.layers.4.mlp"}, "in", "model.layers.4.mlp:in"),
        ({"submodule_name": "model.layers.4.mlp"}, "out", "model.layers.4.mlp"),
        ({"submodule_name": None}, "out", None),
    ],
)
def test_hook_names(trainer: dict[str, Any], io: str, hook: str | None, write: Write, draw: Draw) -> None:
    w, _ = case("AutoEncoder", draw)
    write("sae/config.json", config("AutoEncoder", **trainer) | {"buffer": {"io": io}})
    assert load_sae(write("sae/ae.pt", w).parent).hook_in == hook


def test_an_unknown_class_is_named(write: Write, draw: Draw) -> None:
    write("sae/config.json", config("CrossCoder"))
    with pytest.raises(DataError, match="dict_class is 'CrossCoder', expected one of AutoEncoder"):
        load_sae(write("sae/ae.pt", case("AutoEncoder", draw)[0]).parent)


def test_target_l0_is_what_to_expect_of_jumprelu(write: Write, draw: Draw) -> None:
    write("sae/config.json", config("JumpReluAutoEncoder", target_l0=20.0))
    assert load_sae(write("sae/ae.pt", case("JumpReluAutoEncoder", draw)[0]).parent).l0_expected == 20.0
