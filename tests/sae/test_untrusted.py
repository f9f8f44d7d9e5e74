"""Hostile and broken files of every format: one line that names the file, or the right SAE; never anything else."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from autointerp.errors import DataError, UserError
from autointerp.sae import SAE, load_sae, sae_formats
from tests.sae.samples import D, Draw, F, Sample, samples

Write = Callable[[str, Any], Path]
NAMES = sorted(samples(lambda *shape: torch.zeros(*shape)))
NO_NUMBER = ["nonsense", [], {}, True, float("nan"), float("inf"), -1, [[[[[[1]]]]]]]
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def sample(request: pytest.FixtureRequest, draw: Draw) -> Sample:
    return samples(draw)[request.param]


def put(files: Mapping[str, Any], write: Write) -> None:
    for name, content in files.items():
        write(name, content)


def same(sae: SAE, other: SAE, x: Tensor) -> bool:
    return torch.equal(sae.encode(x), other.encode(x))


def complaint(path: Path) -> str | None:
    """What is said of an SAE that is refused; None for one that loads."""
    try:
        load_sae(path)
    except UserError as error:
        assert "\n" not in str(error)
        return str(error)
    return None


def settings(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in config.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from settings(value, (*path, key))


def setting(config: Any, where: tuple[str, ...]) -> Any:
    return setting(config[where[0]], where[1:]) if where else config


def changed(config: Any, where: tuple[str, ...], value: Any) -> Any:
    return config | {where[0]: changed(config[where[0]], where[1:], value) if len(where) > 1 else value}


def test_every_format_that_is_stored_has_a_sample() -> None:
    stored = set(sae_formats.names()) - {"neurons", "random"}
    assert {max((name for name in stored if one.startswith(name)), key=len) for one in NAMES} == stored


@pytest.mark.parametrize("sample", NAMES, indirect=True)
def test_a_setting_of_the_wrong_kind_is_named_or_without_effect(
    sample: Sample, write: Write, draw: Draw, tmp_path: Path
) -> None:
    put(sample.files, write)
    right, x, refused = load_sae(tmp_path / sample.path), draw(9, D), 0
    for file, config in sample.files.items():
        for where in settings(config) if file.endswith(".json") else ():
            meant = type(setting(config, where))
            for value in (one for one in NO_NUMBER if meant not in (bool, dict) or not isinstance(one, meant)):
                write(file, changed(config, where, value))
                said = complaint(tmp_path / sample.path)
                if said is None:
                    assert same(load_sae(tmp_path / sample.path), right, x), (file, where, value)
                else:
                    refused += 1
                    assert Path(file).name in said or sample.path in said, said
                    assert value == -1 or value is True or where[-1] in said, said
        write(file, config)
    assert refused or not any(name.endswith(".json") for name in sample.files)


@pytest.mark.parametrize("sample", NAMES, indirect=True)
def test_a_tensor_of_the_wrong_kind_is_named_or_without_effect(
    sample: Sample, write: Write, draw: Draw, tmp_path: Path
) -> None:
    put(sample.files, write)
    right, x = load_sae(tmp_path / sample.path), draw(9, D)
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "int8": lambda t: t.to(torch.int8),
        "bool": lambda t: t > 0,
        "nan": lambda t: t * torch.nan,
        "inf": lambda t: t / 0,
        "empty": lambda t: t[:0] if t.ndim else t.reshape(1)[:0],
        "one more dimension": lambda t: t[None] if t.numel() > 1 else t.repeat(2),
        "one row more": lambda t: torch.cat([t, t[:1]]) if t.ndim else t.repeat(3),
    }
    tensors = {key: t for key, t in sample.tensors.items() if isinstance(t, Tensor) and t.is_floating_point()}
    for key, tensor in tensors.items():
        for kind, change in changes.items():
            bad = {key: change(tensor)}
            put(sample.with_tensors(lambda all, bad=bad: all | bad), write)
            said = complaint(tmp_path / sample.path)
            if said is None:
                assert same(load_sae(tmp_path / sample.path), right, x), (key, kind)
                assert key == "threshold", key  # AutoEncoderTopK has one that its encode does not use
            else:
                assert Path(sample.weights).name in said and ("expected" in said or "no numbers" in said), said


@pytest.mark.parametrize("sample", NAMES, indirect=True)
def test_a_tensor_that_is_missing(sample: Sample, write: Write, draw: Draw, tmp_path: Path) -> None:
    put(sample.files, write)
    right, x = load_sae(tmp_path / sample.path), draw(9, D)
    for key in sample.tensors:
        if key in ("threshold", "threshold_1", "activation"):
            continue  # the class of the SAE may depend on it: looked at one by one elsewhere
        put(sample.with_tensors(lambda all, key=key: {one: t for one, t in all.items() if one != key}), write)
        said = complaint(tmp_path / sample.path)
        if said is None:
            assert key == "k" and same(
                load_sae(tmp_path / sample.path), right, x
            )  # BatchTopK's, whose threshold counts
        else:
            assert any(part in said for part in (f"no key '{key}'", "fits no SAE format", "do not tell the class")), (
                said
            )


@pytest.mark.parametrize("sample", NAMES, indirect=True)
def test_every_cut_of_the_weights_is_refused(sample: Sample, write: Write, tmp_path: Path) -> None:
    put(sample.files, write)
    path = tmp_path / sample.weights
    whole = path.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        said = complaint(tmp_path / sample.path)
        assert said is not None and path.name in said, length


@pytest.mark.parametrize("sample", ["saelens-flat-topk", "gemma_scope_1", "dictionary_learning-topk"], indirect=True)
def test_a_flipped_byte_is_never_a_traceback(sample: Sample, write: Write, tmp_path: Path) -> None:
    """safetensors, npz and pt: 120 places each. A flip inside a number cannot be seen, all others can."""
    put(sample.files, write)
    path = tmp_path / sample.weights
    whole = path.read_bytes()
    refused = 0
    for place in np.random.default_rng(0).integers(0, len(whole), 60).tolist() + list(range(60)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        refused += complaint(tmp_path / sample.path) is not None
    assert refused > 20


# --- safetensors ---------------------------------------------------------------------------------------------------


@pytest.fixture
def saelens(write: Write, draw: Draw) -> Callable[[Any], Path]:
    """The weight file of an SAE whose tensors are given, or its bytes."""
    write("sae/cfg.json", {"d_in": D, "d_sae": F, "architecture": "standard"})

    def put_weights(content: Any) -> Path:
        if isinstance(content, bytes):
            path = write("sae/sae_weights.safetensors", {"x": torch.zeros(1)})
            path.write_bytes(content)
            return path
        return write("sae/sae_weights.safetensors", content)

    return put_weights


def plain(draw: Draw) -> dict[str, Tensor]:
    return {"W_enc": draw(D, F), "b_enc": draw(F), "W_dec": draw(F, D), "b_dec": draw(D)}


def header(entries: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 8,
        header({"W_enc": entry([2], 0, 8)}, b"\x00" * 8, length=1 << 60),  # a header longer than the file
        header({"W_enc": entry([2], 0, 8)}, b"\x00" * 8, length=3),
        header({"W_enc": entry([1 << 40, 1 << 40], 0, 8)}, b"\x00" * 8),  # a shape that its data cannot fill
        header({"W_enc": entry([1 << 62, 8], 0, 8)}, b"\x00" * 8),
        header({"W_enc": entry([2], 0, 1 << 50)}, b"\x00" * 8),
        header({"W_enc": entry([2], 8, 0)}, b"\x00" * 8),
        header({"W_enc": entry([2], 0, 8), "b": entry([2], 0, 8)}, b"\x00" * 8),  # two tensors in one place
        header({"W_enc": entry([-2], 0, 8)}, b"\x00" * 8),
        header({"W_enc": entry([2], 0, 8, "F33")}, b"\x00" * 8),
        header([1]),
        struct.pack("<Q", len(DEEP)) + DEEP.encode(),
        b"\xff" * 64,
    ],
)
def test_safetensors_headers(content: bytes, saelens: Callable[[Any], Path]) -> None:
    path = saelens(content)
    said = complaint(path.parent)
    assert said is not None and said.startswith(f"{path}: ") and "key" not in said


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "bool", "complex64"])
def test_weights_that_are_not_floating_point(dtype: str, saelens: Callable[[Any], Path], draw: Draw) -> None:
    path = saelens(plain(draw) | {"W_enc": draw(D, F).to(getattr(torch, dtype))})
    assert complaint(path.parent) == (
        f"{path}: W_enc has dtype torch.{dtype}, expected floating-point numbers "
        "(weights that were quantised to integers are not read)"
    )


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_the_files_dtype_changes_nothing_but_the_rounding(dtype: str, suffix: str, write: Write, draw: Draw) -> None:
    """Exactly the file's numbers, in float32."""
    w = {key: t.to(getattr(torch, dtype)) for key, t in plain(draw).items()}
    if suffix == "safetensors":
        write("sae/cfg.json", {"d_in": D, "d_sae": F})
        sae = load_sae(write("sae/sae_weights.safetensors", w).parent)
    else:
        write("config.json", {"k": 3})
        sae = load_sae(write("layer0.sae.pt", {"W_enc": w["W_enc"].T, "W_dec": w["W_dec"].T, **_biases(w)}))
    assert sae.W_enc.dtype == torch.float32
    for key, found in (("W_enc", sae.W_enc), ("W_dec", sae.W_dec), ("b_enc", sae.b_enc), ("b_dec", sae.b_dec)):
        assert torch.equal(found.double(), w[key].float().double())


def _biases(w: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"b_enc": w["b_enc"], "b_dec": w["b_dec"]}


def test_a_float64_beyond_float32_is_not_finite(saelens: Callable[[Any], Path], draw: Draw) -> None:
    path = saelens(plain(draw) | {"b_enc": torch.full((F,), 1e300, dtype=torch.float64)})
    assert "b_enc has 24 values that are NaN or infinite" in str(complaint(path.parent))


def test_names_of_tensors_cannot_break_the_line(saelens: Callable[[Any], Path], draw: Draw) -> None:
    path = saelens({"evil\nname": draw(1)})
    assert complaint(path.parent) == f"{path}: has no key 'W_enc'; it has 'evil\\nname'"


# --- npz and pt ----------------------------------------------------------------------------------------------------


def npz(arrays: dict[str, bytes], path: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in arrays.items():
            archive.writestr(f"{name}.npy", content)
    return path


def npy(array: Any, **lies: Any) -> bytes:
    """The bytes of a .npy file, with a header that may lie."""
    stream = io.BytesIO()
    shown = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape} | lies
    np.lib.format.write_array_header_1_0(stream, shown)
    return stream.getvalue() + array.tobytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(np.zeros(4, np.float32), shape=(1 << 40, 1 << 20)), r"W_enc declares the shape .* but holds 16"),
        (
            npy(np.zeros(4, np.float32), shape=(3,)),
            r"W_enc declares the shape \[3\] of float32, 12 bytes, but holds 16",
        ),
        (npy(np.array(["a", "b"])), "W_enc has dtype <U1, expected numbers"),
        (npy(np.zeros(2, [("a", "f4")])), r"W_enc has dtype \[\('a', '<f4'\)\], expected numbers"),
        (b"\x93NUMPY\x09\x00", "is not a whole npz file"),
        (b"not an array", "is not a whole npz file"),
        (b"", "is not a whole npz file"),
        (npy(np.zeros(4), descr="O"), "holds pickled Python objects"),
        (npy(np.zeros(4), descr="__import__('os')"), "is not a whole npz file"),
    ],
)
def test_npz_headers(content: bytes, message: str, tmp_path: Path) -> None:
    path = npz({"W_enc": content}, tmp_path / "sae" / "params.npz")
    with pytest.raises(DataError, match=message) as caught:
        load_sae(path.parent)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_an_npz_made_to_fill_the_memory(tmp_path: Path) -> None:
    bomb = npy(np.zeros(1 << 22, np.float32))
    path = npz({"W_enc": bomb}, tmp_path / "sae" / "params.npz", zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 18
    said = str(complaint(path.parent))
    assert said.startswith(f"{path}: unpacks to {len(bomb)} bytes from {path.stat().st_size}, expected weights")


def test_compressed_and_foreign_npz_are_read(tmp_path: Path, draw: Draw) -> None:
    arrays = {key: t.numpy() for key, t in (plain(draw) | {"threshold": draw(F).abs()}).items()}
    np.savez(tmp_path / "params.npz", **arrays)
    right, x = load_sae(tmp_path), draw(9, D)
    np.savez_compressed(tmp_path / "params.npz", **arrays)
    assert same(load_sae(tmp_path), right, x)
    np.savez(tmp_path / "params.npz", **{key: array.astype(">f4") for key, array in arrays.items()})
    assert same(load_sae(tmp_path), right, x)
    np.savez(tmp_path / "params.npz", **{key: np.asfortranarray(array) for key, array in arrays.items()})
    assert same(load_sae(tmp_path), right, x)


def test_a_pt_made_to_fill_the_memory(write: Write, draw: Draw, tmp_path: Path) -> None:
    path = write("sae/ae.pt", {"encoder.weight": torch.zeros(1 << 18)})
    with zipfile.ZipFile(path) as whole:
        content = {info.filename: whole.read(info) for info in whole.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as squeezed:
        for name, one in content.items():
            squeezed.writestr(name, one)
    assert f"{path}: unpacks to " in str(complaint(path))


@pytest.mark.parametrize(
    ("key", "tensor", "message"),
    [
        ("W_enc", torch.zeros(1).expand(F, D), r"W_enc declares the shape \[24, 6\], 576 bytes, but holds 4"),
        ("W_enc", torch.zeros(1).expand(1 << 30, 1 << 10), "W_enc declares the shape"),
        ("W_enc", torch.eye(D).to_sparse(), "W_enc is a sparse, quantised or empty-handed tensor"),
        ("W_enc", torch.zeros(F, D, device="meta"), "W_enc is a sparse, quantised or empty-handed tensor"),
        ("W_enc", {"nested": 1}, "W_enc is a dict, expected a tensor"),
        ("W_enc", [1.0, 2.0], "W_enc is a list, expected a tensor"),
        ("W_enc", None, "W_enc is a NoneType, expected a tensor"),
    ],
)
def test_what_a_pt_may_hold_in_place_of_a_tensor(
    key: str, tensor: Any, message: str, write: Write, draw: Draw, tmp_path: Path
) -> None:
    w = {"W_enc": draw(F, D), "W_dec": draw(D, F), "b_enc": draw(F), "b_dec": draw(D)}
    write("sae/config.json", {"k": 3})
    path = write("sae/layer0.sae.pt", w | {key: tensor})
    with pytest.raises(DataError, match=message):
        load_sae(path)


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 0, -2.0, "two", torch.zeros(2), [1], True])
def test_a_norm_factor_that_is_none(factor: Any, write: Write, draw: Draw, tmp_path: Path) -> None:
    sample = samples(draw)["dictionary_learning-interrupted"]
    put(sample.files | {sample.weights: sample.files[sample.weights] | {"norm_factor": factor}}, write)
    assert "ae.pt: norm_factor is " in str(complaint(tmp_path / sample.path))


# --- configs and links ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"d_in": 6, "d_sae": 24, "d_in": 7}', "is not a valid JSON file: the key 'd_in' is there twice"),
        ('{"d_in": 6, "metadata": {"a": 1, "a": 2}}', "the key 'a' is there twice"),
        ('{"d_in": NaN, "d_sae": 24}', "d_in is nan, expected a whole number"),
        ('{"d_in": 1e999, "d_sae": 24}', "d_in is inf, expected a whole number"),
        ('{"d_in": 6.5, "d_sae": 24}', "d_in is 6.5, expected a whole number"),
        ('{"d_in": true, "d_sae": 24}', "d_in is True, expected a whole number"),
        ('{"d_in": ' + DEEP + "}", "cfg.json: "),
        ('{"d_in": "' + "x" * 10_000 + '"}', "d_in is 'xx"),
        ('{"d_in": 1' + "0" * 400 + "}", "d_in is 10"),
        (
            '{"d_in": 6, "d_sae": 24, "apply_b_dec_to_input": "false"}',
            "apply_b_dec_to_input is 'false', expected true or",
        ),
        ('{"d_in": 6, "d_sae": 24, "architecture": ["standard"]}', "architecture is .'standard'., expected one of"),
        ("null", "holds a NoneType, expected an object"),
        ("", "is not a valid JSON file"),
        ("\x00\x01", "is not a valid JSON file"),
    ],
)
def test_configs(text: str, message: str, saelens: Callable[[Any], Path], draw: Draw) -> None:
    path = saelens(plain(draw)).with_name("cfg.json")
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        load_sae(path.parent)
    said = str(caught.value)
    assert said.startswith(f"{path}: ") and "\n" not in said and len(said) < len(str(path)) + 400


def test_a_config_in_another_encoding(saelens: Callable[[Any], Path], draw: Draw) -> None:
    path = saelens(plain(draw)).with_name("cfg.json")
    text = path.read_text()
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())  # as some editors write it
    assert load_sae(path.parent).d_sae == F
    path.write_bytes(text.encode("utf-16"))
    assert f"{path}: is not a valid JSON file" in str(complaint(path.parent))


def test_a_config_of_gigabytes_is_not_read(saelens: Callable[[Any], Path], draw: Draw) -> None:
    path = saelens(plain(draw)).with_name("cfg.json")
    with path.open("r+b") as opened:
        opened.truncate(1 << 33)  # sparse: no disk is used
    assert f"{path}: has {1 << 33} bytes, expected a config" in str(complaint(path.parent))


@pytest.mark.parametrize(
    "text", ["a: 1\na: 2\n", "a: [\n", "a: !!python/object/apply:os.system ['true']\n", "[" * 2000]
)
def test_yaml(text: str, write: Write, draw: Draw, tmp_path: Path) -> None:
    put(samples(draw)["circuit_tracer"].files, write)
    path = write("set/config.yaml", text)
    assert str(complaint(tmp_path / "set" / "layer_1.safetensors")).startswith(
        f"{path}: is ne" if "[[" in text else f"{path}: is not a valid YAML"
    )


def test_links(saelens: Callable[[Any], Path], draw: Draw, tmp_path: Path) -> None:
    """The hub's cache is made of links to files outside: they are followed. A link to nothing is a missing file."""
    path = saelens(plain(draw))
    right, x = load_sae(path.parent), draw(9, D)
    path.rename(tmp_path / "blob")
    path.symlink_to(tmp_path / "blob")
    assert same(load_sae(path.parent), right, x)
    config = path.with_name("cfg.json")
    config.rename(tmp_path / "config")
    (tmp_path / "secret").write_text("secret words\n" * 3)
    config.symlink_to(tmp_path / "secret")
    said = str(complaint(path.parent))
    assert said.startswith(f"{config}: is not a valid JSON file") and "secret words" not in said
    for target in (tmp_path / "nowhere", config):  # nothing, and itself
        config.unlink()
        config.symlink_to(target)
        assert "cfg.json: there is no such file" in _load_as(path.parent, "saelens")


def _load_as(path: Path, name: str) -> str:
    with pytest.raises(DataError) as caught:
        load_sae(path, format=name)
    return str(caught.value)


def test_what_is_neither_a_file_nor_a_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ae.pt")
    assert "fits no SAE format: found ae.pt" in str(complaint(tmp_path))
    assert "found ae.pt, which is neither a file nor a folder" in str(complaint(tmp_path / "ae.pt"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("content", [{"a": 1}, [1, 2], torch.nn.Linear(2, 3), {"w": np.zeros(3)}])
def test_pickles_that_torch_did_not_write(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "sae.pt"
    path.write_bytes(pickle.dumps(content))
    assert str(complaint(path)).startswith(f"{path}: holds pickled Python objects")


def test_a_folder_where_a_file_is_expected(saelens: Callable[[Any], Path], draw: Draw) -> None:
    path = saelens(plain(draw))
    path.unlink()
    path.mkdir()
    assert "sae_weights.safetensors: there is no such file" in _load_as(path.parent, "saelens")


def test_a_shared_tensor_is_not_a_lie(tmp_path: Path, draw: Draw) -> None:
    """Two names of one storage, and views into a larger one, are all there."""
    both = draw(2, F, D)
    path = tmp_path / "layer0.sae.pt"
    torch.save({"W_enc": both[0], "W_dec": both[1].T, "b_enc": draw(F), "b_dec": draw(D)}, path)
    (tmp_path / "config.json").write_text('{"k": 3}')
    assert torch.equal(load_sae(path).W_enc, both[0].T)


def test_all_the_libraries_own_metadata_is_ignored(saelens: Callable[[Any], Path], draw: Draw) -> None:
    path = saelens(plain(draw))
    save_file(plain(draw), path, metadata={"format": "pt", "d_in": "7"})
    assert load_sae(path.parent).d_in == D
