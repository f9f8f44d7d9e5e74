"""circuit-tracer's cross-layer transcoders, one layer at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from autointerp.errors import DataError, UserError
from autointerp.sae import load_sae
from autointerp.sae.hub import HubId, choose_files

D, F = 6, 24
Draw = Callable[..., Tensor]
Write = Callable[[str, Any], Path]
CONFIG = "model_name: google/gemma-2-2b\nfeature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\n"


def layer(n: int, draw: Draw, write: Write, *, threshold: bool = False, later: int = 3) -> dict[str, Tensor]:
    w = {f"W_enc_{n}": draw(F, D), f"b_enc_{n}": draw(F), f"b_dec_{n}": draw(D)}
    if threshold:
        w[f"threshold_{n}"] = draw(F).abs()
    decoder = draw(F, later, D)
    write("clt/config.yaml", CONFIG)
    write(f"clt/W_enc_{n}.safetensors", w)
    write(f"clt/W_dec_{n}.safetensors", {f"W_dec_{n}": decoder})
    return w | {"decoder": decoder}


@pytest.mark.parametrize("threshold", [False, True])
def test_one_layer(threshold: bool, draw: Draw, write: Write, tmp_path: Path) -> None:
    layer(1, draw, write)
    w, x = layer(2, draw, write, threshold=threshold), draw(9, D)
    sae = load_sae(tmp_path / "clt" / "W_enc_2.safetensors")
    p = x @ w["W_enc_2"].T + w["b_enc_2"]
    assert torch.allclose(sae.encode(x), p.relu() * (p > (w["threshold_2"] if threshold else 0)), atol=1e-5)
    assert torch.allclose(sae.W_dec, w["decoder"].sum(1), atol=1e-5)
    assert (sae.hook_in, sae.hook_out, sae.transcoder) == ("blocks.2.hook_resid_mid", None, True)
    assert (sae.format, sae.model_name) == ("circuit_tracer_clt", "google/gemma-2-2b")


def test_the_only_layer_of_a_folder_and_a_folder_of_several(draw: Draw, write: Write, tmp_path: Path) -> None:
    layer(1, draw, write)
    assert load_sae(tmp_path / "clt").hook_in == "blocks.1.hook_resid_mid"
    layer(2, draw, write)
    with pytest.raises(UserError, match=r"holds some: give one of .*W_enc_1\.safetensors, .*W_enc_2\.safetensors$"):
        load_sae(tmp_path / "clt")


def test_a_decoder_that_is_missing_or_something_else(draw: Draw, write: Write, tmp_path: Path) -> None:
    layer(1, draw, write)
    decoder = tmp_path / "clt" / "W_dec_1.safetensors"
    for content, message in (
        ({"W_dec_1": draw(F, D)}, r"W_dec_1 has shape \[24, 6\], expected three dimensions"),
        ({"W_dec_1": draw(F, 2, D + 1)}, r"W_dec_1 has shape \[24, 7\], expected \[24, 6\]"),
        ({"W_dec_1": torch.full((F, 2, D), torch.nan)}, "W_dec_1 has 144 values that are NaN"),
        ({"W_dec": draw(F, 2, D)}, "has no key 'W_dec_1'"),
    ):
        write("clt/W_dec_1.safetensors", content)
        with pytest.raises(DataError, match=message):
            load_sae(tmp_path / "clt")
    decoder.unlink()
    with pytest.raises(DataError, match=r"W_dec_1\.safetensors: there is no such file, expected this layer's decoder"):
        load_sae(tmp_path / "clt")


def test_both_files_are_downloaded() -> None:
    files = [f"W_{kind}_{n}.safetensors" for kind in ("enc", "dec") for n in range(3)] + ["config.yaml"]
    chosen = choose_files(HubId("org/clt", "W_enc_1.safetensors", None), files)
    assert chosen == ["W_dec_1.safetensors", "W_enc_1.safetensors", "config.yaml"]
    with pytest.raises(UserError, match=r"holds 3 SAEs; add one to the id: W_enc_0\.safetensors"):
        choose_files(HubId("org/clt", "", None), files)
