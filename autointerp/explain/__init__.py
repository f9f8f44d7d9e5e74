"""Explainers: each reads the explain split's evidence of one feature and returns a label.

One file an explainer, registered by name; an explainer knows nothing of files, databases, concurrency or retries.
"""

from pathlib import Path
from typing import Protocol

from autointerp.catalog.records import FeatureEvidence, Label
from autointerp.explain.exemplars import Selection
from autointerp.llm.types import Ask
from autointerp.registry import Registry
from autointerp.vocabulary import Vocabulary

__all__ = ["Explainer", "explainers"]


class Explainer(Protocol):
    """`needs_model` False: `ask` is never called and may be None. `needs`: capabilities that the provider must have.
    `wants_negatives`: the evidence is to hold the hard negatives, whatever the configuration says.

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
    def version(self) -> str: ...
    @property
    def template_hash(self) -> str | None: ...

    def configured(self, selection: Selection, directory: Path | None) -> "Explainer":
        """The same explainer with a run's settings."""
        ...

    async def __call__(self, evidence: FeatureEvidence, ask: Ask | None, vocabulary: Vocabulary) -> Label: ...


explainers: Registry[Explainer] = Registry("explainer", "autointerp.explain")
