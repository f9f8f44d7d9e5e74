"""What is in files: copies are the same, and what was changed is noticed."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from autointerp.errors import DataError
from autointerp.harvest import identity
from autointerp.harvest.identity import contents


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "model"
    (found / "inner").mkdir(parents=True)
    (found / "config.json").write_text("{}")
    (found / "inner" / "weights.bin").write_bytes(bytes(100))
    return found


def test_copies_times_and_hidden_files(folder: Path, tmp_path: Path) -> None:
    first = contents(folder)
    (folder / "inner" / "above").symlink_to(folder)
    assert contents(folder) == first  # and it comes to an end
    (folder / "inner" / "above").unlink()
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    os.utime(copy / "config.json", ns=(1, 1))
    (copy / ".git").mkdir()
    (copy / ".git" / "HEAD").write_text("anything")
    (copy / ".DS_Store").write_text("anything")
    assert contents(copy) == first and len(first) == 32
    assert contents(tmp_path / "nowhere") == contents(Path("0-99,100")) == contents(Path("0," * 5000)) == ""
    file = tmp_path / "a.txt"
    file.write_text("x")
    renamed = tmp_path / "b.txt"
    renamed.write_text("x")
    assert contents(file) == contents(renamed) != ""


def test_links_are_followed_and_loops_are_not(folder: Path, tmp_path: Path) -> None:
    first, elsewhere = contents(folder), tmp_path / "elsewhere"
    shutil.move(folder / "inner", elsewhere)
    (folder / "inner").symlink_to(elsewhere)
    assert contents(folder) == first
    for name in ("here", "there"):  # two such double what is found with every level
        (elsewhere / name).symlink_to(folder)
        (folder / name).symlink_to(elsewhere / name)
    (folder / "broken").symlink_to(tmp_path / "nowhere")
    assert contents(folder) == first and contents(Path("a\0b")) == ""


@pytest.mark.parametrize("change", ["content", "name", "size", "further", "less"])
def test_every_change_counts(folder: Path, change: str) -> None:
    first, weights = contents(folder), folder / "inner" / "weights.bin"
    if change == "content":
        weights.write_bytes(bytes(99) + b"1")
    elif change == "name":
        weights.rename(folder / "inner" / "other.bin")
    elif change == "size":
        weights.write_bytes(bytes(101))
    elif change == "further":
        (folder / "tokenizer.json").write_text("{}")
    else:
        weights.unlink()
    assert contents(folder) != first


def test_large_files_are_sampled_everywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WHOLE", 1000), ("SMALL", 200), ("_STRIDE", 500), ("_BLOCK", 100)):
        monkeypatch.setattr(identity, name, value)
    large = folder / "large.bin"
    large.write_bytes(bytes(1800))
    first = contents(folder)
    for offset, seen in ((0, True), (199, True), (300, False), (500, True), (599, True), (700, False), (1799, True)):
        changed = bytearray(1800)
        changed[offset] = 1
        large.write_bytes(changed)
        assert (contents(folder) != first) is seen, offset
    large.write_bytes(bytes(1800))
    (folder / "config.json").write_text("[]")  # what is little is read whole
    assert contents(folder) != first


def test_every_tensor_of_safetensors_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WHOLE", 1000), ("SMALL", 512), ("_STRIDE", 1 << 20), ("_BLOCK", 128)):
        monkeypatch.setattr(identity, name, value)
    path = tmp_path / "sae.safetensors"

    def save(**changed: float) -> str:
        tensors = {f"t{number}": np.zeros(100 if number % 2 else 4000, np.float32) for number in range(8)}
        for name, value in changed.items():
            tensors[name][-1 if len(tensors[name]) == 100 else 0] = value
        save_file(tensors, path)
        return contents(path)

    assert len({save(), *(save(**{f"t{number}": 1.0}) for number in range(8))}) == 9
    path.write_bytes(b"\xff" * 3000)  # no header: whoever loads it says so
    assert contents(path)


def test_what_cannot_be_read_is_not_taken_for_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", forbidden)
    with pytest.raises(DataError, match=r"model: cannot be read \(Permission denied\)"):
        contents(folder)
    assert contents(folder / "nothing") == contents(Path("x" * 5000)) == ""
