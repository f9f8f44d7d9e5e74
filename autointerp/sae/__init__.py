"""Sparse autoencoders: one canonical form, and one small loader for each format that people publish.

`load_sae(path_or_hub_id)` recognises the format by the files and their tensors. A new format is one file in `formats/`
(or an entry point of the group `autointerp.sae_format`): see docs/sae-formats.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from autointerp.registry import Registry
from autointerp.sae.format import SAEFormat

if TYPE_CHECKING:
    from autointerp.sae.canonical import SAE
    from autointerp.sae.load import load_sae
    from autointerp.sae.sparse import SparseActivations

__all__ = ["SAE", "SAEFormat", "SparseActivations", "load_sae", "sae_formats"]

sae_formats: Registry[SAEFormat] = Registry("sae_format", "autointerp.sae.formats")

# torch takes a second to import: only those who touch an SAE pay for it.
_HOME = {
    "SAE": "autointerp.sae.canonical",
    "SparseActivations": "autointerp.sae.sparse",
    "load_sae": "autointerp.sae.load",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
