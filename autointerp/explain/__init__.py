"""Explainers: each reads the explain split's evidence of one feature and returns a label.

One file an explainer, registered by name; an explainer knows nothing of files, databases, concurrency or retries.
"""

from typing import Protocol

from autointerp.catalog.records import FeatureEvidence, Label
from autointerp.llm.types import Ask
from autointerp.registry import Registry
from autointerp.vocabulary import Vocabulary

__all__ = ["Explainer", "explainers"]


class Explainer(Protocol):
    """`needs_model` False: `ask` is never called and may be None. `needs`: capabilities that the provider must have.

    Raises RequestFailed when no usable label was had.
    """

    needs_model: bool
    needs: tuple[str, ...]

    async def __call__(self, evidence: FeatureEvidence, ask: Ask | None, vocabulary: Vocabulary) -> Label: ...


explainers: Registry[Explainer] = Registry("explainer", "autointerp.explain")
