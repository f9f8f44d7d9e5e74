"""The remaining formats: files as their publishers lay them out, against the format's rule written out by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from autointerp.errors import DataError, UserError
from autointerp.sae import load_sae

D, F = 6, 24
Draw = Callable[..., Tensor]
Write = Callable[[str, Any], Path]


def topk(p: Tensor, k: int) -> Tensor:
    values, index = p.topk(k)
    return torch.zeros_like(p).scatter(1, index, values.relu())


# --- sparsify ------------------------------------------------------------------------------------------------------


def sparsify(draw: Draw) -> dict[str, Tensor]:
    return {"encoder.weight": draw(F, D), "encoder.bias": draw(F), "W_dec": draw(F, D), "b_dec": draw(D)}


@pytest.mark.parametrize(
    "latents", [{"num_latents": 0, "expansion_factor": 4}, {"num_latents": F}, {"expansion_factor": 4}]
)
def test_sparsify_widths(latents: dict[str, int], write: Write, draw: Draw) -> None:
    w, x = sparsify(draw), draw(9, D)
    write("run/layers.3/cfg.json", {"d_in": D, "k": 4, "activation": "topk"} | latents)
    write("run/config.json", {"model": "EleutherAI/pythia-160m", "ctx_len": 2048, "dataset": "pile"})
    sae = load_sae(write("run/layers.3/sae.safetensors", w).parent)
    p = (x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]
    assert torch.allclose(sae.encode(x), topk(p, 4), atol=1e-5)
    assert torch.allclose(sae.decode(torch.eye(F)), w["W_dec"] + w["b_dec"], atol=1e-6)
    assert (sae.hook_in, sae.model_name, sae.context_size) == ("layers.3", "EleutherAI/pythia-160m", 2048)


def test_sparsify_transcoder_reads_the_input_and_subtracts_nothing(write: Write, draw: Draw) -> None:
    w, x = sparsify(draw) | {"W_skip": draw(D, D)}, draw(9, D)
    write("layers.5.mlp/cfg.json", {"d_in": D, "k": 4, "num_latents": F, "transcode": True, "skip_connection": True})
    sae = load_sae(write("layers.5.mlp/sae.safetensors", w).parent)
    f = topk(x @ w["encoder.weight"].T + w["encoder.bias"], 4)
    assert torch.allclose(sae.encode(x), f, atol=1e-5)
    assert torch.allclose(sae.decode(f, x), f @ w["W_dec"] + w["b_dec"] + x @ w["W_skip"].T, atol=1e-5)
    assert (sae.hook_in, sae.hook_out) == ("layers.5.mlp:in", "layers.5.mlp")


def test_sparsify_groupmax_and_signed(write: Write, draw: Draw) -> None:
    w, x = sparsify(draw), draw(9, D)
    p = (x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]
    write("embed_tokens/cfg.json", {"d_in": D, "k": 4, "num_latents": F, "activation": "groupmax"})
    sae = load_sae(write("embed_tokens/sae.safetensors", w).parent)
    best, index = p.relu().unflatten(-1, (4, -1)).max(-1)  # 4 groups of 6
    expected = torch.zeros(9, F).scatter(1, index + torch.arange(0, F, 6), best)
    assert torch.allclose(sae.encode(x), expected, atol=1e-5)
    assert sae.hook_in == "embed_tokens"
    write("embed_tokens/cfg.json", {"d_in": D, "k": 4, "num_latents": F, "signed": True})
    assert load_sae(sae.source).activation == "abstopk"
    write("embed_tokens/cfg.json", {"d_in": D, "k": 4, "num_latents": F, "activation": "softmax"})
    with pytest.raises(DataError, match="activation is 'softmax', expected one of topk, groupmax"):
        load_sae(sae.source)


def test_sparsify_skip_connection_that_is_not_there(write: Write, draw: Draw) -> None:
    write("layers.5.mlp/cfg.json", {"d_in": D, "k": 4, "num_latents": F, "transcode": True, "skip_connection": True})
    with pytest.raises(DataError, match=r"no key 'W_skip', but cfg\.json says skip_connection"):
        load_sae(write("layers.5.mlp/sae.safetensors", sparsify(draw)).parent)


def test_an_expected_l0_of_nothing_is_refused(write: Write, draw: Draw) -> None:
    write("a/config.json", {"architecture": "jump_relu", "l0": 0})
    with pytest.raises(DataError, match=r"not a sound gemma_scope_2 SAE: the expected number of active features is 0"):
        load_sae(write("a/params.safetensors", gemma_2(draw)).parent)


def test_sparsify_in_a_folder_of_another_name_knows_no_hook(write: Write, draw: Draw) -> None:
    write("my_sae/cfg.json", {"d_in": D, "k": 4, "num_latents": F})
    assert load_sae(write("my_sae/sae.safetensors", sparsify(draw)).parent).hook_in is None


# --- Gemma Scope ---------------------------------------------------------------------------------------------------


def gemma(draw: Draw, d_in: int = D, d_out: int = D) -> dict[str, Tensor]:
    return {
        "W_enc": draw(d_in, F), "W_dec": draw(F, d_out), "b_enc": draw(F), "b_dec": draw(d_out),
        "threshold": draw(F).abs(),
    }  # fmt: skip


def jumprelu(x: Tensor, w: dict[str, Tensor], enc: str = "W_enc") -> Tensor:
    p = x @ w[enc] + w["b_enc"]
    return p.relu() * (p > w["threshold"])


@pytest.mark.parametrize(
    ("site", "hook_in", "hook_out"),
    [
        ("res", "hook_resid_post", "hook_resid_post"),
        ("mlp", "hook_mlp_out", "hook_mlp_out"),
        ("att", "attn.hook_z", "attn.hook_z"),
        ("transcoders", "ln2.hook_normalized", "hook_mlp_out"),
    ],
)
def test_gemma_scope_1(site: str, hook_in: str, hook_out: str, write: Write, draw: Draw) -> None:
    w, x = gemma(draw), draw(9, D)
    # As the hub's cache names folders.
    folder = f"models--google--gemma-scope-2b-pt-{site}/snapshots/0a1b/layer_12/width_16k/average_l0_82"
    sae = load_sae(write(f"{folder}/params.npz", w).parent)
    assert torch.allclose(sae.encode(x), jumprelu(x, w), atol=1e-5)
    assert (sae.hook_in, sae.hook_out) == (f"blocks.12.{hook_in}", f"blocks.12.{hook_out}")
    assert (sae.l0_expected, sae.model_name, sae.transcoder) == (82.0, "gemma-2-2b", site == "transcoders")


def test_gemma_scope_1_embeddings_are_scaled(write: Write, draw: Draw) -> None:
    w, x = gemma(draw), draw(9, D)
    path = write("gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6/params.npz", w).parent
    sae = load_sae(path)
    # The model gives e · √d, the SAE was trained on e.
    assert torch.allclose(sae.encode(x), jumprelu(x / D**0.5, w), atol=1e-5)
    assert sae.hook_in == "hook_embed"


def test_gemma_scope_1_outside_its_repository_knows_no_hook(write: Write, draw: Draw) -> None:
    sae = load_sae(write("params.npz", gemma(draw)).parent)
    assert (sae.hook_in, sae.l0_expected) == (None, None)


def gemma_2(draw: Draw) -> dict[str, Tensor]:
    return {key.replace("W_", "w_"): value for key, value in gemma(draw).items()}


def test_gemma_scope_2_transcoder(write: Write, draw: Draw) -> None:
    w, x = gemma_2(draw) | {"affine_skip_connection": draw(D, D)}, draw(9, D)
    folder = "transcoder_all/layer_7_width_16k_l0_big_affine"
    hooks = {
        "hf_hook_point_in": "model.layers.7.pre_feedforward_layernorm.output",
        "hf_hook_point_out": "model.layers.7.post_feedforward_layernorm.output",
    }
    others = {"architecture": "jump_relu", "l0": 120, "type": "transcoder", "model_name": "g"}
    write(f"{folder}/config.json", hooks | others)
    sae = load_sae(write(f"{folder}/params.safetensors", w).parent)
    f = jumprelu(x, w, "w_enc")
    assert torch.allclose(sae.encode(x), f, atol=1e-5)
    out = f @ w["w_dec"] + w["b_dec"] + x @ w["affine_skip_connection"]
    assert torch.allclose(sae.decode(f, x), out, atol=1e-5)
    assert (sae.hook_in, sae.hook_out, sae.l0_expected) == (*hooks.values(), 120)


@pytest.mark.parametrize(
    ("folder", "hook_in", "hook_out"),
    [
        ("resid_post/layer_3_width_16k_l0_small", "model.layers.3.output", "model.layers.3.output"),
        (
            "mlp_out_all/layer_3_width_16k_l0_small",
            "model.layers.3.post_feedforward_layernorm.output",
            "model.layers.3.post_feedforward_layernorm.output",
        ),
        (
            "attn_out_all/layer_3_width_16k_l0_small",
            "model.layers.3.self_attn.o_proj.input",
            "model.layers.3.self_attn.o_proj.input",
        ),
        (
            "transcoder/layer_3_width_16k_l0_small",
            "model.layers.3.pre_feedforward_layernorm.output",
            "model.layers.3.post_feedforward_layernorm.output",
        ),
        ("elsewhere/my_sae", None, None),
    ],
)
def test_gemma_scope_2_without_a_config(folder: str, hook_in: str, hook_out: str, write: Write, draw: Draw) -> None:
    sae = load_sae(write(f"{folder}/params.safetensors", gemma_2(draw)).parent)
    assert (sae.hook_in, sae.hook_out, sae.transcoder) == (hook_in, hook_out, folder.startswith("transcoder"))


def test_gemma_scope_2_of_another_architecture(write: Write, draw: Draw) -> None:
    write("a/config.json", {"architecture": "relu"})
    with pytest.raises(DataError, match="architecture is 'relu', expected jump_relu"):
        load_sae(write("a/params.safetensors", gemma_2(draw)).parent)


@pytest.mark.parametrize(
    ("folder", "config", "hook", "transcoder"),
    [
        # A config that names no output module is an SAE's, whatever the folder would have said.
        ("attn_out/layer_3_width_16k", {"hf_hook_point_in": "model.layers.3.self_attn.o_proj.input"}, None, False),
        ("somewhere/sae", {"hf_hook_point_in": "model.layers.3.output", "hf_hook_point_out": None}, None, False),
        ("somewhere/sae", {"hf_hook_point_in": "a.output", "type": "transcoder"}, None, True),
        ("somewhere/sae", {"hf_hook_point_in": "a.output", "hf_hook_point_out": "b.output"}, "b.output", True),
    ],
)
def test_gemma_scope_2_configs_that_say_half(
    folder: str, config: dict[str, Any], hook: str | None, transcoder: bool, write: Write, draw: Draw
) -> None:
    write(f"{folder}/config.json", config | {"architecture": "jump_relu"})
    sae = load_sae(write(f"{folder}/params.safetensors", gemma_2(draw)).parent)
    expected_out = hook or (None if transcoder else config["hf_hook_point_in"])
    assert (sae.hook_in, sae.hook_out, sae.transcoder) == (config["hf_hook_point_in"], expected_out, transcoder)


@pytest.mark.parametrize(
    ("repository", "model"),
    [
        ("models--google--gemma-scope-2-4b-it", "google/gemma-3-4b-it"),
        ("gemma-scope-2-270m-pt", "google/gemma-3-270m"),
        ("another", None),
    ],
)
def test_gemma_scope_2_names_its_model(repository: str, model: str | None, write: Write, draw: Draw) -> None:
    folder = write(f"{repository}/resid_post/layer_3_width_16k_l0_small/params.safetensors", gemma_2(draw)).parent
    assert load_sae(folder).model_name == model


def test_gemma_scope_2_affine_skip_that_is_not_there(write: Write, draw: Draw) -> None:
    write("a/config.json", {"architecture": "jump_relu", "affine_connection": True})
    with pytest.raises(DataError, match=r"no key 'affine_skip_connection', but config\.json says affine_connection"):
        load_sae(write("a/params.safetensors", gemma_2(draw)).parent)


@pytest.mark.parametrize(
    ("file", "key", "shape"),
    [("crosscoder/layer_3/params", "w_enc", (3, D, F)), ("clt/width_262k/params_layer_1", "w_dec", (F, 4, D))],
)
def test_gemma_scope_2_crosscoders_are_refused(
    file: str, key: str, shape: tuple[int, ...], write: Write, draw: Draw
) -> None:
    path = write(f"{file}.safetensors", gemma_2(draw) | {key: draw(*shape)})
    with pytest.raises(DataError, match=f"{key} has a matrix for every layer: a crosscoder or a cross-layer transc"):
        load_sae(path)


# --- Llama Scope ---------------------------------------------------------------------------------------------------


def llama(draw: Draw) -> dict[str, Tensor]:
    return {
        "encoder.weight": draw(F, D),
        "encoder.bias": draw(F),
        "decoder.weight": draw(D, F),
        "decoder.bias": draw(D),
    }


def hyperparams(**options: Any) -> dict[str, Any]:
    return {
        "hook_point_in": "blocks.8.ln2.hook_normalized", "hook_point_out": "blocks.8.hook_mlp_out", "d_model": D,
        "d_sae": F, "act_fn": "jumprelu", "jump_relu_threshold": 0.4, "norm_activation": "dataset-wise", "top_k": 50,
        "dataset_average_activation_norm": {"in": 2.0, "out": 0.5},
    } | options  # fmt: skip


def test_llama_scope_transcoder_has_a_scale_on_either_side(write: Write, draw: Draw) -> None:
    w, x = llama(draw), draw(9, D)
    write("sae/hyperparams.json", hyperparams())
    sae = load_sae(write("sae/checkpoints/final.safetensors", w).parents[1])
    s_in, s_out = D**0.5 / 2.0, D**0.5 / 0.5
    p = (x * s_in) @ w["encoder.weight"].T + w["encoder.bias"]
    f = p.relu() * (p > 0.4 * s_in)
    assert torch.allclose(sae.encode(x), f, atol=1e-5)
    assert torch.allclose(sae.decode(f), (f @ w["decoder.weight"].T + w["decoder.bias"]) / s_out, atol=1e-5)
    assert (sae.transcoder, sae.l0_expected) == (True, None)


def test_llama_scope_with_b_dec_on_the_input(write: Write, draw: Draw) -> None:
    w, x = llama(draw), draw(9, D)
    hook = {"hook_point_in": "blocks.8.hook_resid_post", "hook_point_out": "blocks.8.hook_resid_post"}
    norms = {"dataset_average_activation_norm": {"in": 2.0, "out": 2.0}}
    write("sae/hyperparams.json", hyperparams(**hook, **norms, apply_decoder_bias_to_pre_encoder=True))
    sae = load_sae(write("sae/checkpoints/final.safetensors", w).parents[1])
    s = D**0.5 / 2.0
    p = (x * s - w["decoder.bias"]) @ w["encoder.weight"].T + w["encoder.bias"]
    assert torch.allclose(sae.encode(x), p.relu() * (p > 0.4 * s), atol=1e-5)


@pytest.mark.parametrize(
    "option",
    [{"act_fn": "topk"}, {"norm_activation": "token-wise"}, {"use_glu_encoder": True}, {"jump_relu_threshold": None}],
)
def test_llama_scope_variants_are_refused(option: dict[str, Any], write: Write, draw: Draw) -> None:
    write("sae/hyperparams.json", hyperparams(**option))
    with pytest.raises(DataError, match=next(iter(option))):
        load_sae(write("sae/checkpoints/final.safetensors", llama(draw)).parents[1])


# --- one-file formats ----------------------------------------------------------------------------------------------


def openai(draw: Draw) -> dict[str, Any]:
    return {"pre_bias": draw(D), "latent_bias": draw(F), "encoder.weight": draw(F, D), "decoder.weight": draw(D, F)}


def test_openai_topk_normalises_its_input(write: Write, draw: Draw) -> None:
    w, x = openai(draw), 3 * draw(9, D) + 1
    state = {"activation": "TopK", "activation_state_dict": {"k": 4, "postact_fn": "ReLU"}}
    sae = load_sae(write("resid_post_attn_v5_32k/autoencoders/6.pt", w | state))
    u = (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5)
    f = topk((u - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"], 4)
    assert torch.allclose(sae.encode(x), f, atol=1e-4)
    out = (f @ w["decoder.weight"].T + w["pre_bias"]) * x.std(1, keepdim=True) + x.mean(1, keepdim=True)
    assert torch.allclose(sae.decode(f, x), out, atol=1e-3)
    assert (sae.hook_in, sae.l0_expected) == ("blocks.6.hook_resid_mid", 4)


def test_a_folder_of_files_names_them(write: Write, draw: Draw) -> None:
    for layer in (0, 1):
        folder = write(f"qwen/layer{layer}.sae.pt", qwen(draw)).parent
        write(f"saes/resid_post_mlp/{layer}.pt", openai(draw))
    with pytest.raises(UserError, match=r"holds some: give one of \S*/layer0\.sae\.pt, \S*/layer1\.sae\.pt$"):
        load_sae(folder)
    with pytest.raises(UserError, match=r"holds some: give one of \S*/resid_post_mlp/0\.pt, \S*/resid_post_mlp/1\.pt$"):
        load_sae(folder.parent / "saes")


def test_openai_relu_has_no_input_norm(write: Write, draw: Draw) -> None:
    w, x = openai(draw), draw(9, D)
    sae = load_sae(write("resid_delta_mlp_v5_32k/autoencoders/6.pt", w | {"activation": "ReLU"}))
    p = (x - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"]
    assert torch.allclose(sae.encode(x), p.relu(), atol=1e-5)
    assert sae.hook_in == "blocks.6.hook_mlp_out"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"activation": "Identity"}, "activation is 'Identity'"),
        (
            {"activation": "TopK", "activation_state_dict": {"k": 3, "postact_fn": "Identity"}},
            "postact_fn is 'Identity'",
        ),
        ({"activation": "TopK"}, "no key 'activation_state_dict'"),
    ],
)
def test_openai_variants_are_refused(extra: dict[str, Any], message: str, write: Write, draw: Draw) -> None:
    with pytest.raises(DataError, match=message):
        load_sae(write("1.pt", openai(draw) | extra))


def qwen(draw: Draw) -> dict[str, Tensor]:
    return {"W_enc": draw(F, D), "W_dec": draw(D, F), "b_enc": draw(F), "b_dec": draw(D)}


@pytest.mark.parametrize("hook_point", ["resid_post", "Residual stream", "model.layers.{layer}", None])
def test_qwen_scope(hook_point: str | None, write: Write, draw: Draw) -> None:
    w, x = qwen(draw), draw(9, D)
    write("repo/config.json", {"base_model": "Qwen/Qwen3-8B-Base", "k": 5, "hook_point": hook_point})
    write("repo/layer8.sae.pt", w)
    sae = load_sae(write("repo/layer9.sae.pt", w))
    f = topk(x @ w["W_enc"].T + w["b_enc"], 5)
    assert torch.allclose(sae.encode(x), f, atol=1e-5)
    assert torch.allclose(sae.decode(f), f @ w["W_dec"].T + w["b_dec"], atol=1e-5)
    assert sae.hook_in == ("model.layers.9" if hook_point and "." in hook_point else "blocks.9.hook_resid_post")
    assert (sae.model_name, sae.l0_expected) == ("Qwen/Qwen3-8B-Base", 5)


def test_qwen_scope_k_from_the_name(write: Write, draw: Draw) -> None:
    assert load_sae(write("SAE-Res-Qwen3-8B-Base-W64K-L0_12/layer0.sae.pt", qwen(draw))).k == 12
    with pytest.raises(DataError, match="no key 'k'"):
        load_sae(write("other/layer0.sae.pt", qwen(draw)))


def test_goodfire(write: Write, draw: Draw) -> None:
    w = {
        "encoder_linear.weight": draw(F, D), "encoder_linear.bias": draw(F),
        "decoder_linear.weight": draw(D, F), "decoder_linear.bias": draw(D),
    }  # fmt: skip
    x = draw(9, D)
    sae = load_sae(write("goodfire/Llama-3.1-8B-Instruct-SAE-l19.pth", w).parent)
    f = (x @ w["encoder_linear.weight"].T + w["encoder_linear.bias"]).relu()
    assert torch.allclose(sae.encode(x), f, atol=1e-5)
    assert torch.allclose(sae.decode(f), f @ w["decoder_linear.weight"].T + w["decoder_linear.bias"], atol=1e-5)
    assert (sae.hook_in, sae.model_name) == ("blocks.19.hook_resid_post", "Llama-3.1-8B-Instruct")


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("kind", ["relu", "topk", "jumprelu"])
def test_circuit_tracer(kind: str, flipped: bool, write: Write, draw: Draw) -> None:
    d_out = 5
    w = {"W_enc": draw(F, D), "W_dec": draw(F, d_out), "b_enc": draw(F), "b_dec": draw(d_out), "W_skip": draw(d_out, D)}
    x = draw(9, D)
    p = x @ w["W_enc"].T + w["b_enc"]
    stored = w | {"W_dec": w["W_dec"].T if flipped else w["W_dec"]}
    config = "model_name: Qwen/Qwen3-4B\nfeature_input_hook: mlp.hook_in\nfeature_output_hook: hook_mlp_out\n"
    f = p.relu()
    if kind == "topk":
        config += "activation: topk\nk: 3\n"
        f = topk(p, 3)
    if kind == "jumprelu":
        threshold = draw(F).abs()
        stored["activation_function.threshold"] = threshold
        f = p.relu() * (p > threshold)
    write("set/config.yaml", config)
    sae = load_sae(write("set/layer_11.safetensors", stored))
    assert torch.allclose(sae.encode(x), f, atol=1e-5)
    assert torch.allclose(sae.decode(f, x), f @ w["W_dec"] + w["b_dec"] + x @ w["W_skip"].T, atol=1e-4)
    assert (sae.hook_in, sae.hook_out) == ("blocks.11.mlp.hook_in", "blocks.11.hook_mlp_out")
    assert sae.model_name == "Qwen/Qwen3-4B"


# --- described, not stored -----------------------------------------------------------------------------------------


def test_neurons(draw: Draw) -> None:
    sae, x = load_sae("neurons:model.layers.2.mlp.down_proj:in:6"), draw(9, 6)
    assert torch.equal(sae.encode(x), x.relu())
    found = sae.encode_sparse(x)
    assert torch.equal(torch.from_numpy(found.value), x.T[x.T > 0])
    assert torch.equal(sae.decode(sae.encode(x)), x.relu())
    assert torch.equal(sae.W_dec, torch.eye(6)) and torch.equal(sae.W_enc, torch.eye(6))
    assert (sae.hook_in, sae.d_in, sae.d_sae) == ("model.layers.2.mlp.down_proj:in", 6, 6)


@pytest.mark.parametrize(
    "text", ["neurons:6", "neurons:a:b", "neurons:a:0", "neurons:", "neurons:a:²", "neurons:a:99999999999"]
)
def test_neurons_that_are_not_described(text: str) -> None:
    with pytest.raises(UserError, match="expected neurons:HOOKPOINT:WIDTH"):
        load_sae(text)


def test_random_directions_as_dense_as_a_dictionary(draw: Draw) -> None:
    sae, x = load_sae("random:d_in=32,d_sae=500,k=7,seed=1"), draw(9, 32)
    f = sae.encode(x)
    assert torch.equal((f != 0).sum(1), torch.full((9,), 7))
    assert torch.allclose(f, topk(x @ sae.W_dec.T, 7), atol=1e-5)
    assert (sae.l0_expected, sae.k) == (7.0, 7)


def test_the_controls_have_no_reconstruction_to_judge() -> None:
    assert load_sae("neurons:a:6").transcoder and load_sae("random:d_in=4,d_sae=4,k=1").transcoder


def test_random_directions_are_the_same_everywhere(draw: Draw) -> None:
    sae = load_sae("random:d_in=128,d_sae=50,threshold=0.5,seed=3,hook=model.layers.2:out")
    directions = sae.W_dec
    assert torch.allclose(directions.norm(dim=1), torch.ones(50), atol=1e-5)
    assert torch.equal(directions, load_sae("random:d_in=128,d_sae=50,threshold=0.9,seed=3").W_dec)
    assert not torch.equal(directions, load_sae("random:d_in=128,d_sae=50,threshold=0.9,seed=4").W_dec)
    x = draw(9, 128)
    p = x @ directions.T
    assert torch.allclose(sae.encode(x), p * (p > 0.5), atol=1e-5)
    assert sae.hook_in == "model.layers.2:out"
    # numpy.random.seed(3) has always begun with these numbers: a change of generator would be seen.
    first = torch.tensor([1.78862847, 0.43650985, 0.09649747])
    assert torch.allclose(directions[0, :3] / directions[0, 0], first / first[0], atol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "random:128", "random:d_in=128", "random:d_in=128,d_sae=8", "random:d_in=a,d_sae=8,threshold=1",
        "random:d_in=0,d_sae=8,threshold=1", "random:d_in=8,d_sae=8,threshold=-1", "random:d_in=8,d_sae=8,width=1",
        "random:d_in=8,d_sae=8,k=2,threshold=1", "random:d_in=8,d_sae=8,k=0", "random:d_in=8,d_sae=8,k=9",
        "random:d_in=8,d_sae=8,k=2,k=3", "random:d_in=99999999,d_sae=99999999,k=2", "random:d_in=-1,d_sae=-1,threshold=1",
        "random:d_in=8,d_sae=8,threshold=nan", "random:d_in=8,d_sae=8,k=1,seed=-1",
    ],
)  # fmt: skip
def test_random_directions_that_are_not_described(text: str) -> None:
    with pytest.raises(UserError, match="expected"):
        load_sae(text)
