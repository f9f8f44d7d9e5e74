"""The explainer `investigate`: a model with tools on the subject model tries its ideas out before it answers.

Like the agent of Shaham et al. 2024, "A Multimodal Automated Interpretability Agent", it makes up inputs and looks at the
activations. Ours differs: tools and not programs, a budget of calls and of tokens, and every step is kept with the label. Texts
of the catalog are of the explain split only, in the first question and in what tools show.

In a turn the model calls tools or answers. When the budget is used up, or what it says is neither, it is asked for the
answer alone, as structured output. Where the subject model is not at hand the label is one of `refine`, with a remark.
"""

import json
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Self

from autointerp.catalog.records import FeatureEvidence, Label, Split
from autointerp.errors import UserError
from autointerp.explain import DEFAULT_SEARCH, Explainer, Search, explainers
from autointerp.explain.answers import LabelAnswer
from autointerp.explain.asking import ModelExplainer, no_evidence
from autointerp.explain.bench import Bench
from autointerp.explain.counts import counts_json
from autointerp.explain.exemplars import Exemplars, Selection, choose
from autointerp.explain.experiments import Laboratory, NoBench, NotAtHandError, Recall
from autointerp.explain.investigation import Investigation
from autointerp.explain.marking import listed, marked_text, marks_for_exemplars
from autointerp.explain.parsing import can_parse
from autointerp.explain.toolbox import TOOLS, Toolbox
from autointerp.hashing import hex_hash
from autointerp.llm.types import Ask, Request, RequestFailed
from autointerp.prompts_loader import fenced, render
from autointerp.vocabulary import Vocabulary

FALLBACK = "refine"


@dataclass(frozen=True, slots=True)
class Investigate(ModelExplainer):
    """See the module. `search` holds the budgets, and what the fallback needs."""

    template = "investigate"
    method = "2"
    needs = ("json_schema", "tools")
    wants_negatives = True
    wants_bench: ClassVar[bool] = True
    splits: ClassVar[tuple[Split, ...]] = ("explain", "rerank")  # the latter for the fallback

    search: Search = field(default_factory=Search)
    laboratory: Laboratory = field(
        default_factory=lambda: Laboratory(NoBench("no subject model was given")), repr=False
    )

    def configured(self, selection: Selection, directory: Path | None, search: Search = DEFAULT_SEARCH) -> Self:
        return replace(self, selection=selection, directory=directory, search=search)

    def at(self, bench: Bench, recall: Recall | None = None) -> Self:
        """The same explainer with a bench for a run; see `Experimenter`."""
        return replace(self, laboratory=Laboratory(bench, recall))

    @property
    def version(self) -> str:
        """Changes with everything that the labels depend on, those of the fallback included; the models apart."""
        budget = self.search.investigate_steps, self.search.investigate_tokens
        return hex_hash(
            self.method, str(self.selection), self.max_tokens, str(self.temperature), *budget, self.template_hash, str(TOOLS),
            self._fallback().version,
        )  # fmt: skip

    async def __call__(self, evidence: FeatureEvidence, ask: Ask | None, vocabulary: Vocabulary) -> Label:
        """The model's label with its steps. Raises RequestFailed where no usable answer was had or there is nothing to show."""
        if ask is None:
            raise UserError("the explainer investigate asks a model, and none is given; name one, or use lexicon")
        chosen = choose(evidence, replace(self.selection, silent=0, negatives=0))
        if not chosen.active:
            raise no_evidence("the feature is active in no context of the explain split")
        toolbox = Toolbox(evidence, chosen.windows, self.selection, vocabulary, self.laboratory)
        try:
            label = await self._investigated(first_json(evidence, chosen, toolbox, vocabulary), toolbox, chosen, ask)
        except NotAtHandError as missing:
            label = await self._without_bench(str(missing), evidence, ask, vocabulary)
        except RequestFailed:  # one that is deferred starts over: what was found is kept
            toolbox.close()
            raise
        toolbox.close()
        return label

    async def _investigated(self, data: str, toolbox: Toolbox, chosen: Exemplars, ask: Ask) -> Label:
        toolbox.open()
        prompt = render(self.template, directory=self.directory, data=fenced(data), steps=self.search.investigate_steps)
        request = Request(
            messages=prompt.messages, max_tokens=self.max_tokens, temperature=self.temperature, tools=TOOLS, schema_name="label",
            purpose="explain", template_hash=prompt.template_hash, check=partial(can_parse, model=LabelAnswer),
        )  # fmt: skip
        investigation = Investigation(request, toolbox, ask, self.search)
        found = await investigation.answer()
        windows = dict.fromkeys((*chosen.windows, *toolbox.active_windows))
        return replace(found.label(tuple(windows)), steps=tuple(investigation.steps))

    async def _without_bench(self, reason: str, evidence: FeatureEvidence, ask: Ask, vocabulary: Vocabulary) -> Label:
        self.laboratory.explain_absence(
            f"investigate: the subject model is not at hand ({reason}); {FALLBACK} writes the labels instead"
        )
        label = await self._fallback()(evidence, ask, vocabulary)
        remark = f"by {FALLBACK}, since the subject model was not at hand: {reason}"
        return replace(label, remark=f"{remark}; {label.remark}" if label.remark else remark)

    def _fallback(self) -> Explainer:
        return explainers.get(FALLBACK).configured(self.selection, self.directory, self.search)


def first_json(evidence: FeatureEvidence, chosen: Exemplars, toolbox: Toolbox, vocabulary: Vocabulary) -> str:
    """{"marks": …, "texts": [{"text": …, "active": …}, …], "further": {kind: count, …}, "counts": …}, a line a text."""
    marks = marks_for_exemplars(chosen.active, vocabulary)
    texts = [marked_text(exemplar, "both", marks, vocabulary) for exemplar in chosen.active]
    further, counts = json.dumps(toolbox.further()), counts_json(evidence, vocabulary)
    return f'{{"marks":{marks.json},{listed("texts", texts)},\n"further":{further},\n{counts}}}'


explainers.register("investigate")(Investigate())
