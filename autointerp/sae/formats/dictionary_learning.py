"""dictionary_learning: `ae.pt`, a state_dict, with `config.json` beside it. The class decides what the tensors compute.

An interrupted run leaves {step, ae, optimizer, config, norm_factor} in ae.pt: the weights are then those of inputs
divided by norm_factor, and the biases are scaled as the library does at the end of a run.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from autointerp.errors import DataError
from autointerp.sae import SAEFormat, sae_formats
from autointerp.sae.canonical import SAE, Activation
from autointerp.sae.configs import some
from autointerp.sae.files import Config, Weights, peek_keys, read_config, read_weights, single_file, the_file

_LINEAR = {"encoder.weight", "decoder.weight"}
# The classes that their tensors give away, for folders without a config. The two TopK classes have the same ones.
_BY_KEYS: dict[str, set[str]] = {
    "GatedAutoEncoder": {*_LINEAR, "decoder_bias", "r_mag", "gate_bias", "mag_bias"},
    "MatryoshkaBatchTopKSAE": {"W_enc", "W_dec", "b_enc", "b_dec", "threshold", "group_sizes"},
    "JumpReluAutoEncoder": {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"},
    "AutoEncoderNew": {*_LINEAR, "encoder.bias", "decoder.bias"},
    "AutoEncoder": {*_LINEAR, "encoder.bias", "bias"},
}
_TOPK_KEYS = {*_LINEAR, "encoder.bias", "b_dec", "k"}
_SITES = {
    "resid_post": "hook_resid_post", "resid_pre": "hook_resid_pre", "mlp_out": "hook_mlp_out",
    "attention_out": "hook_attn_out", "attn_out": "hook_attn_out",
}  # fmt: skip


def _detect(path: Path) -> bool:
    if (path / "ae.pt").is_file() or (path.name == "ae.pt" and path.is_file()):
        return True
    found = single_file(path, ".pt")
    if found is None:
        return False
    keys = peek_keys(found)
    return keys >= {"ae", "norm_factor"} or keys >= _TOPK_KEYS or any(keys >= needed for needed in _BY_KEYS.values())


def _load(path: Path) -> SAE:
    file = path / "ae.pt" if (path / "ae.pt").is_file() else the_file(path, ".pt")
    weights = read_weights(file)
    norm_factor = 1.0
    if "ae" in weights:
        norm_factor = _norm_factor(weights)
        weights = weights.section("ae")
    config = _config(file.parent)
    name = config.section("trainer").text("dict_class") or _class_by_keys(weights)
    if name not in _READERS:
        raise DataError(f"{config.path}: dict_class is {name!r}, expected one of {', '.join(_READERS)}")
    return _READERS[name](weights, norm_factor, _origin(config))


def _config(folder: Path) -> Config:
    """config.json lies beside ae.pt, or one folder up from a checkpoint."""
    for place in (folder, folder.parent):
        if (place / "config.json").is_file():
            return read_config(place / "config.json")
    return Config(folder / "config.json", {})


def _norm_factor(weights: Weights) -> float:
    if "norm_factor" not in weights or weights.raw("norm_factor") is None:
        return 1.0  # the run did not normalise its inputs
    factor = weights.number("norm_factor")
    if factor <= 0:
        raise DataError(f"{weights.path}: norm_factor is {factor}, expected a positive number")
    return factor


def _class_by_keys(weights: Weights) -> str:
    keys = set(weights.keys())
    for name, needed in _BY_KEYS.items():
        if keys >= needed:
            return name
    raise DataError(
        f"{weights.path}: no config.json beside it names the dict_class of its trainer, and the tensors "
        f"({some(weights.keys())}) do not tell the class (AutoEncoderTopK and BatchTopKSAE have the same): put the run's "
        "config.json beside the file"
    )


def _origin(config: Config) -> dict[str, Any]:
    """Where the SAE reads and what it was trained on."""
    trainer, buffer = config.section("trainer"), config.section("buffer")
    hook = _hook(trainer, buffer.text("io") or "out")
    return {
        "l0_expected": trainer.optional_number("k") or trainer.optional_number("target_l0"),
        "hook_in": hook,
        "hook_out": hook,
        "context_size": buffer.optional_integer("ctx_len"),
        "model_name": trainer.note("lm_name"),
    }


def _hook(trainer: Config, io: str) -> str | None:
    """`submodule_name` is a site and a layer ("resid_post_layer_2") or the path of a module."""
    name, layer = trainer.text("submodule_name"), trainer.optional_integer("layer")
    if name is None:
        return None
    site = name.removesuffix(f"_layer_{layer}")
    if layer is not None and site in _SITES:
        return f"blocks.{layer}.{_SITES[site]}"
    return f"{name}:in" if io == "in" and "." in name else name


def _linear(weights: Weights, b_dec: str, b_enc: str = "encoder.bias") -> dict[str, Any]:
    """The classes that keep nn.Linear modules: encoder.weight [d_sae, d], decoder.weight [d, d_sae]."""
    bias, bias_dec = weights.vector(b_enc), weights.vector(b_dec)
    return {
        "encoder": weights.matrix("encoder.weight", len(bias), len(bias_dec)),
        "decoder": weights.matrix("decoder.weight", len(bias), len(bias_dec), transposed=True),
        "b_enc": bias,
        "b_dec": bias_dec,
    }


def _plain(weights: Weights) -> dict[str, Any]:
    """The classes that keep bare parameters: W_enc [d, d_sae], W_dec [d_sae, d]."""
    bias, bias_dec = weights.vector("b_enc"), weights.vector("b_dec")
    return {
        "encoder": weights.matrix("W_enc", len(bias), len(bias_dec), transposed=True),
        "decoder": weights.matrix("W_dec", len(bias), len(bias_dec)),
        "b_enc": bias,
        "b_dec": bias_dec,
    }


def _scaled(tensors: dict[str, Any], factor: float) -> dict[str, Any]:
    """Undo the division of the inputs: u / factor before, f / factor after, is the same as biases times factor."""
    return {key: value if key in ("encoder", "decoder", "r_mag") else value * factor for key, value in tensors.items()}


def _auto_encoder(weights: Weights, factor: float, origin: dict[str, Any]) -> SAE:
    return SAE(activation="relu", subtract_b_dec=True, **_scaled(_linear(weights, "bias"), factor), **origin)


def _auto_encoder_new(weights: Weights, factor: float, origin: dict[str, Any]) -> SAE:
    return SAE(activation="relu", **_scaled(_linear(weights, "decoder.bias"), factor), **origin)


def _gated(weights: Weights, factor: float, origin: dict[str, Any]) -> SAE:
    tensors = _linear(weights, "decoder_bias", "gate_bias")
    d_sae = len(tensors["b_enc"])
    tensors |= {"r_mag": weights.vector("r_mag", d_sae), "b_mag": weights.vector("mag_bias", d_sae)}
    return SAE(activation="gated", subtract_b_dec=True, **_scaled(tensors, factor), **origin)


def _top_k(weights: Weights, factor: float, origin: dict[str, Any]) -> SAE:
    # The class also keeps a threshold, which its encode uses only when asked to.
    tensors = _scaled(_linear(weights, "b_dec"), factor)
    k = weights.integer("k")
    return SAE(activation="topk", k=k, subtract_b_dec=True, **tensors, **(origin | {"l0_expected": k}))


def _batch_top_k(weights: Weights, factor: float, origin: dict[str, Any]) -> SAE:
    return _by_threshold(weights, _linear(weights, "b_dec"), factor, origin, subtract_b_dec=True)


def _matryoshka(weights: Weights, factor: float, origin: dict[str, Any]) -> SAE:
    return _by_threshold(weights, _plain(weights), factor, origin, subtract_b_dec=True)


def _jump_relu(weights: Weights, factor: float, origin: dict[str, Any]) -> SAE:
    return _by_threshold(weights, _plain(weights), factor, origin, subtract_b_dec=False)


def _by_threshold(
    weights: Weights, tensors: dict[str, Any], factor: float, origin: dict[str, Any], *, subtract_b_dec: bool
) -> SAE:
    threshold = weights.per_feature("threshold", len(tensors["b_enc"]))
    activation: Activation = "jumprelu"
    if bool((threshold < 0).all()):
        activation = "relu"  # -1: the training ended before a threshold was set
    else:
        tensors["threshold"] = threshold
    if "k" in weights:
        origin = origin | {"l0_expected": weights.integer("k")}
    return SAE(activation=activation, subtract_b_dec=subtract_b_dec, **_scaled(tensors, factor), **origin)


_READERS: dict[str, Callable[[Weights, float, dict[str, Any]], SAE]] = {
    "AutoEncoder": _auto_encoder,
    "AutoEncoderNew": _auto_encoder_new,
    "GatedAutoEncoder": _gated,
    "AutoEncoderTopK": _top_k,
    "BatchTopKSAE": _batch_top_k,
    "MatryoshkaBatchTopKSAE": _matryoshka,
    "JumpReluAutoEncoder": _jump_relu,
}

sae_formats.register("dictionary_learning")(SAEFormat("a folder with ae.pt and config.json", _detect, _load))
