"""What a file in `formats/` registers: how to recognise one format and how to read it into the canonical form."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autointerp.sae.canonical import SAE


@dataclass(frozen=True, slots=True)
class SAEFormat:
    """One format.

    `layout` says in a few words what is on disk: it is shown when no format fits. `detect(path)` looks at file names
    and tensor names only and must be cheap; `load(path)` returns the SAE on the CPU. `path` is a local folder or
    file, or, for SAEs that are described instead of stored, the text of the description ("random:d_in=…").
    """

    layout: str
    detect: Callable[[Path], bool]
    load: Callable[[Path], "SAE"]
