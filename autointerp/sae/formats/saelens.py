"""SAELens, versions 3 to 6: a flat cfg.json until version 5, `metadata` and one architecture per class from version 6
on.

BatchTopK and Matryoshka SAEs are saved as JumpReLU; training checkpoints of theirs, which carry the scalar
`topk_threshold`, are read the same way. A checkpoint's `activation_scaler.json` is applied, which SAELens itself does
not.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autointerp.errors import DataError
from autointerp.sae import SAEFormat, sae_formats
from autointerp.sae.canonical import SAE, Activation, InputNorm
from autointerp.sae.configs import brief
from autointerp.sae.files import Config, Weights, read_config, read_weights
from autointerp.sae.fold import fold_decode_scale, fold_decoder_norm, fold_scales

_WEIGHTS = "sae_weights.safetensors"
_BATCH_TOPK = ("batchtopk", "matryoshka_batchtopk")
_SKIPPING = ("skip_transcoder", "jumprelu_skip_transcoder")
_TRANSCODERS = ("transcoder", "jumprelu_transcoder", *_SKIPPING)
_ACTIVATIONS: dict[str, Activation] = {
    "standard": "relu", "topk": "topk", "abstopk": "abstopk", "jumprelu": "jumprelu", "gated": "gated",
    "transcoder": "relu", "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu", "jumprelu_skip_transcoder": "jumprelu",
    "batchtopk": "jumprelu", "matryoshka_batchtopk": "jumprelu",
}  # fmt: skip
_NORMS: dict[str, InputNorm] = {
    "none": "none", "layer_norm": "layer_norm", "constant_norm_rescale": "constant_norm_rescale",
    "expected_average_only_in": "none",
}  # fmt: skip
# Models with LayerNorm, whose writing weights TransformerLens centres unless told not to.
_CENTRED_MODELS = ("gpt2", "pythia", "gelu-", "gpt-neo")
_CENTRED_SITES = ("hook_resid_", "hook_attn_out", "hook_mlp_out")


def _detect(path: Path) -> bool:
    return (path / "cfg.json").is_file() and (path / _WEIGHTS).is_file()


class _Settings:
    """cfg.json with the differences between versions smoothed out."""

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self.metadata = cfg.section("metadata")
        self.architecture = cfg.choice("architecture", "standard", sorted(_ACTIVATIONS))
        self.kwargs = cfg.section("activation_fn_kwargs")
        self.activation = self._activation(cfg.text("activation_fn_str") or cfg.text("activation_fn") or "relu")
        self.norm = self._norm()
        self.transcoder = self.architecture in _TRANSCODERS
        self.subtract_b_dec = not self.transcoder and cfg.flag("apply_b_dec_to_input", True)
        self.rescale = cfg.flag("rescale_acts_by_decoder_norm")
        if self.rescale and self.activation == "gated":
            raise cfg.wrong("rescale_acts_by_decoder_norm", "false with architecture gated")

    def _norm(self) -> str:
        """A boolean in old files."""
        if isinstance(self.cfg.values.get("normalize_activations"), bool):
            return "expected_average_only_in" if self.cfg.flag("normalize_activations") else "none"
        return self.cfg.choice("normalize_activations", "none", _NORMS)

    def _activation(self, function: str) -> Activation:
        activation = _ACTIVATIONS[self.architecture]
        if function == "relu" or activation in ("topk", "abstopk"):
            return activation
        if self.architecture == "standard" and function in ("topk", "tanh-relu"):
            return "topk" if function == "topk" else "tanh-relu"
        raise DataError(
            f"{self.cfg.path}: activation_fn_str is {brief(function)} with architecture {self.architecture!r}, "
            "expected relu, or tanh-relu or topk with architecture standard"
        )

    def place(self, *names: str) -> tuple[Config, str]:
        """Where the first of the names is set: in the metadata or, in old files, at the top."""
        return next(
            ((place, name) for name in names for place in (self.metadata, self.cfg) if place.has(name)),
            (self.cfg, names[0]),
        )

    def text(self, *names: str) -> str | None:
        place, name = self.place(*names)
        return place.text(name)

    @property
    def head(self) -> int | None:
        place, name = self.place("hook_head_index", "hook_point_head_index")
        return place.optional_integer(name)

    @property
    def prepend_bos(self) -> bool | None:
        """Files of before version 6 that don't say: yes."""
        place, name = self.place("prepend_bos")
        if place.has(name):
            return place.flag(name)
        return None if self.metadata.values else True

    @property
    def k(self) -> int | None:
        if self.activation not in ("topk", "abstopk"):
            return None
        return (self.kwargs if self.kwargs.has("k") else self.cfg).integer("k")

    @property
    def l0(self) -> float | None:
        # The metadata's own "l0" is a number from the middle of the training: it is not used.
        if self.activation in ("relu", "tanh-relu", "gated"):
            return None
        details = self.metadata.section("training_architecture_details")
        return self.k or self.cfg.optional_number("k") or details.optional_number("k")

    @property
    def centred(self) -> bool:
        """Were the writing weights of the model centred when its activations were read?

        Recent files say so. The oldest (those with `hook_point`) don't, and were trained on TransformerLens' default,
        which centres models with LayerNorm.
        """
        hook = self.text("hook_name", "hook_point") or ""
        if not any(site in hook for site in _CENTRED_SITES):
            return False
        place, name = self.place("model_from_pretrained_kwargs")
        if place.has(name):
            return place.section(name).flag("center_writing_weights")
        model = (self.text("model_name") or "").lower()
        return self.cfg.has("hook_point") and any(name in model for name in _CENTRED_MODELS)


def _load(path: Path) -> SAE:
    return load_folder(path)


def load_folder(path: Path, overrides: Mapping[str, Any] | None = None, input_scale: float | None = None) -> SAE:
    """The SAE in a folder. `overrides` are settings that replace the file's, `input_scale` is the factor on the inputs
    of an SAE that has one and no file that says it: SAELens' registry corrects published SAEs so."""
    settings = _Settings(_override(read_config(path / "cfg.json"), overrides or {}))
    weights = read_weights(path / _WEIGHTS)
    if settings.head is not None:
        raise DataError(
            f"{settings.cfg.path}: hook_head_index is {settings.head}: the SAE reads one attention head, "
            "expected one that reads all heads or another hookpoint: SAEs on a single head are not supported"
        )
    sae = _read(settings, weights)
    if settings.rescale:
        # The threshold of a BatchTopK checkpoint was learnt on the scaled activations.
        sae = fold_decoder_norm(sae, threshold_folded=settings.architecture in _BATCH_TOPK)
    if settings.norm == "expected_average_only_in":
        sae = fold_scales(sae, _input_scale(path, settings.cfg, input_scale))
    scale = _decode_scale(settings.cfg, weights, sae.d_sae)
    return sae if scale is None else fold_decode_scale(sae, scale)


def _override(cfg: Config, overrides: Mapping[str, Any]) -> Config:
    """The settings with others in their place, wherever they stand."""
    metadata = cfg.section("metadata").values
    changed = {**metadata, **{key: value for key, value in overrides.items() if key in metadata}}
    return Config(cfg.path, {**cfg.values, **overrides, **({"metadata": changed} if metadata else {})})


def _read(settings: _Settings, weights: Weights) -> SAE:
    cfg = settings.cfg
    d_in, d_sae = cfg.integer("d_in"), cfg.integer("d_sae")
    gated = settings.activation == "gated"
    d_out = (cfg.optional_integer("d_out") or d_in) if settings.transcoder else d_in
    hook_in = settings.text("hf_hook_name", "hook_name", "hook_point")
    hook_out = settings.text("hf_hook_name_out", "hook_name_out") if settings.transcoder else hook_in
    if settings.architecture in _SKIPPING and "W_skip" not in weights:
        raise DataError(f"{weights.path}: has no key 'W_skip', expected with architecture {settings.architecture!r}")
    context, dataset, model = (settings.place(name) for name in ("context_size", "dataset_path", "model_name"))
    return SAE(
        activation=settings.activation,
        encoder=weights.matrix("W_enc", d_sae, d_in, transposed=True),
        b_enc=weights.vector("b_gate" if gated else "b_enc", d_sae),
        decoder=weights.matrix("W_dec", d_sae, d_out),
        b_dec=weights.vector("b_dec", d_out),
        threshold=_threshold(weights, d_sae) if settings.activation == "jumprelu" else None,
        r_mag=weights.vector("r_mag", d_sae) if gated else None,
        b_mag=weights.vector("b_mag", d_sae) if gated else None,
        skip=weights.matrix("W_skip", d_in, d_out, transposed=True) if "W_skip" in weights else None,
        k=settings.k,
        subtract_b_dec=settings.subtract_b_dec,
        input_norm=_NORMS[settings.norm],
        center_input=settings.centred,
        transcoder=settings.transcoder,
        l0_expected=settings.l0,
        hook_in=hook_in,
        hook_out=hook_out,
        prepend_bos=settings.prepend_bos,
        context_size=context[0].optional_integer(context[1]),
        dataset=dataset[0].note(dataset[1]),
        model_name=model[0].note(model[1]),
    )


def _threshold(weights: Weights, d_sae: int) -> Tensor:
    if "log_threshold" in weights:
        return weights.per_feature("log_threshold", d_sae).exp()
    return weights.per_feature("topk_threshold" if "topk_threshold" in weights else "threshold", d_sae)


def _input_scale(path: Path, cfg: Config, registered: float | None) -> float:
    scaler = read_config(path / "activation_scaler.json", optional=True)
    if scaler.flag("has_whitening"):
        raise DataError(f"{scaler.path}: has_whitening is true: whitened inputs are not supported")
    scale = scaler.optional_number("scaling_factor") or registered
    if scale is None:
        raise DataError(
            f"{cfg.path}: normalize_activations is 'expected_average_only_in', but no file gives the scale: "
            f'write {{"scaling_factor": s}} to {scaler.path.name} beside it, s = sqrt(d_in) / mean norm of the inputs'
        )
    if scale <= 0:
        raise scaler.wrong("scaling_factor", "a positive number")
    return scale


def _decode_scale(cfg: Config, weights: Weights, d_sae: int) -> Tensor | None:
    """`finetuning_scaling_factor`: a factor on every feature, in the decode only."""
    name = "finetuning_scaling_factor" if "finetuning_scaling_factor" in weights else "scaling_factor"
    if name not in weights:
        return None
    scale = weights.vector(name, d_sae)
    if cfg.flag("finetuning_scaling_factor"):
        return scale
    if not torch.equal(scale, torch.ones_like(scale)):
        raise DataError(f"{weights.path}: {name} is not all ones, expected so as the config does not ask for it")
    return None


sae_formats.register("saelens")(SAEFormat(f"a folder with cfg.json and {_WEIGHTS}", _detect, _load))
