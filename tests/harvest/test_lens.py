"""The logit lens and decoder neighbours against plain products."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from autointerp.harvest import lens
from autointerp.harvest.lens import neighbours, output_tokens


@pytest.mark.parametrize("chunk", [3, 512])
def test_output_tokens(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(lens, "_CHUNK", chunk)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with torch.no_grad():
        model.model.norm.weight.copy_(torch.linspace(0.5, 1.5, 16))
    directions = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    features = np.array([1, 2, 5, 7])
    table = output_tokens(model, directions, features, k=3)
    assert table is not None
    logits = (directions[features] * model.model.norm.weight) @ model.lm_head.weight.T
    expected = []
    for feature, row in zip(features.tolist(), logits.tolist(), strict=True):
        order = sorted(range(len(row)), key=row.__getitem__)
        expected += [(feature, "promoted", i + 1, order[-1 - i], row[order[-1 - i]]) for i in range(3)]
        expected += [(feature, "suppressed", i + 1, order[i], row[order[i]]) for i in range(3)]
    found = [tuple(row.values()) for row in table.to_pylist()]
    assert [row[:4] for row in found] == [row[:4] for row in expected]
    assert [row[4] for row in found] == pytest.approx([row[4] for row in expected], rel=1e-5)
    assert output_tokens(model, torch.zeros(8, 12), features) is None  # another width than the residual stream's


def test_neighbours_by_hand() -> None:
    # In the plane: 0 at 0 degrees, 1 at 90, 2 at 45 and twice as long, 3 at 180.
    directions = torch.tensor([[1.0, 0], [0, 1], [2, 2], [-1, 0]])
    found = [tuple(row.values()) for row in neighbours(directions, np.arange(4), k=2).to_pylist()]
    half = pytest.approx(0.5**0.5)
    assert found[:2] == [(0, 1, 2, half), (0, 2, 1, pytest.approx(0))]
    assert [row[2] for row in found[2:4]][0] == 2 and found[6] == (3, 1, 1, pytest.approx(0))
    assert neighbours(directions, np.array([2]), k=5).num_rows == 0
