"""One way to add a part: a file in the right folder, or an entry point of another package.

A registry holds the parts of one kind ("explainer", "simulator", "provider", "sae_format"). Built-in parts are found by
importing every module of the kind's package; third-party parts by the entry-point group `autointerp.<kind>`. A plugin that
cannot be imported is named in a warning and left out: it must not take the program down with it.
"""

import importlib
import pkgutil
import warnings
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from autointerp.errors import UserError

Part = TypeVar("Part")


class Registry(Generic[Part]):
    """Named parts of one kind, imported on first use."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._parts: dict[str, Part] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[Part], Part]:
        """Decorator: `@explainers.register("lexicon")` above the part."""

        def add(part: Part) -> Part:
            if name in self._parts and self._parts[name] is not part:
                raise ValueError(f"two parts of kind {self.kind!r} are both named {name!r}")
            self._parts[name] = part
            return part

        return add

    def names(self) -> list[str]:
        self._load()
        return sorted(self._parts)

    def get(self, name: str) -> Part:
        self._load()
        if name not in self._parts:
            raise UserError(f"no {self.kind} is named {name!r}; there are: {', '.join(self.names())}")
        return self._parts[name]

    def items(self) -> list[tuple[str, Part]]:
        self._load()
        return sorted(self._parts.items())

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        for point in entry_points(group=f"autointerp.{self.kind}"):
            try:
                self._parts[point.name] = point.load()
            except Exception as error:
                warnings.warn(f"the {self.kind} plugin {point.name!r} could not be loaded: {error!r}", stacklevel=2)
