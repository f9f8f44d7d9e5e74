"""The explainer `highlighted`: texts with the active tokens marked, and a list of them with their activations.

After Paulo et al. 2024, "Automatically Interpreting Millions of Features in Large Language Models": text with the
active tokens between delimiters, a list of token and activation (0..10) below each text, and a chain of thought where it is
wanted. Ours differs: the delimiters are chosen for each request, so that no text holds them, texts come from all bands as
for every explainer here, and the reasoning, where it is asked for, is a field of the structured answer, before the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autointerp.catalog.records import FeatureEvidence, Label
from autointerp.explain import explainers
from autointerp.explain.answers import SCHEMA
from autointerp.explain.asking import ModelExplainer
from autointerp.explain.counts import counts_json
from autointerp.explain.exemplars import Exemplar, Selection, Show, choose
from autointerp.explain.marking import listed, marked_text, marks_for_exemplars
from autointerp.llm.types import Ask
from autointerp.vocabulary import Vocabulary

REASONED: Mapping[str, Any] = {
    **SCHEMA,
    "properties": {"reasoning": {"type": "string"}, **SCHEMA["properties"]},
    "required": ["reasoning", *SCHEMA["required"]],
}


@dataclass(frozen=True, slots=True)
class Highlighted(ModelExplainer):
    """`reasoning`: ask for a few sentences of it before the label. They are in the journal, not in the label."""

    template = "highlighted"
    method = "2"

    selection: Selection = field(default_factory=lambda: Selection(show="both"))
    reasoning: bool = False

    @property
    def schema(self) -> Mapping[str, Any]:
        return REASONED if self.reasoning else SCHEMA

    async def __call__(self, evidence: FeatureEvidence, ask: Ask | None, vocabulary: Vocabulary) -> Label:
        """The model's label; see `ModelExplainer.label`."""
        chosen = choose(evidence, self.selection)
        data = highlighted_json(evidence, chosen.active, self.selection.show, vocabulary)
        return await self.label(ask, chosen, data, reasoning=self.reasoning)


def highlighted_json(evidence: FeatureEvidence, shown: Sequence[Exemplar], show: Show, vocabulary: Vocabulary) -> str:
    """{"marks": [opening, closing], "texts": [{"text": …, "active": [[token, level], …]}, …], "counts": …}, a line a text."""
    marks = marks_for_exemplars(shown, vocabulary)
    head = "" if show == "levels" else f'"marks":{marks.json},'
    texts = listed("texts", [marked_text(exemplar, show, marks, vocabulary) for exemplar in shown])
    return f"{{{head}{texts},\n{counts_json(evidence, vocabulary)}}}"


explainers.register("highlighted")(Highlighted())
