"""The explainer `token_activation`: a model is shown texts with the feature's activation at every token.

After Bills et al. 2023, "Language models can explain neurons in language models", step 1: token and activation in
pairs, activations as integers 0..10 of the feature's maximum, the active pairs once more where they are few. Ours
differs: half of the texts come from all bands of the feature's activations and not from the strongest only, texts are
cut around their peak, near-copies are shown once, and title, description and kind come as structured JSON. Texts are
of the explain split only. They are strangers' writing: they go in as JSON, one text a line, between lines that hold a
mark which they cannot have foreseen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from autointerp.catalog.records import FeatureEvidence, Label
from autointerp.explain import explainers
from autointerp.explain.asking import ModelExplainer
from autointerp.explain.counts import counts_json
from autointerp.explain.exemplars import Exemplar, choose
from autointerp.explain.marking import listed
from autointerp.llm.types import Ask
from autointerp.vocabulary import Vocabulary

_SPARSE = 0.2  # below this share of active tokens they are listed again, as Bills et al. do


@dataclass(frozen=True, slots=True)
class TokenActivation(ModelExplainer):
    """See the module."""

    template = "token_activation"
    method = "3"

    async def __call__(self, evidence: FeatureEvidence, ask: Ask | None, vocabulary: Vocabulary) -> Label:
        """The model's label; see `ModelExplainer.label`."""
        chosen = choose(evidence, self.selection)
        return await self.label(ask, chosen, texts_as_json(evidence, chosen.active, vocabulary))


def texts_as_json(evidence: FeatureEvidence, shown: Sequence[Exemplar], vocabulary: Vocabulary) -> str:
    """{"texts": […], "counts": …}, written by hand around tokens that are escaped already. A line a text."""
    texts = listed("texts", [_text(exemplar, vocabulary) for exemplar in shown])
    return f"{{{texts},\n{counts_json(evidence, vocabulary)}}}"


def _text(exemplar: Exemplar, vocabulary: Vocabulary) -> str:
    tokens = [vocabulary.escaped(int(token)) for token in exemplar.tokens]
    pairs = [f'["{token}",{level}]' for token, level in zip(tokens, exemplar.levels, strict=True)]
    active = [pair for pair, level in zip(pairs, exemplar.levels, strict=True) if level]
    again = f',"active":[{",".join(active)}]' if len(active) < _SPARSE * len(pairs) else ""
    return f'{{"tokens":[{",".join(pairs)}]{again}}}'


explainers.register("token_activation")(TokenActivation())
