"""Hub ids: how they are read, which files they mean, and what is said when the hub cannot be reached. No network."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from autointerp.errors import UserError
from autointerp.sae import load_sae
from autointerp.sae.hub import HubId, choose_files, locate, parse_hub_id


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/repo", HubId("org/repo", "", None)),
        ("org/repo@v1", HubId("org/repo", "", "v1")),
        ("org/repo/layers.3", HubId("org/repo", "layers.3", None)),
        ("org/repo/a/b_c/layer9.sae.pt@refs/pr/1", HubId("org/repo", "a/b_c/layer9.sae.pt", "refs/pr/1")),
        ("org/repo@v1/a/b", HubId("org/repo", "a/b", "v1")),
        ("org/repo/", HubId("org/repo", "", None)),
        ("repo", None),
        ("./org/repo", None),
        ("/org/repo", None),
        ("~/org/repo", None),
        ("org/repo/../x", None),
        ("org/re po", None),
        ("org/repo@a/b@c", None),
    ],
)
def test_parse(text: str, expected: HubId | None) -> None:
    assert parse_hub_id(text) == expected


GEMMA = [f"layer_{i}/width_16k/average_l0_{j}/params.npz" for i in range(26) for j in (20, 80)] + ["README.md"]
QWEN = [f"layer{i}.sae.pt" for i in range(36)] + ["config.json", "README.md", ".gitattributes"]
SPARSIFY = ["config.json", *(f"layers.{i}/{name}" for i in (1, 10) for name in ("cfg.json", "sae.safetensors"))]
_RUN = ("ae.pt", "config.json", "checkpoints/ae_100.pt", "checkpoints/ae_200.pt")
LEARNING = [f"run/trainer_0/{name}" for name in _RUN]
LLAMA = [f"L{i}R-8x/{name}" for i in (1, 2) for name in ("hyperparams.json", "checkpoints/final.safetensors")]


@pytest.mark.parametrize(
    ("inside", "files", "expected"),
    [
        ("layers.1", SPARSIFY, ["config.json", "layers.1/cfg.json", "layers.1/sae.safetensors"]),
        ("layer7.sae.pt", QWEN, ["config.json", "layer7.sae.pt"]),
        ("run/trainer_0", LEARNING, ["run/trainer_0/ae.pt", "run/trainer_0/config.json"]),
        ("L2R-8x", LLAMA, ["L2R-8x/checkpoints/final.safetensors", "L2R-8x/hyperparams.json"]),
        ("layer_7/width_16k/average_l0_80", GEMMA, ["layer_7/width_16k/average_l0_80/params.npz"]),
        (
            "g",
            ["g/params.safetensors", "g/examples.safetensors", "g/config.json"],
            ["g/config.json", "g/params.safetensors"],
        ),
        ("", ["a.pth", "README.md"], ["README.md", "a.pth"]),
        (
            "",
            ["cfg.json", "sae_weights.safetensors", "sparsity.safetensors"],
            ["cfg.json", "sae_weights.safetensors", "sparsity.safetensors"],
        ),
    ],
)
def test_only_the_sae_that_is_meant_is_downloaded(inside: str, files: list[str], expected: list[str]) -> None:
    assert choose_files(HubId("org/repo", inside, None), files) == expected


@pytest.mark.parametrize(
    ("inside", "files", "message"),
    [
        ("", GEMMA, r"org/repo: holds 52 SAEs; add one to the id: layer_0/width_16k/average_l0_20, .* \(52 in all\)"),
        ("", QWEN, "holds 36 SAEs; add one to the id: layer0.sae.pt"),
        ("layers", SPARSIFY, "has no file or folder 'layers'; it has layers.1, layers.10"),
        ("docs", ["docs/a.md"], "expected weights .* found docs/a.md"),
    ],
)
def test_an_id_that_means_no_single_sae(inside: str, files: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_files(HubId("org/repo", inside, None), files)


class FakeHub:
    """A hub with one repository, which is a local folder."""

    def __init__(self, root: Path, cache: Path) -> None:
        self.root, self.cache, self.asked = root, cache, []

    def model_info(self, repo: str, revision: str | None = None, timeout: float | None = None) -> Any:
        files = [path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file()]
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in files])

    def snapshot_download(self, repo: str, *, revision: str | None, allow_patterns: list[str], **_: Any) -> str:
        self.asked.append((repo, revision))
        for name in allow_patterns:
            target = self.cache / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.root / name, target)
        return str(self.cache)


def test_a_hub_id_is_downloaded_and_loaded(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub(shared / "golden" / "sparsify-topk" / "sae", tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    sae = load_sae("org/repo/layers.2@main")
    assert (sae.k, sae.hook_in, sae.source) == (16, "layers.2", "org/repo/layers.2@main")
    assert hub.asked == [("org/repo", "main")]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "cfg.json", "config.json", "sae.safetensors",
    ]  # fmt: skip


def test_a_local_folder_wins_over_a_hub_id(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(shared / "golden" / "sparsify-topk" / "sae" / "layers.2", tmp_path / "org" / "layers.2")
    monkeypatch.chdir(tmp_path)
    assert locate("org/layers.2") == Path("org/layers.2")
    assert load_sae("org/layers.2").k == 16


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    def refuse(*_: Any, **__: Any) -> Any:
        raise OfflineModeIsEnabled("offline")

    def not_cached(*_: Any, **options: Any) -> Any:
        assert options["local_files_only"]
        raise LocalEntryNotFoundError("not cached")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", not_cached)


def test_offline(offline: None) -> None:
    message = r"org/repo/layers\.3: not found on this machine, and the Hugging Face hub cannot be reached"
    with pytest.raises(UserError, match=message):
        load_sae("org/repo/layers.3")


def test_neither_a_path_nor_an_id() -> None:
    with pytest.raises(UserError, match=r"no such file or folder, and not a hub id"):
        load_sae("./nowhere/at/all")


def test_a_description_never_reaches_for_the_hub(offline: None) -> None:
    assert load_sae("random:d_in=4,d_sae=4,threshold=1").d_in == 4
