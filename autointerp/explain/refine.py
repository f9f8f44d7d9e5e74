"""The explainer `refine`: a label is tried, and its author is shown where it is wrong and writes it anew, step by step.

Another explainer writes the first label. At a step the best label so far is simulated on a few contexts of the explain split,
those first that the first prompt did not show: the worst false alarms and misses among them go back to the model. The label that
comes of it is compared with the others on contexts of the rerank split, which their author is never shown. So what a label was
mended on is not what it is chosen by, and one that only learnt its errors by heart gains nothing. The test split is not touched.

It ends after `steps`, after `patience` steps without a better score, or where there is no error to show. A step whose answer is
of no use ends it too, with a remark. Where a step fails for a reason that may pass the whole label fails and is tried again.
All labels are kept as candidates, each with the one that it was made from. Where `dual` wrote the first one and a later one is
chosen, one question more settles whether its two sides agree.
"""

from dataclasses import dataclass, replace

from autointerp.catalog.records import FeatureEvidence, Label
from autointerp.errors import UserError
from autointerp.explain import explainers
from autointerp.explain.answers import SCHEMA, LabelAnswer
from autointerp.explain.asking import ModelExplainer
from autointerp.explain.dual import Dual
from autointerp.explain.mistakes import Findings
from autointerp.explain.refinement import Refinement
from autointerp.explain.searching import SearchingExplainer
from autointerp.explain.trial import LASTING, of_splits, sampled
from autointerp.hashing import hex_hash
from autointerp.llm.types import Ask, RequestFailed
from autointerp.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Rewriter(ModelExplainer):
    """Asks for a better label, given one and its errors."""

    template = "refine"

    async def rewritten(self, label: Label, findings: Findings, data: str, ask: Ask) -> Label:
        """The new label. Its evidence is that of the old one and the active texts shown; what is said of the output side stays.

        Raises RequestFailed as `answer` does.
        """
        answer = await self.answer(ask, data, LabelAnswer, SCHEMA)
        active = (one.window for one in findings.all if one.exemplar.context.peak > 0)
        new = answer.label(list(dict.fromkeys((*label.evidence, *active))))
        if label.output is None:
            return new
        # Nobody has compared the new description with it yet, and a tag may be there for its sake.
        safety = tuple(dict.fromkeys((*new.safety, *label.safety)))
        return replace(new, safety=safety, output=replace(label.output, agrees=None))


@dataclass(frozen=True, slots=True)
class Refine(SearchingExplainer):
    """See the module."""

    name = "refine"
    own_needs = ModelExplainer.needs
    wants_negatives = True

    @property
    def template_hash(self) -> str:
        """Of both prompts, the first label's and the later ones'."""
        return hex_hash("templates", self._inner().template_hash, self._rewriter().template_hash)

    @property
    def version(self) -> str:
        """Changes with everything that the labels depend on, the model apart."""
        given = self.search
        return hex_hash(
            "2", given.inner, given.steps, given.patience, given.errors, self._inner().version,
            given.simulator, self._simulator_version(), self._rewriter().version,
        )  # fmt: skip

    def _rewriter(self) -> Rewriter:
        return Rewriter(self.selection, directory=self.directory)

    async def __call__(self, evidence: FeatureEvidence, ask: Ask | None, vocabulary: Vocabulary) -> Label:
        """The best label, with all that were tried in it.

        Raises RequestFailed where there is no first label, or something failed that may pass; UserError where `ask` is None.
        """
        if ask is None:
            raise UserError("the explainer refine asks a model, and none is given; name one, or use lexicon")
        first = await self._inner()(of_splits(evidence, ("explain",)), ask, vocabulary)
        refinement = Refinement(self._simulator(), evidence, first, ask, vocabulary)
        await refinement.add(first, None)
        if refinement.compared:
            await self._refine(refinement, ask)
        return await self._compared(refinement.result(), ask)

    async def _compared(self, label: Label, ask: Ask) -> Label:
        """The label with whether its two sides agree, where `dual` wrote the first one and this one is new.

        Raises RequestFailed for a reason that may pass.
        """
        inner = self._inner()
        if not isinstance(inner, Dual) or label.output is None or label.output.agrees is not None:
            return label
        try:
            return await inner.compared(label, ask)
        except RequestFailed as failure:
            if failure.kind not in LASTING:
                raise
            remark = f"not known whether the two sides agree: {failure}"
            return replace(label, remark=f"{label.remark}; {remark}" if label.remark else remark)

    async def _refine(self, refinement: Refinement, ask: Ask) -> None:
        """Step after step, until one of the ends."""
        rewriter, stalled = self._rewriter(), 0
        for step in range(1, self.search.steps + 1):
            best = refinement.best
            findings = await refinement.findings(best, step, self.selection.window, self.search.errors)
            if not findings.has_errors:
                return
            try:
                label = await rewriter.rewritten(
                    refinement.labels[best], findings, refinement.data(best, findings), sampled(ask, step)
                )
            except RequestFailed as failure:
                if failure.kind not in LASTING:
                    raise
                refinement.fail(failure, best)
                return
            await refinement.add(label, best)
            stalled = 0 if refinement.best == step else stalled + 1
            if stalled == self.search.patience:
                return


explainers.register("refine")(Refine())
