"""What simulators have in common that read the probabilities which a model gives to the numbers 0..10."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

from autointerp.catalog.records import Context, Label
from autointerp.hashing import hex_hash
from autointerp.llm.types import Ask, RequestFailed
from autointerp.prompts_loader import template_hash
from autointerp.score import Settings, Simulated
from autointerp.score.asked import all_asked, needed
from autointerp.score.readings import ReadingName
from autointerp.vocabulary import Vocabulary

PURPOSE = "simulate"


@dataclass(frozen=True, slots=True)
class ByProbabilities(ABC):
    """A simulator that reads numbers. `template`: its prompt, and its name; `given`: the capability that its reading takes."""

    template: ClassVar[str]
    given: ClassVar[str]

    reading: ReadingName = "bills23"
    directory: Path | None = None
    needs_model: bool = True

    def configured(self, settings: Settings) -> Self:
        """The same simulator with a run's settings."""
        return replace(self, reading=settings.reading, directory=settings.directory)

    @property
    def needs(self) -> tuple[str, ...]:
        """What its provider must give."""
        return (self.given, "exact_logprobs") if self.reading == "exact" else (self.given,)

    @property
    def version(self) -> str:
        """Changes with everything that the simulations depend on, the model apart."""
        return hex_hash("1", self.reading, template_hash(self.template, directory=self.directory))

    async def __call__(
        self, label: Label, contexts: Sequence[Context], max_activation: float, ask: Ask | None, vocabulary: Vocabulary
    ) -> list[Simulated]:
        """One result for each context, in their order. Raises UserError where `ask` is None or ends the run."""
        ask = needed(ask, self.template)
        try:
            splits = await self.splits_ten(ask)
        except RequestFailed as failure:
            return [Simulated(context.window_id, None, "failed", str(failure)) for context in contexts]
        simulated = self.simulating(label, ask, vocabulary, splits)
        return await all_asked(simulated(context) for context in contexts)

    @abstractmethod
    async def splits_ten(self, ask: Ask) -> bool:
        """Whether the model's "10" is two tokens. The same question for every label: it is asked once.

        Raises UserError where it cannot work with the model, RequestFailed where it could not be asked.
        """

    @abstractmethod
    def simulating(
        self, label: Label, ask: Ask, vocabulary: Vocabulary, splits: bool
    ) -> Callable[[Context], Awaitable[Simulated]]:
        """How one context is simulated; `splits`: what `splits_ten` found."""
