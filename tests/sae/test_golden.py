"""Every golden SAE, written by the library that people use, gives that library's own numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from autointerp.sae import load_sae

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "golden"
NAMES = sorted(path.parent.name for path in GOLDEN.glob("*/reference.json"))


def reference(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / name / "reference.json").read_text())
    return found


def test_golden_saes_are_there() -> None:
    if not GOLDEN.is_dir():
        pytest.skip("the folder shared/ is not beside the repository")
    assert len(NAMES) == 19


@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str) -> None:
    ref = reference(name)
    sae = load_sae(GOLDEN / name / ref["path"])
    tensors = load_file(GOLDEN / name / "reference.safetensors")
    x, f = tensors["x"], tensors["f"]
    tolerance = 1e-4 * max(1.0, float(f.max()))

    assert sae.format == ref["format"]
    assert (sae.d_in, sae.d_sae) == (ref["d_in"], ref["d_sae"])
    assert (sae.encode(x) - f).abs().max() < tolerance
    assert (sae.decode(f, x) - tensors["x_hat"]).abs().max() < tolerance

    sparse = sae.encode_sparse(x)
    dense = np.zeros(f.shape, np.float32)
    dense[sparse.row, sparse.feature] = sparse.value
    assert np.abs(dense - f.numpy()).max() < tolerance
    assert len(sparse) == int((f != 0).sum())
    assert (sae.decode_sparse(sparse, len(x), x) - tensors["x_hat"]).abs().max() < tolerance


@pytest.mark.parametrize("name", NAMES)
def test_golden_expected_l0_passes_the_gate(name: str) -> None:
    ref = reference(name)
    sae = load_sae(GOLDEN / name / ref["path"])
    if sae.l0_expected is not None:
        assert 0.5 < ref["l0"] / sae.l0_expected < 1.5


@pytest.mark.parametrize(
    ("name", "inside"),
    [("saelens-topk", "sae/sae_weights.safetensors"), ("gemma-scope-2", "sae")],
)
def test_the_path_may_be_a_file_of_the_folder_and_a_folder_above_is_explained(name: str, inside: str) -> None:
    if not GOLDEN.is_dir():
        pytest.skip("the folder shared/ is not beside the repository")
    path = GOLDEN / name / inside
    if path.is_file():
        assert load_sae(path).k == 16
    else:
        with pytest.raises(Exception, match=r"holds some: give one of .*layer_2_width_1k_l0_small"):
            load_sae(path)
