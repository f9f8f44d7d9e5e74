"""What other loaders are known to get wrong, one test each. The expected numbers are worked out from the format's rule."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autointerp.sae import load_sae

D, F, K = 6, 24, 3
Draw = Callable[..., Tensor]
Write = Callable[[str, Any], Path]


def sparsify(draw: Draw, d_sae: int = F) -> dict[str, Tensor]:
    return {
        "encoder.weight": draw(d_sae, D), "encoder.bias": draw(d_sae), "W_dec": draw(d_sae, D), "b_dec": draw(D),
    }  # fmt: skip


def topk(p: Tensor, k: int = K) -> Tensor:
    values, index = p.topk(k)
    return torch.zeros_like(p).scatter(1, index, values.relu())


def test_sparsify_num_latents_of_zero_means_the_expansion_factor(write: Write, draw: Draw) -> None:
    write("layers.3/cfg.json", {"d_in": D, "num_latents": 0, "expansion_factor": 4, "k": K})
    assert load_sae(write("layers.3/sae.safetensors", sparsify(draw)).parent).d_sae == 24


def test_sparsify_w_dec_is_not_transposed(write: Write, draw: Draw) -> None:
    """Square, so that no shape tells: row i of W_dec is feature i."""
    w = sparsify(draw, D)
    write("layers.3/cfg.json", {"d_in": D, "num_latents": D, "k": K})
    sae = load_sae(write("layers.3/sae.safetensors", w).parent)
    assert torch.allclose(sae.decode(torch.eye(D)), w["W_dec"] + w["b_dec"], atol=1e-6)


def test_sparsify_b_dec_is_subtracted_unless_it_is_a_transcoder(write: Write, draw: Draw) -> None:
    w, x = sparsify(draw), draw(9, D)
    path = write("layers.3/sae.safetensors", w).parent
    for transcode in (False, True):
        write("layers.3/cfg.json", {"d_in": D, "num_latents": F, "k": K, "transcode": transcode})
        shifted = x if transcode else x - w["b_dec"]
        expected = topk(shifted @ w["encoder.weight"].T + w["encoder.bias"])
        assert torch.allclose(load_sae(path).encode(x), expected, atol=1e-5)


def test_sparsify_hooks_are_the_modules_they_are_named_after(write: Write, draw: Draw) -> None:
    for folder in ("layers.3", "layers.5.mlp", "layers.5.self_attn", "embed_tokens", "h.2.mlp", "wte"):
        write(f"{folder}/cfg.json", {"d_in": D, "num_latents": F, "k": K})
        sae = load_sae(write(f"{folder}/sae.safetensors", sparsify(draw)).parent)
        assert (sae.hook_in, sae.hook_out) == (folder, folder)


def saelens(write: Write, draw: Draw, **cfg: Any) -> tuple[dict[str, Tensor], Path]:
    w = {"W_enc": draw(D, F), "b_enc": draw(F), "W_dec": draw(F, D), "b_dec": draw(D)}
    flat = {"architecture": "standard", "d_in": D, "d_sae": F, "activation_fn_str": "relu", "hook_name": "a"}
    write("sae/cfg.json", flat | cfg)
    return w, write("sae/sae_weights.safetensors", w).parent


def test_finetuning_scaling_factor_is_read_and_acts_at_the_decode_only(write: Write, draw: Draw) -> None:
    w, path = saelens(write, draw, finetuning_scaling_factor=True)
    scale, x = draw(F).abs() + 0.5, draw(9, D)
    write("sae/sae_weights.safetensors", w | {"scaling_factor": scale})
    sae = load_sae(path)
    f = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    assert torch.allclose(sae.encode(x), f, atol=1e-5)
    assert torch.allclose(sae.decode(f), (f * scale) @ w["W_dec"] + w["b_dec"], atol=1e-4)


def test_tanh_relu_is_not_relu(write: Write, draw: Draw) -> None:
    w, path = saelens(write, draw, activation_fn_str="tanh-relu")
    x = draw(9, D)
    p = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    f = load_sae(path).encode(x)
    assert torch.allclose(f, p.relu().tanh(), atol=1e-5) and f.max() <= 1 < p.max()


def test_expected_average_only_in_scales_the_inputs(write: Write, draw: Draw) -> None:
    w, path = saelens(write, draw, normalize_activations="expected_average_only_in")
    write("sae/activation_scaler.json", {"scaling_factor": 3.0})
    x = draw(9, D)
    expected = ((3.0 * x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    assert torch.allclose(load_sae(path).encode(x), expected, atol=1e-4)


def test_auto_encoder_new_loads(write: Write, draw: Draw) -> None:
    w = {"encoder.weight": draw(F, D), "encoder.bias": draw(F), "decoder.weight": draw(D, F), "decoder.bias": draw(D)}
    write("t/config.json", {"trainer": {"dict_class": "AutoEncoderNew"}})
    sae, x = load_sae(write("t/ae.pt", w).parent), draw(9, D)
    assert torch.allclose(sae.encode(x), (x @ w["encoder.weight"].T + w["encoder.bias"]).relu(), atol=1e-5)


def test_an_mlp_sae_is_not_recorded_as_resid_post(write: Write, draw: Draw) -> None:
    w = {"encoder.weight": draw(F, D), "encoder.bias": draw(F), "decoder.weight": draw(D, F), "bias": draw(D)}
    trainer = {"dict_class": "AutoEncoder", "layer": 4, "submodule_name": "mlp_out_layer_4"}
    write("t/config.json", {"trainer": trainer})
    assert load_sae(write("t/ae.pt", w).parent).hook_in == "blocks.4.hook_mlp_out"


def test_top_k_competes_over_the_full_width(write: Write, draw: Draw) -> None:
    """Never inside a chunk of features, also where only some features are asked for."""
    w, x = sparsify(draw), draw(50, D)
    write("layers.3/cfg.json", {"d_in": D, "num_latents": F, "k": K})
    sae = load_sae(write("layers.3/sae.safetensors", w).parent)
    expected = topk((x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"])
    found = sae.encode_sparse(x, np.arange(4))
    dense = torch.zeros(50, F)
    dense[found.row, found.feature] = torch.from_numpy(found.value)
    assert torch.allclose(dense[:, :4], expected[:, :4], atol=1e-5) and not dense[:, 4:].any()


def test_bfloat16_files_are_encoded_in_float32(write: Write, draw: Draw) -> None:
    w, path = saelens(write, draw, dtype="bfloat16")
    half = {key: tensor.bfloat16() for key, tensor in w.items()}
    write("sae/sae_weights.safetensors", half)
    x = draw(9, D)
    w = {key: tensor.float() for key, tensor in half.items()}
    expected = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    assert torch.allclose(load_sae(path).encode(x), expected, atol=1e-5)
    assert not torch.allclose(load_sae(path).encode(x.bfloat16()), expected, atol=1e-5)
