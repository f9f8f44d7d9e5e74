"""SAELens, versions 3 to 6: a flat cfg.json until version 5, `metadata` and one architecture per class from version 6
on.

BatchTopK and Matryoshka SAEs are saved as JumpReLU; training checkpoints of theirs, which carry the scalar
`topk_threshold`, are read the same way. A checkpoint's `activation_scaler.json` is applied, which SAELens itself does
not.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autointerp.errors import DataError
from autointerp.sae import SAEFormat, sae_formats
from autointerp.sae.canonical import SAE, Activation, InputNorm
from autointerp.sae.files import Config, Weights, read_config, read_weights
from autointerp.sae.fold import fold_decode_scale, fold_decoder_norm, fold_scales

_WEIGHTS = "sae_weights.safetensors"
_BATCH_TOPK = ("batchtopk", "matryoshka_batchtopk")
_TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
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
        self.architecture: str = cfg.get("architecture", "standard")
        self.kwargs = cfg.section("activation_fn_kwargs")
        function = cfg.get("activation_fn_str") or cfg.get("activation_fn") or "relu"
        self.activation = self._activation(function)
        norm = cfg.get("normalize_activations", "none")
        if isinstance(norm, bool):
            norm = "expected_average_only_in" if norm else "none"
        if norm not in _NORMS:
            raise DataError(f"{cfg.path}: normalize_activations is {norm!r}, expected one of {', '.join(_NORMS)}")
        self.norm: str = norm
        self.transcoder = self.architecture in _TRANSCODERS
        self.subtract_b_dec = not self.transcoder and bool(cfg.get("apply_b_dec_to_input", True))
        self.rescale = bool(cfg.get("rescale_acts_by_decoder_norm", False))

    def _activation(self, function: str) -> Activation:
        if self.architecture not in _ACTIVATIONS:
            known = ", ".join(sorted(_ACTIVATIONS))
            raise DataError(f"{self.cfg.path}: architecture is {self.architecture!r}, expected one of {known}")
        activation = _ACTIVATIONS[self.architecture]
        if function == "relu" or activation in ("topk", "abstopk"):
            return activation
        if self.architecture == "standard" and function in ("topk", "tanh-relu"):
            return "topk" if function == "topk" else "tanh-relu"
        raise DataError(
            f"{self.cfg.path}: activation_fn_str is {function!r} with architecture {self.architecture!r}, "
            "expected relu, or tanh-relu or topk with architecture standard"
        )

    def find(self, *names: str) -> Any:
        """The first of the names that is set, in the metadata or, in old files, at the top."""
        for name in names:
            for place in (self.metadata, self.cfg):
                if place.get(name) is not None:
                    return place.get(name)
        return None

    @property
    def k(self) -> int | None:
        if self.activation not in ("topk", "abstopk"):
            return None
        return (self.kwargs if "k" in self.kwargs.values else self.cfg).integer("k")

    @property
    def l0(self) -> float | None:
        # The metadata's own "l0" is a number from the middle of the training: it is not used.
        if self.activation in ("relu", "tanh-relu", "gated"):
            return None
        details = self.metadata.section("training_architecture_details")
        return self.k or self.cfg.get("k") or details.get("k")

    @property
    def centred(self) -> bool:
        """Were the writing weights of the model centred when its activations were read?

        Recent files say so. The oldest (those with `hook_point`) don't, and were trained on TransformerLens' default,
        which centres models with LayerNorm.
        """
        hook = self.find("hook_name", "hook_point") or ""
        if not any(site in hook for site in _CENTRED_SITES):
            return False
        kwargs = self.find("model_from_pretrained_kwargs")
        if isinstance(kwargs, dict):
            return bool(kwargs.get("center_writing_weights", False))
        model = str(self.find("model_name") or "").lower()
        return "hook_point" in self.cfg.values and any(name in model for name in _CENTRED_MODELS)


def _load(path: Path) -> SAE:
    settings = _Settings(read_config(path / "cfg.json"))
    weights = read_weights(path / _WEIGHTS)
    if settings.find("hook_head_index", "hook_point_head_index") is not None:
        raise DataError(f"{settings.cfg.path}: hook_head_index is set: an SAE on one attention head is not supported")
    sae = _read(settings, weights)
    if settings.rescale:
        # The threshold of a BatchTopK checkpoint was learnt on the scaled activations.
        sae = fold_decoder_norm(sae, threshold_folded=settings.architecture in _BATCH_TOPK)
    if settings.norm == "expected_average_only_in":
        sae = fold_scales(sae, _input_scale(path, settings.cfg))
    scale = _decode_scale(settings.cfg, weights, sae.d_sae)
    return sae if scale is None else fold_decode_scale(sae, scale)


def _read(settings: _Settings, weights: Weights) -> SAE:
    cfg = settings.cfg
    d_in, d_sae = cfg.integer("d_in"), cfg.integer("d_sae")
    gated = settings.activation == "gated"
    d_out = int(cfg.get("d_out", d_in)) if settings.transcoder else d_in
    hook_in = settings.find("hf_hook_name", "hook_name", "hook_point")
    hook_out = settings.find("hf_hook_name_out", "hook_name_out") if settings.transcoder else hook_in
    old = not settings.metadata.values
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
        prepend_bos=True if old and settings.find("prepend_bos") is None else settings.find("prepend_bos"),
        context_size=settings.find("context_size"),
        dataset=settings.find("dataset_path"),
        model_name=settings.find("model_name"),
    )


def _threshold(weights: Weights, d_sae: int) -> Tensor:
    if "log_threshold" in weights:
        return weights.per_feature("log_threshold", d_sae).exp()
    return weights.per_feature("topk_threshold" if "topk_threshold" in weights else "threshold", d_sae)


def _input_scale(path: Path, cfg: Config) -> float:
    scaler = read_config(path / "activation_scaler.json", optional=True)
    if scaler.get("has_whitening", False):
        raise DataError(f"{scaler.path}: has_whitening is true: whitened inputs are not supported")
    scale = scaler.get("scaling_factor")
    if not isinstance(scale, int | float) or scale <= 0:
        raise DataError(
            f"{cfg.path}: normalize_activations is 'expected_average_only_in', but no file gives the scale: "
            f'write {{"scaling_factor": s}} to {scaler.path.name} beside it, s = sqrt(d_in) / mean norm of the inputs'
        )
    return float(scale)


def _decode_scale(cfg: Config, weights: Weights, d_sae: int) -> Tensor | None:
    """`finetuning_scaling_factor`: a factor on every feature, in the decode only."""
    name = "finetuning_scaling_factor" if "finetuning_scaling_factor" in weights else "scaling_factor"
    if name not in weights:
        return None
    scale = weights.vector(name, d_sae)
    if cfg.get("finetuning_scaling_factor", False):
        return scale
    if not torch.equal(scale, torch.ones_like(scale)):
        raise DataError(f"{weights.path}: {name} is not all ones, expected so as the config does not ask for it")
    return None


sae_formats.register("saelens")(SAEFormat(f"a folder with cfg.json and {_WEIGHTS}", _detect, _load))
