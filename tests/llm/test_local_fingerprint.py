"""Which weights a name stands for: by the folder's files, by the commit, by the note in the run's folder."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from autointerp.errors import DataError, UserError
from autointerp.llm.local import fingerprint as module
from autointerp.llm.local.fingerprint import Weights, fingerprint, identify

COMMIT = "c" * 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(100))
    (folder / "README.md").write_text("about")
    return folder


def test_every_file_counts_that_changes_an_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {fingerprint(folder)}
    (folder / "README.md").write_text("other")
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    assert fingerprint(folder) in seen
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"):
        (folder / name).write_text("changed")
        seen.add(fingerprint(folder))
    assert len(seen) == 5
    (folder / "tokenizer.json").rename(folder / "vocab.json")
    assert fingerprint(folder) not in seen


def test_large_files_are_sampled_everywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WHOLE", 1000)
    monkeypatch.setattr(module, "_STRIDE", 500)
    monkeypatch.setattr(module, "_BLOCK", 100)
    weights = folder / "model.safetensors"
    weights.write_bytes(bytes(1800))
    before = fingerprint(folder)
    for offset, seen in ((0, True), (499, True), (500, True), (599, True), (700, False), (1599, True), (1700, False)):
        changed = bytearray(1800)
        changed[offset] = 1
        weights.write_bytes(changed)
        assert (fingerprint(folder) != before) is seen, offset
    weights.write_bytes(bytes(1801))
    assert fingerprint(folder) != before


def test_a_folder_that_is_gone_is_known_by_its_note(folder: Path, tmp_path: Path) -> None:
    state, name = tmp_path / "run", str(folder)
    first = identify(name, state)
    assert first == Weights(name, None, f"files:{fingerprint(folder)}")
    (folder / "config.json").write_text('{"changed": 1}')
    changed = identify(name, state)
    assert changed != first and json.loads((state / "transformers.json").read_text()) == {name: changed.fingerprint}
    folder.rename(tmp_path / "moved")
    assert identify(name, state) == changed
    with pytest.raises(UserError, match="there is no such folder, and it is not a hub id"):
        identify(name, None)
    (state / "transformers.json").write_text("[")
    with pytest.raises(DataError, match=r"transformers\.json: not a JSON object"):
        identify(name, state)


def test_a_hub_id_stays_at_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def model_info(self: object, repository: str, revision: str | None = None, timeout: float = 0) -> SimpleNamespace:
        asked.append((repository, revision))
        return SimpleNamespace(sha=COMMIT)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    pinned = Weights("org/small", COMMIT, f"commit:{COMMIT}")
    assert identify("org/small", tmp_path) == identify("org/small", tmp_path) == pinned
    assert identify("org/small@v2", tmp_path) == pinned
    assert asked == [("org/small", None), ("org/small", "v2")]


def test_a_hub_id_in_this_machines_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "models--org--small" / "snapshots" / COMMIT / "config.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    refs = tmp_path / "models--org--small" / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert identify("org/small", None) == Weights("org/small", COMMIT, f"commit:{COMMIT}")


def test_neither_cache_nor_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="org/nowhere: not found on this machine, and the Hugging Face hub") as caught:
        identify("org/nowhere", None)
    assert "\n" not in str(caught.value)
    for wrong in ("./nowhere", f"a{os.sep}b{os.sep}c"):
        with pytest.raises(UserError, match="there is no such folder"):
            identify(wrong, None)
