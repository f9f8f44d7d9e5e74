"""autointerp: label the features of sparse autoencoders, score the labels, and publish a ranked catalog.

The command line (`autointerp --help`) is the main way in. From Python: `load_sae` for any published SAE format, `Catalog`
for a finished run. Names are imported on first use, so that `import autointerp` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autointerp.catalog.store import Catalog
    from autointerp.errors import UserError
    from autointerp.sae import load_sae

__version__ = "0.1.0"
__all__ = ["Catalog", "UserError", "__version__", "load_sae"]

_HOME = {"Catalog": "autointerp.catalog.store", "UserError": "autointerp.errors", "load_sae": "autointerp.sae"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'autointerp' has no attribute {name!r}")
