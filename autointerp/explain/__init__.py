"""Explainers: each reads the explain split's evidence of one feature and returns a label.

One file an explainer, registered by name; an explainer knows nothing of files, databases, concurrency or retries.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from autointerp.catalog.records import FeatureEvidence, Label, Split
from autointerp.explain.bench import Bench
from autointerp.explain.exemplars import Selection
from autointerp.explain.experiments import Recall
from autointerp.llm.types import Ask
from autointerp.registry import Registry
from autointerp.vocabulary import Vocabulary

__all__ = ["Experimenter", "Explainer", "Search", "explainers"]


@dataclass(frozen=True, slots=True)
class Search:
    """How an explainer that tries several labels does it: which explainer makes them, which simulator compares them; how many
    `candidates` there are, or how many `steps` from one to the next, which end after `patience` steps without a better score and
    show the model `errors` of each kind. An investigation ends after so many calls of tools, or tokens of all its
    questions and answers."""

    inner: str = "highlighted"
    candidates: int = 4
    simulator: str = "logprob_free"
    steps: int = 3
    patience: int = 1
    errors: int = 4
    investigate_steps: int = 12
    investigate_tokens: int = 80_000


DEFAULT_SEARCH = Search()


class Explainer(Protocol):
    """`needs_model` False: `ask` is never called and may be None. `needs`: capabilities that the provider must have.
    `wants_negatives`: the evidence is to hold the hard negatives, whatever the configuration says. `wants_steered`: it is to
    hold what steering changed, where that was measured (`autointerp steer`); labels from it are other labels.

    `selection`: which contexts it is shown; None where it looks at all.
    `splits`: whose contexts it sees, never those of the test split.

    `version` changes with everything that the labels depend on, the model apart; `template_hash` is None without a prompt.
    Raises RequestFailed when no usable label was had.
    """

    @property
    def needs_model(self) -> bool: ...
    @property
    def needs(self) -> tuple[str, ...]: ...
    @property
    def wants_negatives(self) -> bool: ...
    @property
    def wants_steered(self) -> bool: ...
    @property
    def selection(self) -> Selection | None: ...
    @property
    def splits(self) -> tuple[Split, ...]: ...
    @property
    def version(self) -> str: ...
    @property
    def template_hash(self) -> str | None: ...

    def configured(self, selection: Selection, directory: Path | None, search: Search = DEFAULT_SEARCH) -> "Explainer":
        """The same explainer with a run's settings. Raises UserError where they do not fit."""
        ...

    async def __call__(self, evidence: FeatureEvidence, ask: Ask | None, vocabulary: Vocabulary) -> Label: ...


class Experimenter(Explainer, Protocol):
    """An explainer that experiments on the subject model: one with a `wants_bench` that is True. Without a bench it does what it
    can, and says so."""

    @property
    def wants_bench(self) -> bool: ...

    def at(self, bench: Bench, recall: Recall | None = None) -> Self:
        """The same explainer with a bench for a run. `recall`: what the catalog has of a feature's earlier investigation."""
        ...


explainers: Registry[Explainer] = Registry("explainer", "autointerp.explain")
