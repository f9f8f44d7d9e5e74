"""Shared by the SAE tests: the folder of golden SAEs, and a writer of folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

torch.set_num_threads(1)
SHARED = Path(__file__).resolve().parents[2].parent / "shared"

Write = Callable[[str, Any], Path]


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the folder shared/ is not beside the repository")
    return SHARED


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write("a/b.json", {...}): write a file of the suffix's kind under a temporary folder, and return its path."""

    def one(name: str, content: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json":
            path.write_text(json.dumps(content))
        elif path.suffix == ".safetensors":
            save_file({key: tensor.contiguous() for key, tensor in content.items()}, path)
        elif path.suffix == ".npz":
            np.savez(path, **{key: np.asarray(value) for key, value in content.items()})
        elif path.suffix in (".pt", ".pth"):
            torch.save(content, path)
        else:
            path.write_text(content)
        return path

    return one


@pytest.fixture
def draw() -> Callable[..., torch.Tensor]:
    """Normal numbers, the same in every run."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator)
