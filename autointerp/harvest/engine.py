"""Where the work of a harvest is done: in this process, or by workers that share the run's folder with it.

A worker is given the configuration, the folder and a share of the parts; it writes shards, and this process reads them. So an
engine only starts workers and waits: it needs no protocol, no state and no cluster of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.progress import Advance
from autointerp.registry import Registry

if TYPE_CHECKING:
    from autointerp.harvest.passes import Pass


@dataclass(frozen=True)
class Job:
    """What is to be done: all parts of `harvest` that are missing, by `workers` processes (None: the engine's choice).

    `options`: those of --engine-option, which the engine has checked.
    """

    config: Config
    out: Path
    harvest: "Pass"
    workers: int | None
    options: Mapping[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """A way to get the missing parts of a harvest done."""

    help: str  # one sentence for --help

    def check(self, workers: int | None, options: Mapping[str, Any]) -> None:
        """Before anything is loaded. Raises UserError for options that it does not have, or a package that is missing."""

    def run(self, job: Job, advance: Advance) -> None:
        """Return when every worker has ended. `advance(tokens, note)` shows progress. Raises UserError when workers failed."""


def check_options(engine: str, options: Mapping[str, Any], known: Mapping[str, str]) -> None:
    """Raise UserError for options that are not `known` (name → "text", "count" ≥ 1, or "amount" ≥ 0)."""
    for name, value in options.items():
        if name not in known:
            there = f"there are: {', '.join(known)}" if known else "it has none"
            raise UserError(f"--engine {engine} has no option {name!r}; {there}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if known[name] == "count" and not (isinstance(value, int) and number and value >= 1):
            raise UserError(f"--engine-option {name}={value}: expected a whole number from 1, such as {name}=4")
        if known[name] == "amount" and not (number and value >= 0):
            raise UserError(f"--engine-option {name}={value}: expected a number from 0, such as {name}=1")


engines: Registry[Engine] = Registry("engine", "autointerp.harvest.engines")
