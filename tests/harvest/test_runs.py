"""Folder names of several dictionaries."""

import pytest

from autointerp.harvest.runs import _distinct


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/b/layers.1"], ["layers.1"]),
        (["a/layers.1", "a/layers.2"], ["layers.1", "layers.2"]),
        (["a/sae/layers.1", "b/sae/layers.1"], ["a-sae-layers.1", "b-sae-layers.1"]),
        (["x/y", "x/y", "x/z"], ["y-1", "y-2", "z"]),
        (["neurons:model.layers.0.mlp:64", "random:d_in=4,d_sae=8,k=2"], ["64", "d_in=4_d_sae=8_k=2"]),
        (["../up", ".."], ["up", "sae"]),
    ],
)
def test_names_of_folders(paths: list[str], names: list[str]) -> None:
    found = _distinct(paths)
    assert found == names
