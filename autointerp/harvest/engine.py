"""Where the work of a harvest is done: in this process, or by workers that share the run's folder with it.

A worker is given the configuration, the folder and a share of the parts; it writes shards, and this process reads them. So an
engine only starts workers and waits: it needs no protocol, no state and no cluster of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from autointerp.config import Config
from autointerp.registry import Registry

if TYPE_CHECKING:
    from autointerp.harvest.passes import Pass

Advance = Callable[[int, str], None]


@dataclass(frozen=True)
class Job:
    """What is to be done: all parts of `harvest` that are missing, by `workers` processes (None: the engine's choice)."""

    config: Config
    out: Path
    harvest: "Pass"
    workers: int | None


class Engine(Protocol):
    """A way to get the missing parts of a harvest done."""

    help: str  # one sentence for --help

    def run(self, job: Job, advance: Advance) -> None:
        """Return when every worker has ended. `advance(tokens, note)` shows progress. Raises UserError when workers failed."""


engines: Registry[Engine] = Registry("engine", "autointerp.harvest.engines")
