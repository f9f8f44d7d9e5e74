"""The language model under study: loading it, and checking that an SAE fits where it is to read."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autointerp.errors import UserError
from autointerp.subject.hookpoints import Hookpoint, Layout, capture

if TYPE_CHECKING:
    from autointerp.sae import SAE

_HUB_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")
_NORMALISED = re.compile(r"blocks\.(?P<layer>\d+)\.(?P<norm>ln1|ln2)\.hook_normalized")
_NORMS = {"ln1": ("input_layernorm",), "ln2": ("pre_feedforward_layernorm", "post_attention_layernorm")}


@dataclass(frozen=True, slots=True)
class Subject:
    """A model in evaluation mode with its tokenizer. `name` is what the user called it."""

    model: Any
    tokenizer: Any
    name: str
    device: str

    @property
    def dtype(self) -> str:
        """The type that the model runs in: float32, bfloat16 or float16."""
        return str(self.model.dtype).removeprefix("torch.")


def load_subject(
    path_or_hub_id: str, device: str = "auto", dtype: str = "auto", revision: str | None = None
) -> Subject:
    """Load a causal language model and its tokenizer from a local folder or the Hugging Face hub.

    `device` "auto" is the GPU if there is one; `dtype` "auto" is that of the checkpoint. Only safetensors weights are
    read, and no code from the repository is run. Raises UserError.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    path = Path(path_or_hub_id).expanduser()
    if not path.exists() and (_HUB_ID.fullmatch(path_or_hub_id) is None or path_or_hub_id.startswith(".")):
        raise UserError(f"{path_or_hub_id}: there is no such folder, and it is not a hub id (org/model)")
    source = str(path) if path.exists() else path_or_hub_id
    place = _device(device)
    options = {"revision": revision, "trust_remote_code": False}
    logging.disable_progress_bar()  # loading a model is not one of our stages
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=_dtype(dtype), use_safetensors=True, **options)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise UserError(_why(path_or_hub_id, path.exists(), error)) from error
    return Subject(model.to(place).eval().requires_grad_(False), tokenizer, path_or_hub_id, place)


def _device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device {device!r} cannot be used here ({_first_line(error)}): try cpu or auto") from error
    return device


def _dtype(dtype: str) -> Any:
    known = {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in known:
        raise UserError(f"dtype is {dtype!r}, expected one of {', '.join(known)}")
    return known[dtype]


def _why(name: str, local: bool, error: Exception) -> str:
    """One line on why a model could not be loaded."""
    text = str(error)
    if not local and re.search("connect|offline|internet|timed out|resolve|network", text, re.IGNORECASE):
        return (
            f"{name}: not found on this machine, and the Hugging Face hub cannot be reached; "
            "check the path, or download the model where there is a network and give its folder"
        )
    if "safetensors" in text and "file named" in text:
        return f"{name}: has no safetensors weights, and other files are not read: convert it to safetensors"
    return f"{name}: cannot be loaded as a causal language model with a tokenizer: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def check_fit(subject: Subject, sae: "SAE", hookpoint: Hookpoint) -> None:
    """Raise UserError unless the activations at `hookpoint` are as wide as the SAE's inputs.

    Widths are measured by running one token. The error names hookpoints near by whose width would fit.
    """
    width = _widths(subject, [hookpoint])[hookpoint]
    if width == sae.d_in:
        return
    fitting = [str(one) for one, found in _widths(subject, _near(subject, hookpoint)).items() if found == sae.d_in]
    advice = f"such as {', '.join(fitting[:4])}" if fitting else "but none of that layer's hookpoints has that width"
    raise UserError(
        f"the SAE reads {sae.d_in} numbers, and {hookpoint} of {subject.name} gives {width}: "
        f"name a hookpoint of width {sae.d_in}, {advice}, or another model"
    )


def _widths(subject: Subject, hookpoints: list[Hookpoint]) -> dict[Hookpoint, int]:
    token = torch.zeros((1, 1), dtype=torch.long, device=subject.device)
    return {one: tensor.shape[-1] for one, tensor in capture(subject.model, hookpoints, token).items()}


def _near(subject: Subject, hookpoint: Hookpoint) -> list[Hookpoint]:
    """The places that SAEs are trained on, in the hookpoint's block (or the first)."""
    layout = Layout(subject.model)
    if layout.blocks is None:
        return []
    found = re.match(re.escape(layout.blocks) + r"\.(\d+)", hookpoint.module)
    block = layout.block(int(found.group(1)) if found else 0)
    sites = [place for site, place in layout.sites(block).items() if site != "mlp.hook_pre"]
    near = (Hookpoint(f"{block}.{name}" if name else block, side) for name, side in sites)
    return sorted(set(near), key=lambda one: (len(one.module), one.side == "in"))


def absorb_norm_gain(subject: Subject, sae: "SAE") -> "SAE":
    """An SAE that reads a module's output, for one that reads TransformerLens' `ln2.hook_normalized`.

    Such SAEs (the transcoders of Gemma Scope and Llama Scope) were trained on h / rms(h), but an RMSNorm module gives
    h / rms(h) · g: the encoder's columns, and the skip connection's rows, are divided by g. Any other SAE is returned
    as it is. Raises UserError for models whose norm is not an RMSNorm.
    """
    found = _NORMALISED.fullmatch(sae.hook_in or "")
    if found is None:
        return sae
    layout = Layout(subject.model)
    block = layout.block(int(found["layer"]))
    paths = [f"{block}.{name}" for name in _NORMS[found["norm"]]]
    path = next((path for path in paths if path in layout.modules), None)
    if path is None or sae.encoder is None or sae.subtract_b_dec or sae.input_norm != "none":
        raise UserError(f"{sae.hook_in}: no norm module was found in {block}, or the SAE transforms its input as well")
    gain = _gain(path, layout.modules[path], sae.d_in).to(sae.device)
    skip = None if sae.skip is None else sae.skip / gain[:, None]
    return replace(sae, encoder=sae.encoder / gain, skip=skip, hook_in=f"{path}:out")


def _gain(path: str, norm: nn.Module, width: int) -> Tensor:
    """g of an RMSNorm, found by asking it: norm(v) = v / rms(v) · g, whether its weight is stored as g or as g - 1."""
    weight = next(norm.parameters(), torch.zeros(0))
    if weight.numel() != width:
        raise UserError(f"{path} has {weight.numel()} gains, and the SAE reads {width} numbers: another model is meant")
    ones = torch.full((1, 1, width), 1e3, device=weight.device, dtype=weight.dtype)
    probe = ones * torch.linspace(0.5, 2.0, width, device=weight.device).to(weight.dtype)
    with torch.inference_mode():
        gain: Tensor = norm(ones).float().flatten()
        expected = probe.float() / probe.float().square().mean().sqrt() * gain
        is_rms = torch.allclose(norm(probe).float(), expected, rtol=0.02, atol=1e-3)
    if not is_rms or bool((gain == 0).any()):
        raise UserError(f"{path} is not an RMSNorm with nonzero gains: its gain cannot be folded into the SAE")
    return gain.clone()
