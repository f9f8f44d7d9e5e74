"""Files that are not what they should be: one line that names the file, the key, what was found and what was
expected."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autointerp.errors import DataError, UserError
from autointerp.sae import load_sae, sae_formats

D, F = 6, 24
Draw = Callable[..., Tensor]
Write = Callable[[str, Any], Path]
CFG = {"d_in": D, "d_sae": F, "architecture": "standard"}


class Exploit:
    """A pickle that would write a file when read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def weights(draw: Draw) -> dict[str, Tensor]:
    return {"W_enc": draw(D, F), "b_enc": draw(F), "W_dec": draw(F, D), "b_dec": draw(D)}


@pytest.fixture
def saelens(write: Write) -> Callable[[dict[str, Tensor]], Path]:
    write("sae/cfg.json", CFG)
    return lambda tensors: write("sae/sae_weights.safetensors", tensors)


def message(path: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_sae(path, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_missing_key(saelens: Callable[..., Path], draw: Draw) -> None:
    tensors = weights(draw)
    del tensors["b_dec"]
    path = saelens(tensors)
    assert message(path) == f"{path}: has no key 'b_dec'; it has W_dec, W_enc, b_enc"


@pytest.mark.parametrize(
    ("key", "shape", "expected"),
    [
        ("W_enc", (D + 1, F), "[6, 24] or its transpose"),
        ("W_dec", (D, F, 1), "[24, 6] or its transpose"),
        ("b_enc", (F - 1,), "[24]"),
        ("b_dec", (D, 1), "[6]"),
    ],
)
def test_wrong_shape(key: str, shape: tuple[int, ...], expected: str, saelens: Callable[..., Path], draw: Draw) -> None:
    path = saelens(weights(draw) | {key: draw(*shape)})
    assert message(path) == f"{path}: {key} has shape {list(shape)}, expected {expected}"


@pytest.mark.parametrize("key", ["W_enc", "b_enc", "W_dec", "b_dec"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(key: str, value: float, saelens: Callable[..., Path], draw: Draw) -> None:
    tensors = weights(draw)
    tensors[key].view(-1)[:2] = value
    path = saelens(tensors)
    assert message(path) == f"{path}: {key} has 2 values that are NaN or infinite, expected finite numbers"


def test_a_transposed_matrix_is_turned_by_its_shape(saelens: Callable[..., Path], draw: Draw) -> None:
    tensors, x = weights(draw), draw(9, D)
    right = load_sae(saelens(tensors)).encode(x)
    assert torch.equal(load_sae(saelens(tensors | {"W_enc": tensors["W_enc"].T})).encode(x), right)


def test_a_square_matrix_is_read_by_the_convention(write: Write, draw: Draw) -> None:
    w = {"encoder.weight": draw(D, D), "encoder.bias": draw(D), "W_dec": draw(D, D), "b_dec": draw(D)}
    write("layers.1/cfg.json", {"d_in": D, "num_latents": D, "k": D})
    sae = load_sae(write("layers.1/sae.safetensors", w).parent)
    assert torch.equal(sae.W_enc, w["encoder.weight"].T)


def test_truncated_safetensors(saelens: Callable[..., Path], draw: Draw) -> None:
    path = saelens(weights(draw))
    path.write_bytes(path.read_bytes()[:-100])
    text = message(path)
    assert text.startswith(f"{path}: is not a whole safetensors file") and "download or copy it again" in text


@pytest.mark.parametrize("name", ["sae/ae.pt", "sae/model.pt"])
def test_a_pickle_is_refused_and_not_run(name: str, write: Write, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    path = write(name, {"encoder.weight": Exploit(mark)})
    text = message(path)
    assert text.startswith(f"{path}: holds pickled Python objects, expected a dictionary of tensors: it was not read")
    path.write_bytes(pickle.dumps(Exploit(mark), protocol=2))
    assert str(path) in message(path)
    assert not mark.exists()


def test_truncated_pt(write: Write, draw: Draw) -> None:
    path = write("sae/ae.pt", {"encoder.weight": draw(F, D)})
    path.write_bytes(path.read_bytes()[:-200])
    assert f"{path}: is not a whole pt file" in message(path)


def test_a_pt_that_is_no_dictionary(write: Write, draw: Draw) -> None:
    path = write("sae/ae.pt", draw(3))
    assert message(path) == f"{path}: holds a Tensor, expected a dictionary of tensors"


def test_npz_with_objects_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.npz"
    np.savez(path, W_enc=np.array([{"a": 1}], dtype=object))
    assert message(tmp_path) == f"{path}: W_enc holds pickled Python objects, expected numbers: it was not read"


def test_truncated_npz(write: Write, tmp_path: Path, draw: Draw) -> None:
    path = write("params.npz", weights(draw))
    path.write_bytes(path.read_bytes()[:500])
    assert f"{path}: is not a whole npz file" in message(tmp_path)


def test_broken_configs(saelens: Callable[..., Path], write: Write, draw: Draw) -> None:
    saelens(weights(draw))
    path = write("sae/cfg.json", CFG)
    path.write_text('{"d_in": 6,')
    assert f"{path}: is not a valid JSON file" in message(path.parent)
    path.write_text("[1]")
    assert message(path.parent) == f"{path}: holds a list, expected an object"
    path.write_text(json.dumps(CFG | {"metadata": 3}))
    assert message(path.parent) == f"{path}: metadata is a int, expected an object"


def test_a_text_where_a_tensor_is_expected(write: Write, draw: Draw) -> None:
    path = write("1.pt", {"pre_bias": draw(D), "latent_bias": "none", "encoder.weight": draw(F, D)})
    assert message(path) == f"{path}: latent_bias is a str, expected a tensor"


def test_unknown_folder_lists_what_is_there_and_what_is_known(write: Write, tmp_path: Path) -> None:
    write("notes.txt", "hello")
    (tmp_path / "deep").mkdir()
    text = message(tmp_path)
    assert "found deep/, notes.txt" in text
    for name in sae_formats.names():
        assert f"{name}: " in text
    assert "an empty folder" in message(tmp_path / "deep")
    assert "the file notes.txt" in message(tmp_path / "notes.txt")


def test_a_folder_of_saes_names_them(write: Write, draw: Draw, tmp_path: Path) -> None:
    for layer in (1, 10):
        write(f"run/layers.{layer}/cfg.json", {"d_in": D, "num_latents": F, "k": 2})
        write(f"run/layers.{layer}/sae.safetensors", {})
    text = message(tmp_path)
    assert "is not an SAE itself" in text and "layers.1," in text and "layers.10" in text


def test_several_formats_at_once(saelens: Callable[..., Path], write: Write, draw: Draw) -> None:
    path = saelens(weights(draw)).parent
    write("sae/sae.safetensors", {})
    assert "fits several SAE formats (saelens, sparsify): name one with format" in message(path)
    assert load_sae(path, format="saelens").format == "saelens"


def test_a_format_that_is_named_but_not_there(saelens: Callable[..., Path], draw: Draw) -> None:
    path = saelens(weights(draw)).parent
    assert "hyperparams.json: there is no such file" in message(path, format="llama_scope")
    assert "expected one .pt file there, found cfg.json, sae_weights.safetensors" in message(path, format="openai")
    assert "no sae_format is named 'nope'" in message(path, format="nope")


def test_a_contradiction_is_blamed_on_the_files(write: Write, draw: Draw) -> None:
    write("layers.1/cfg.json", {"d_in": D, "num_latents": F, "k": 5, "activation": "groupmax"})
    tensors = {"encoder.weight": draw(F, D), "encoder.bias": draw(F), "W_dec": draw(F, D), "b_dec": draw(D)}
    path = write("layers.1/sae.safetensors", tensors).parent
    message = r"not a sound sparsify SAE: groupmax needs d_sae \(24\) to be a multiple of k \(5\)"
    with pytest.raises(DataError, match=message):
        load_sae(path)


def test_a_plugin_can_add_a_format(monkeypatch: pytest.MonkeyPatch, write: Write, draw: Draw) -> None:
    from autointerp.sae import SAE, SAEFormat

    path = write("sae/weights.safetensors", weights(draw))

    def load(folder: Path) -> SAE:
        return SAE(activation="relu", encoder=None, decoder=None, b_enc=torch.zeros(4), b_dec=torch.zeros(4))

    sae_formats.names()
    monkeypatch.setitem(sae_formats._parts, "mine", SAEFormat("mine", lambda p: (p / path.name).is_file(), load))
    sae = load_sae(path.parent)
    assert (sae.format, sae.source, sae.d_in) == ("mine", str(path.parent), 4)


def test_the_format_of_the_documentation_works(write: Write, draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/sae-formats.md: the example is run as it stands."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "sae-formats.md").read_text()
    example = text.split("## Adding a format")[1].split("```python\n")[1].split("```")[0]
    sae_formats.names()
    monkeypatch.setattr(sae_formats, "_parts", dict(sae_formats._parts))
    exec(compile(example, "docs/sae-formats.md", "exec"), {})
    w = {"bias": draw(F), "mean": draw(D), "encode": draw(D, F), "decode": draw(F, D)}
    sae, x = load_sae(write("mine/dictionary.safetensors", w).parent), draw(9, D)
    assert sae.format == "mine"
    assert torch.allclose(sae.encode(x), ((x - w["mean"]) @ w["encode"] + w["bias"]).relu(), atol=1e-5)


def test_every_format_is_documented() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "sae-formats.md").read_text()
    for name in sae_formats.names():
        assert f"| `{name}` |" in text
