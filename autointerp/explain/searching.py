"""What explainers share that try several labels: another explainer writes the first ones, a simulator compares them."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Self

from autointerp.catalog.records import Split
from autointerp.errors import UserError
from autointerp.explain import DEFAULT_SEARCH, Explainer, Search, explainers
from autointerp.explain.exemplars import Selection
from autointerp.score import Settings, Simulator, simulators


@dataclass(frozen=True, slots=True)
class SearchingExplainer:
    """The settings of such an explainer, and its two helpers.

    `name` is its own, for messages; `own_needs` are capabilities that it needs besides those of its helpers.
    """

    name: ClassVar[str]
    needs_model: ClassVar[bool] = True
    splits: ClassVar[tuple[Split, ...]] = ("explain", "rerank")
    own_needs: ClassVar[tuple[str, ...]] = ()

    search: Search = field(default_factory=Search)
    selection: Selection = field(default_factory=Selection)
    directory: Path | None = None

    def configured(self, selection: Selection, directory: Path | None, search: Search = DEFAULT_SEARCH) -> Self:
        """The same explainer with a run's settings. Raises UserError for an inner explainer with nothing to choose from."""
        inner = explainers.get(search.inner)
        if not inner.needs_model or inner.splits != ("explain",):
            raise UserError(
                f"explain.inner = {search.inner!r}: {self.name} begins with labels that a model writes from the explain split "
                "alone; expected an explainer such as highlighted"
            )
        shown = inner.configured(selection, directory, search).selection
        return replace(self, search=search, selection=selection if shown is None else shown, directory=directory)

    @property
    def needs(self) -> tuple[str, ...]:
        """Capabilities that the provider must have: its own and those of both helpers."""
        return tuple(dict.fromkeys((*self.own_needs, *self._inner().needs, *self._simulator().needs)))

    @property
    def wants_steered(self) -> bool:
        """Whether the inner explainer does."""
        return self._inner().wants_steered

    def _inner(self) -> Explainer:
        return explainers.get(self.search.inner).configured(self.selection, self.directory, self.search)

    def _simulator(self) -> Simulator:
        return simulators.get(self.search.simulator).configured(Settings(directory=self.directory))

    def _simulator_version(self) -> str:
        return self._simulator().version
