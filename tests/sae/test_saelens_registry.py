"""`saelens:release/id`: SAELens' registry, laid out as the package has it; the package itself is never imported."""

import importlib.util
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from autointerp.errors import DataError, UserError
from autointerp.sae import load, load_sae, saelens_registry
from autointerp.sae.hub import HubId
from autointerp.sae.saelens_registry import find

D, F = 6, 24
Draw = Callable[..., Tensor]
Write = Callable[[str, Any], Path]

REGISTRY = """\
gpt2-small-res-jb:
  conversion_func: null
  config_overrides:
    model_from_pretrained_kwargs:
      center_writing_weights: true
  links:
    model: https://huggingface.co/gpt2
  model: gpt2-small
  repo_id: someone/gpt2-saes
  saes:
  - id: blocks.8.hook_resid_pre
    neuronpedia: gpt2-small/8-res-jb
    path: blocks.8.hook_resid_pre
    variance_explained: 0.99
    l0: 68.0
  - id: blocks.9.hook_resid_pre
    path: blocks.9.hook_resid_pre
gpt2-small-mlp-tm:
  conversion_func: null
  model: gpt2-small
  repo_id: someone/mlp-saes
  saes:
    - id: blocks.0.hook_mlp_out
      norm_scaling_factor: 2.5
      path: sae_group_gpt2_blocks.0.hook_mlp_out_24576:v1
mistral-7b-res-wg:
  conversion_func: null
  config_overrides:
    normalize_activations: constant_norm_rescale
  model: mistral-7b
  repo_id: someone/mistral
  saes:
  - id: blocks.8.hook_resid_pre
    path: mistral_7b_layer_8
deepseek-r1-distill:
  conversion_func: deepseek_r1
  model: deepseek-ai/DeepSeek-R1-Distill-Llama-8B
  repo_id: someone/deepseek
  saes:
  - id: blocks.19.hook_resid_post
    path: DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt
some-clt:
  conversion_func: mntss_clt_layer_transcoder
  model: gemma-2-2b
  repo_id: someone/clt
  saes:
  - id: layer_3
    path: 3
temporal-sae:
  conversion_func: temporal
  model: gemma-2-2b
  repo_id: someone/temporal
  saes:
  - id: blocks.12.hook_resid_post
    path: a/b
broken:
  conversion_func: null
  model: m
  saes:
  - id: x
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that fails when it is imported."""
    folder = tmp_path / "site" / "sae_lens"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('the package was imported')\n")
    (folder / "pretrained_saes.yaml").write_text(REGISTRY)
    monkeypatch.syspath_prepend(folder.parent)
    return folder


@pytest.fixture
def hub(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub that is a local folder: REPO/PATH."""
    monkeypatch.setattr(load, "download", lambda where: tmp_path / "hub" / where.repo / where.inside)
    return tmp_path / "hub"


def weights(draw: Draw) -> dict[str, Tensor]:
    return {"W_enc": draw(D, F), "b_enc": draw(F), "W_dec": draw(F, D), "b_dec": draw(D)}


def cfg(**options: Any) -> dict[str, Any]:
    return {"architecture": "standard", "d_in": D, "d_sae": F, "activation_fn_str": "relu"} | options


def pre(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    return (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]


@pytest.mark.parametrize(
    ("text", "where", "scale", "hook"),
    [
        (
            "gpt2-small-res-jb/blocks.8.hook_resid_pre",
            HubId("someone/gpt2-saes", "blocks.8.hook_resid_pre", None),
            None,
            "blocks.8.hook_resid_pre",
        ),
        (
            "gpt2-small-mlp-tm/blocks.0.hook_mlp_out",
            HubId("someone/mlp-saes", "sae_group_gpt2_blocks.0.hook_mlp_out_24576:v1", None),
            2.5,
            "blocks.0.hook_mlp_out",
        ),
        ("some-clt/layer_3", HubId("someone/clt", "W_enc_3.safetensors", None), None, None),
    ],
)
def test_find(text: str, where: HubId, scale: float | None, hook: str | None, package: Path) -> None:
    found = find(f"saelens:{text}")
    assert (found.where, found.input_scale, found.hook) == (where, scale, hook)
    assert "sae_lens" not in sys.modules


def test_the_registrys_centring_is_applied(hub: Path, write: Write, draw: Draw) -> None:
    """The published config of gpt2-small-res-jb does not say that the model's writing weights were centred."""
    w, x = weights(draw), draw(9, D)
    folder = "hub/someone/gpt2-saes/blocks.8.hook_resid_pre"
    write(f"{folder}/cfg.json", cfg(hook_name="blocks.8.hook_resid_pre", model_name="gpt2-small"))
    path = write(f"{folder}/sae_weights.safetensors", w).parent
    sae = load_sae("saelens:gpt2-small-res-jb/blocks.8.hook_resid_pre")
    centred = x - x.mean(1, keepdim=True)
    assert torch.allclose(sae.encode(x), pre(centred, w).relu(), atol=1e-5)
    assert (sae.source, sae.format) == ("saelens:gpt2-small-res-jb/blocks.8.hook_resid_pre", "saelens")
    assert not load_sae(path).center_input


def test_the_registrys_scale_is_applied_where_no_file_has_one(hub: Path, write: Write, draw: Draw) -> None:
    w, x = weights(draw), draw(9, D)
    folder = "hub/someone/mlp-saes/sae_group_gpt2_blocks.0.hook_mlp_out_24576:v1"
    write(f"{folder}/cfg.json", cfg(normalize_activations=True, hook_name="blocks.0.hook_mlp_out"))
    write(f"{folder}/sae_weights.safetensors", w)
    sae = load_sae("saelens:gpt2-small-mlp-tm/blocks.0.hook_mlp_out")
    f = pre(2.5 * x, w).relu()
    assert torch.allclose(sae.encode(x), f, atol=1e-5)
    assert torch.allclose(sae.decode(f), (f @ w["W_dec"] + w["b_dec"]) / 2.5, atol=1e-4)
    write(f"{folder}/activation_scaler.json", {"scaling_factor": 4.0})
    sae = load_sae("saelens:gpt2-small-mlp-tm/blocks.0.hook_mlp_out")
    assert torch.allclose(sae.encode(x), pre(4.0 * x, w).relu(), atol=1e-5)  # the SAE's own file wins


@pytest.mark.parametrize("metadata", [False, True])
def test_an_override_replaces_the_configs_setting(metadata: bool, hub: Path, write: Write, draw: Draw) -> None:
    w, x = weights(draw), draw(9, D)
    folder = "hub/someone/mistral/mistral_7b_layer_8"
    settings = cfg(normalize_activations="none", model_name="mistral")
    write(f"{folder}/cfg.json", settings | ({"metadata": {"model_name": "mistral"}} if metadata else {}))
    write(f"{folder}/sae_weights.safetensors", w)
    sae = load_sae("saelens:mistral-7b-res-wg/blocks.8.hook_resid_pre")
    rescaled = x * D**0.5 / x.norm(dim=1, keepdim=True)
    assert torch.allclose(sae.encode(x), pre(rescaled, w).relu(), atol=1e-5)
    # The config names no hook: the registry's id is one. It does name the model.
    assert (sae.hook_in, sae.hook_out, sae.model_name) == (*["blocks.8.hook_resid_pre"] * 2, "mistral")


def test_another_formats_files_are_read_by_that_format(hub: Path, write: Write, draw: Draw) -> None:
    w = {"encoder.weight": draw(F, D), "encoder.bias": draw(F), "decoder.weight": draw(D, F), "decoder.bias": draw(D)}
    write("hub/someone/deepseek/DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt", w)
    sae, x = load_sae("saelens:deepseek-r1-distill/blocks.19.hook_resid_post"), draw(9, D)
    assert torch.allclose(sae.encode(x), (x @ w["encoder.weight"].T + w["encoder.bias"]).relu(), atol=1e-5)
    assert (sae.hook_in, sae.model_name) == ("blocks.19.hook_resid_post", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("gpt2-smal-res-jb/x", UserError, r"has no release 'gpt2-smal-res-jb'; the nearest are gpt2-small-res-jb"),
        ("", UserError, r"has no release ''; it has broken, .*\(7 in all\)"),
        (
            "gpt2-small-res-jb/blocks.7.hook_resid_pre",
            UserError,
            r"the release gpt2-small-res-jb has no SAE 'blocks.7.hook_resid_pre'; the nearest are blocks.[89]",
        ),
        ("gpt2-small-res-jb", UserError, r"has no SAE ''; it has blocks.8.hook_resid_pre, blocks.9"),
        ("temporal-sae/blocks.12.hook_resid_post", UserError, "converts this release by 'temporal', which is not read"),
        ("broken/x", DataError, r"pretrained_saes\.yaml: broken: cannot be read: 'repo_id'"),
    ],
)
def test_what_is_not_there(text: str, error: type[Exception], message: str, package: Path) -> None:
    with pytest.raises(error, match=message) as caught:
        load_sae(f"saelens:{text}")
    assert "\n" not in str(caught.value)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not installed: pip install 'autointerp\[saelens\]'"):
        load_sae("saelens:gpt2-small-res-jb/blocks.8.hook_resid_pre")


def test_the_extra_that_is_asked_for_is_there() -> None:
    root = Path(__file__).resolve().parents[2]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(one.startswith("sae-lens") for one in extras["saelens"])
    assert saelens_registry._INSTALL in (root / "docs" / "sae-formats.md").read_text()


def test_a_version_without_the_file(package: Path) -> None:
    (package / "pretrained_saes.yaml").unlink()
    with pytest.raises(UserError, match="this version of sae-lens keeps no registry there"):
        load_sae("saelens:gpt2-small-res-jb/blocks.8.hook_resid_pre")


def test_the_real_registry() -> None:
    if importlib.util.find_spec("sae_lens") is None:
        pytest.skip("sae-lens is not installed")
    begun = time.perf_counter()
    found = find("saelens:gpt2-small-res-jb/blocks.8.hook_resid_pre")
    assert time.perf_counter() - begun < 1.0
    assert found.where == HubId("jbloom/GPT2-Small-SAEs-Reformatted", "blocks.8.hook_resid_pre", None)
    assert found.overrides == {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    path = saelens_registry._registry()
    assert len(saelens_registry._blocks(path)) > 100
    for release in ("gemma-scope-2b-pt-res-canonical", "llama_scope_lxr_8x", "gpt2-small-mlp-tm"):
        assert saelens_registry._release(path, release)["saes"]
    assert "sae_lens" not in sys.modules
