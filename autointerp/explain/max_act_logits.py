"""The explainer `max_act_logits`: short texts around the peak, what comes next in them, and what the feature promotes.

After Neuronpedia's method of that name (blog, 2025, "Circuit Tracer + New Auto-Interp Method"): the strongest token of each
text, the token that follows it, a short text around it and the feature's top logits, so that features that stand for what is
about to be said are told from those that stand for what was read. Ours differs: suppressed tokens are shown, too, texts come
from all bands, with their strength, and there are no worked examples in the prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np

from autointerp.catalog.records import FeatureEvidence, Label
from autointerp.explain import DEFAULT_SEARCH, Search, explainers
from autointerp.explain.asking import ModelExplainer
from autointerp.explain.counts import counts_json
from autointerp.explain.exemplars import Exemplar, Selection, choose
from autointerp.explain.marking import Marks, listed, marked, marks_for_exemplars, quoted, quoted_tokens
from autointerp.llm.types import Ask
from autointerp.vocabulary import Vocabulary

WINDOW = 24  # tokens of a text at most, as Neuronpedia shows
OUTPUTS = 10  # tokens of each side of the logit lens


@dataclass(frozen=True, slots=True)
class MaxActLogits(ModelExplainer):
    """See the module. `exemplars.window` counts where it is below 24."""

    template = "max_act_logits"
    method = "2"

    selection: Selection = field(default_factory=lambda: Selection(window=WINDOW))

    def configured(self, selection: Selection, directory: Path | None, search: Search = DEFAULT_SEARCH) -> Self:
        return replace(self, selection=replace(selection, window=min(selection.window, WINDOW)), directory=directory)

    async def __call__(self, evidence: FeatureEvidence, ask: Ask | None, vocabulary: Vocabulary) -> Label:
        """The model's label; see `ModelExplainer.label`."""
        chosen = choose(evidence, self.selection)
        return await self.label(ask, chosen, peaks_json(evidence, chosen.active, vocabulary))


def peaks_json(evidence: FeatureEvidence, shown: Sequence[Exemplar], vocabulary: Vocabulary) -> str:
    """{"marks": …, "texts": [{"text", "peak", "next", "level"}, …], "promoted": [token, …], "suppressed": …, "counts": …}."""
    marks = marks_for_exemplars(shown, vocabulary)
    texts = listed("texts", [_peak(exemplar, marks, vocabulary) for exemplar in shown])
    promoted, suppressed = (
        quoted_tokens(tokens[:OUTPUTS], vocabulary) for tokens in (evidence.promoted, evidence.suppressed)
    )
    counts = counts_json(evidence, vocabulary)
    return f'{{"marks":{marks.json},{texts},"promoted":{promoted},"suppressed":{suppressed},\n{counts}}}'


def _peak(exemplar: Exemplar, marks: Marks, vocabulary: Vocabulary) -> str:
    text = marked(exemplar.tokens, np.arange(len(exemplar.tokens)) == exemplar.peak, marks, vocabulary)
    peak, *after = (quoted(vocabulary.text(int(token))) for token in exemplar.tokens[exemplar.peak :][:2])
    following = after[0] if after else "null"
    return f'{{"text":{text},"peak":{peak},"next":{following},"level":{exemplar.levels[exemplar.peak]}}}'


explainers.register("max_act_logits")(MaxActLogits())
