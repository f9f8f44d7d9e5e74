"""The scorer `embedding`: is the label nearer, in an embedder's space, to texts in which the feature is active?

After Paulo et al. 2024, "Automatically Interpreting Millions of Features in Large Language Models", appendix D.4: the cosine of
the label's vector and a context's tells active contexts from silent ones; the score is the AUROC. No language model is asked.
Ours differs in its contexts and weights, which are those of `detection`, and puts no instruction before the label unless the
configuration does.

A text's vector is asked for once, whatever labels it is compared with: a control costs the vectors of labels, which are known.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from autointerp.catalog.records import FeatureEvidence, Label
from autointerp.errors import UserError
from autointerp.hashing import hex_hash
from autointerp.llm.embeddings import Vector, unpacked, vector_request
from autointerp.llm.types import Ask, FailureKind, RequestFailed
from autointerp.score import Grade, Means, Settings, Wants, scorers
from autointerp.score.asked import all_asked
from autointerp.score.detection import judged_contexts
from autointerp.score.separation import Unusable, score_separation, valued

NAME = "embedding"


@dataclass(frozen=True, slots=True)
class Embedding:
    """See the module. What embedders want before queries and documents: `label_prefix`, `text_prefix`."""

    label_prefix: str = ""
    text_prefix: str = ""
    dimensions: int | None = None
    resamples: int = 1000
    seed: int = 0
    wants: ClassVar[Wants] = Wants(embedder=True, negatives=True)
    simulator: ClassVar[str] = ""
    ranks: ClassVar[tuple[str, ...]] = ("auroc",)

    def configured(self, settings: Settings) -> Self:
        """The same scorer with a run's settings."""
        return replace(
            self, label_prefix=settings.embed_label_prefix, text_prefix=settings.embed_text_prefix,
            dimensions=settings.embed_dimensions, resamples=settings.resamples, seed=settings.seed,
        )  # fmt: skip

    @property
    def version(self) -> str:
        """Changes with everything that the vectors and scores depend on, the embedder apart."""
        return hex_hash("1", self.label_prefix, self.text_prefix, self.dimensions)

    async def __call__(self, label: Label, evidence: FeatureEvidence, means: Means) -> Grade:
        """The cosines and what they come to. Raises UserError where there is no embedder, or it ends the run."""
        if means.embed is None:
            raise UserError("the scorer embedding asks for vectors, and no embedder is given; name one with --embedder")
        contexts = judged_contexts(evidence)
        texts = {context.window_id: means.vocabulary.join(context.tokens) for context in contexts}
        asked = [(self.label_prefix, label.description), *((self.text_prefix, text) for text in texts.values())]
        of_label, *of_texts = await all_asked(self._vector(means.embed, *one) for one in asked)
        vectors = dict(zip(texts, of_texts, strict=True))
        judged = [valued(context, _similarity(of_label, vectors[context.window_id])) for context in contexts]
        rows = score_separation(NAME, evidence, judged, seed=self.seed, resamples=self.resamples)
        return Grade(rows, judged=judged)

    async def _vector(self, embed: Ask, prefix: str, text: str) -> Vector | Unusable:
        if not text.strip():  # servers refuse it, and models make of it what they like
            return Unusable(f"{FailureKind.NO_EVIDENCE}: the text holds nothing but white space")
        try:
            answer = await embed(vector_request(prefix + text, purpose="embed", dimensions=self.dimensions))
            return unpacked(answer.text)
        except RequestFailed as failure:
            return Unusable(str(failure))
        except ValueError as error:
            return Unusable(f"{FailureKind.MALFORMED}: {error}")


def _similarity(of_label: Vector | Unusable, of_text: Vector | Unusable) -> float | Unusable:
    if isinstance(of_label, Unusable):
        return Unusable(f"{of_label.reason} (the label's vector)")
    if isinstance(of_text, Unusable):
        return of_text
    try:
        return cosine(of_label, of_text)
    except ValueError as error:
        return Unusable(f"{FailureKind.MALFORMED}: {error}")


def cosine(first: Vector, second: Vector) -> float:
    """In −1..1. Raises ValueError with the reason where it is undefined."""
    if first.shape != second.shape:
        raise ValueError(f"vectors of {len(first)} and {len(second)} numbers have no cosine")
    a, b = first.astype(np.float64), second.astype(np.float64)
    if not (a.any() and b.any()):
        raise ValueError("a vector is zero, so that there is no cosine")
    # Each is scaled first: squares of what float32 holds are within float64, but products of lengths need not be.
    a, b = a / np.abs(a).max(), b / np.abs(b).max()
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


scorers.register(NAME)(Embedding())
