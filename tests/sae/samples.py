"""One small SAE of every format that is stored in files, as its publisher lays it out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

D, F, K = 6, 24, 3
Draw = Callable[..., Tensor]


@dataclass(frozen=True)
class Sample:
    """`files` by name (what conftest's `write` takes); `path` is what the user points at; `weights` is its weight file,
    whose tensors lie under `inside` if they are nested."""

    files: dict[str, Any]
    path: str
    weights: str
    inside: str | None = None

    def with_tensors(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """The files with the weights changed."""
        content = self.files[self.weights]
        if self.inside is None:
            return self.files | {self.weights: change(content)}
        return self.files | {self.weights: content | {self.inside: change(content[self.inside])}}

    @property
    def tensors(self) -> dict[str, Any]:
        content: dict[str, Any] = self.files[self.weights]
        return content if self.inside is None else content[self.inside]


def _plain(draw: Draw, *, flipped: bool = False) -> dict[str, Tensor]:
    enc, dec = draw(D, F), draw(F, D)
    return {"W_enc": enc.T if flipped else enc, "b_enc": draw(F), "W_dec": dec.T if flipped else dec, "b_dec": draw(D)}


def _linear(draw: Draw, b_dec: str) -> dict[str, Tensor]:
    return {"encoder.weight": draw(F, D), "encoder.bias": draw(F), "decoder.weight": draw(D, F), b_dec: draw(D)}


def _saelens(draw: Draw, cfg: dict[str, Any], **tensors: Tensor) -> Sample:
    common = {"d_in": D, "d_sae": F, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True}
    files = {"sae/cfg.json": common | cfg, "sae/sae_weights.safetensors": _plain(draw) | tensors}
    return Sample(files, "sae", "sae/sae_weights.safetensors")


def _flat(function: str, **options: Any) -> dict[str, Any]:
    return {
        "architecture": "standard", "activation_fn_str": function, "finetuning_scaling_factor": False,
        "context_size": 128, "model_name": "gpt2-small", "hook_name": "blocks.3.hook_resid_pre", "hook_layer": 3,
        "hook_head_index": None, "prepend_bos": True, "dataset_path": "text", "normalize_activations": "none",
        "model_from_pretrained_kwargs": {"center_writing_weights": False},
    } | options  # fmt: skip


def _nested(architecture: str, **options: Any) -> dict[str, Any]:
    metadata = {"model_name": "m", "hook_name": "blocks.1.hook_mlp_out", "sae_lens_version": "6.54.12"}
    return {"architecture": architecture, "normalize_activations": "none", "metadata": metadata} | options


def _learning(draw: Draw, name: str, **tensors: Tensor) -> Sample:
    trainer = {"dict_class": name, "layer": 4, "lm_name": "m", "submodule_name": "mlp_out_layer_4", "k": K}
    config = {"trainer": trainer, "buffer": {"io": "out", "ctx_len": 64}}
    return Sample({"sae/config.json": config, "sae/ae.pt": _linear(draw, "b_dec") | tensors}, "sae", "sae/ae.pt")


def samples(draw: Draw) -> dict[str, Sample]:
    """By name; the name begins with the format's."""
    theta = draw(F).abs()
    gemma = {key.replace("W_", "w_"): value for key, value in _plain(draw).items()} | {"threshold": theta}
    gemma_folder = "gemma-scope-2-1b-pt/transcoder_all/layer_7_width_16k_l0_big_affine"
    gated = _saelens(draw, _nested("gated"), b_gate=draw(F), b_mag=draw(F), r_mag=0.3 * draw(F))
    del gated.tensors["b_enc"]
    interrupted = _learning(draw, "BatchTopKSAE", k=torch.tensor(K), threshold=torch.tensor(0.8))
    llama = {
        "hook_point_in": "blocks.8.hook_resid_post", "hook_point_out": "blocks.8.hook_resid_post", "d_model": D,
        "d_sae": F, "act_fn": "jumprelu", "jump_relu_threshold": 0.4, "norm_activation": "dataset-wise", "top_k": 50,
        "use_decoder_bias": True, "dataset_average_activation_norm": {"in": 2.0, "out": 2.0},
    }  # fmt: skip
    openai = {"pre_bias": draw(D), "latent_bias": draw(F), "encoder.weight": draw(F, D), "decoder.weight": draw(D, F)}
    goodfire = {
        "encoder_linear.weight": draw(F, D), "encoder_linear.bias": draw(F),
        "decoder_linear.weight": draw(D, F), "decoder_linear.bias": draw(D),
    }  # fmt: skip
    tracer = "model_name: m\nfeature_input_hook: mlp.hook_in\nfeature_output_hook: hook_mlp_out\nactivation: relu\n"
    sparsify = {"encoder.weight": draw(F, D), "encoder.bias": draw(F), "W_dec": draw(F, D), "b_dec": draw(D)}
    return {
        "saelens-flat-topk": _saelens(draw, _flat("topk", activation_fn_kwargs={"k": K})),
        "saelens-jumprelu": _saelens(draw, _nested("jumprelu", rescale_acts_by_decoder_norm=True), threshold=theta),
        "saelens-gated": gated,
        "saelens-skip": _saelens(draw, _nested("skip_transcoder", d_out=D), W_skip=draw(D, D)),
        "directions": Sample(
            {
                "null/directions.json": {
                    "input_norm": "layer_norm", "center_input": False, "hook": "model.layers.2", "prepend_bos": True,
                    "matched": list(range(F)),
                },
                "null/directions.safetensors": {"directions": draw(F, D), "threshold": draw(F)},
            },
            "null",
            "null/directions.safetensors",
        ),
        "sparsify": Sample(
            {
                "run/config.json": {"model": "m", "ctx_len": 2048, "dataset": "pile"},
                "run/layers.3/cfg.json": {
                    "d_in": D, "num_latents": F, "expansion_factor": 4, "k": K, "activation": "groupmax",
                    "signed": False, "transcode": False, "skip_connection": False,
                },
                "run/layers.3/sae.safetensors": sparsify,
            },
            "run/layers.3",
            "run/layers.3/sae.safetensors",
        ),
        "dictionary_learning-topk": _learning(draw, "AutoEncoderTopK", k=torch.tensor(K), threshold=torch.tensor(0.8)),
        "dictionary_learning-interrupted": Sample(
            {
                "sae/config.json": interrupted.files["sae/config.json"],
                "sae/ae.pt": {"step": 3, "ae": interrupted.files["sae/ae.pt"], "norm_factor": torch.tensor(2.5)},
            },
            "sae",
            "sae/ae.pt",
            "ae",
        ),
        "gemma_scope_1": Sample(
            {"layer_2/width_16k/average_l0_82/params.npz": _plain(draw) | {"threshold": theta}},
            "layer_2/width_16k/average_l0_82",
            "layer_2/width_16k/average_l0_82/params.npz",
        ),
        "gemma_scope_2": Sample(
            {
                f"{gemma_folder}/config.json": {
                    "architecture": "jump_relu", "l0": 120, "model_name": "g", "affine_connection": True,
                    "type": "transcoder", "hf_hook_point_in": "a.output", "hf_hook_point_out": "b.output",
                },
                f"{gemma_folder}/params.safetensors": gemma | {"affine_skip_connection": draw(D, D)},
            },
            gemma_folder,
            f"{gemma_folder}/params.safetensors",
        ),
        "llama_scope": Sample(
            {"l8r/hyperparams.json": llama, "l8r/checkpoints/final.safetensors": _linear(draw, "decoder.bias")},
            "l8r",
            "l8r/checkpoints/final.safetensors",
        ),
        "openai": Sample(
            {"resid_post_mlp/6.pt": openai | {"activation": "TopK", "activation_state_dict": {"k": K}}},
            "resid_post_mlp/6.pt",
            "resid_post_mlp/6.pt",
        ),
        "qwen_scope": Sample(
            {
                "repo/config.json": {"base_model": "Qwen/Qwen3-8B-Base", "k": K, "hook_point": "resid_post"},
                "repo/layer9.sae.pt": _plain(draw, flipped=True),
            },
            "repo/layer9.sae.pt",
            "repo/layer9.sae.pt",
        ),
        "goodfire": Sample({"m-SAE-l19.pth": goodfire}, "m-SAE-l19.pth", "m-SAE-l19.pth"),
        "circuit_tracer": Sample(
            {"set/config.yaml": tracer, "set/layer_1.safetensors": _plain(draw) | {"W_enc": draw(F, D)}},
            "set/layer_1.safetensors",
            "set/layer_1.safetensors",
        ),
        "circuit_tracer_clt": Sample(
            {
                "clt/config.yaml": tracer,
                "clt/W_dec_1.safetensors": {"W_dec_1": draw(F, 2, D)},
                "clt/W_enc_1.safetensors": {"W_enc_1": draw(F, D), "b_enc_1": draw(F), "threshold_1": theta},
            },
            "clt",
            "clt/W_enc_1.safetensors",
        ),
    }  # fmt: skip
