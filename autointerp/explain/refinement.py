"""What `refine` knows of the labels of one feature: their simulations, their scores, what their author was shown.

It depends on its inputs and on the answers alone, so that it comes out the same when it is run again from the journal.
"""

from collections.abc import Sequence
from dataclasses import replace

from autointerp.catalog.records import Candidate, Context, FeatureEvidence, Label
from autointerp.explain.exemplars import bands_in_turn, distinct, in_turn
from autointerp.explain.marking import listed, quoted
from autointerp.explain.mistakes import Findings, findings_json, findings_of
from autointerp.explain.trial import NO_CONTEXT, Verdict, best_of, compared_contexts, simulations, verdicts_of
from autointerp.llm.types import Ask, RequestFailed
from autointerp.score import Simulated, Simulator
from autointerp.score.discretise import discretise
from autointerp.vocabulary import Vocabulary

PER_BAND, HARD = 2, 2  # compared contexts of a band, and hard negatives among them
PROBED = 5  # contexts of each side in which a step looks for errors


class Refinement:
    """The labels of one feature that were tried, by index from 0, and what is known of them."""

    def __init__(
        self, simulator: Simulator, evidence: FeatureEvidence, first: Label, ask: Ask, vocabulary: Vocabulary
    ) -> None:
        self._simulator, self._maximum = simulator, evidence.max_activation
        self._ask, self._vocabulary = ask, vocabulary
        self.compared = compared_contexts(evidence, PER_BAND, HARD)
        self._probes = probed_contexts(evidence, first.evidence)
        self.labels: list[Label] = []
        self._parents: list[int | None] = []
        self._compared: list[list[Simulated]] = []
        self._probed: dict[int, dict[int, tuple[Context, Simulated]]] = {}  # label → window → its prediction
        self._shown: dict[int, set[int]] = {}  # label → windows whose errors its author was shown
        self._failed: list[Candidate] = []
        self._remarks: list[str] = []

    @property
    def verdicts(self) -> list[Verdict]:
        if not self.compared:
            return [Verdict(None, NO_CONTEXT)] * len(self.labels)
        return verdicts_of(self.compared, self._compared)

    @property
    def best(self) -> int:
        """The label with the best score; the first where none has one."""
        return best_of(self.verdicts) or 0

    async def add(self, label: Label, parent: int | None) -> None:
        """Try a label on the compared contexts. One that says what an earlier one says is not simulated again."""
        said = [other.description for other in self.labels]
        if label.description in said:
            simulated = self._compared[said.index(label.description)]
        else:
            simulated = await self._simulated(label, self.compared, "rerank")
        self.labels.append(label)
        self._parents.append(parent)
        self._compared.append(simulated)

    async def findings(self, index: int, step: int, window: int, most: int) -> Findings:
        """Errors of the label in the contexts of this step, and in those where it was probed before, that were not shown yet."""
        known, shown = self._probed.setdefault(index, {}), self._shown.setdefault(index, set())
        fresh = [context for context in batch(self._probes, step) if context.window_id not in known]
        for context, one in zip(fresh, await self._simulated(self.labels[index], fresh, "probe"), strict=True):
            known[context.window_id] = context, one
        failed = [one for _, one in known.values() if one.expected is None]
        if failed and len(failed) == len(known):
            self._remarks.append(
                f"refined no further: no context could be simulated to find errors: {failed[0].reason}"
            )
        left = [pair for name, pair in known.items() if name not in shown]
        found = findings_of([context for context, _ in left], [one for _, one in left], self._maximum, window, most)
        shown.update(one.window for one in (*found.false_alarms, *found.misses))
        return found

    async def _simulated(self, label: Label, contexts: Sequence[Context], purpose: str) -> list[Simulated]:
        if not contexts:
            return []
        args = self._maximum, self._ask, self._vocabulary, purpose
        (found,) = await simulations(self._simulator, [label], contexts, *args)
        return found

    def data(self, index: int, findings: Findings) -> str:
        """What the model is told: the label, the others that were tried, the findings. JSON."""
        verdicts = self.verdicts
        earlier = [
            _label_json(label, verdict)
            for other, (label, verdict) in enumerate(zip(self.labels, verdicts, strict=True))
            if other != index
        ]
        label = _label_json(self.labels[index], verdicts[index])
        return f'{{"label":{label},\n{listed("others", earlier)},\n{findings_json(findings, self._vocabulary)}}}'

    def fail(self, failure: RequestFailed, parent: int) -> None:
        """Note that a label was asked for and could not be had."""
        number = len(self.labels) + 1
        self._failed.append(Candidate(number, None, None, None, False, str(failure), parent + 1))
        self._remarks.append(f"refined no further: {failure}")

    def result(self) -> Label:
        """The best label, with all that were tried, and what should be known of how it came about."""
        best, verdicts = self.best, self.verdicts
        candidates = [
            _candidate(number, label, verdict, best + 1, parent)
            for number, (label, verdict, parent) in enumerate(
                zip(self.labels, verdicts, self._parents, strict=True), start=1
            )
        ]
        remarks = list(self._remarks)
        if verdicts[best].score is None:
            remarks.insert(0, f"the first label, not chosen by score: {verdicts[best].reason}")
        remark = "; ".join(remarks) or None
        return replace(self.labels[best], candidates=[*candidates, *self._failed], remark=remark)


def probed_contexts(evidence: FeatureEvidence, seen: Sequence[int]) -> tuple[list[Context], list[Context]]:
    """Active and silent contexts of the explain split, in the order in which errors are looked for in them.

    Active ones: random draws, of all bands in turn, then top ones; those `seen` in the first prompt (window ids) come last.
    What would be shown as silent is left out. Silent ones: hard negatives of both kinds and random ones in turn, each list
    from its end, since explainers show its beginning.
    """
    draws, top = bands_in_turn(evidence.of("explain", ("band",))), evidence.of("explain", ("top",))
    active = [one for one in distinct(draws, top) if discretise(one.activations, evidence.max_activation).any()]
    active.sort(key=lambda context: context.window_id in set(seen))
    kinds = (evidence.of("explain", (kind,))[::-1] for kind in ("near", "token", "silent"))
    return active, distinct(in_turn(*kinds))


def batch(probes: Sequence[Sequence[Context]], step: int) -> list[Context]:
    """The contexts of each side that belong to a step, from 1: the next ones, and from the beginning again after the last."""
    return [
        side[place % len(side)]
        for side in probes
        for place in range((step - 1) * PROBED, (step - 1) * PROBED + min(PROBED, len(side)))
    ]


def _label_json(label: Label, verdict: Verdict) -> str:
    r = "null" if verdict.score is None else f"{round(verdict.score, 2) + 0.0:.2f}"  # never -0.00
    title, description, scope = (quoted(text) for text in (label.title, label.description, label.scope or ""))
    return f'{{"title":{title},"description":{description},"scope":{scope},"r":{r}}}'


def _candidate(number: int, label: Label, verdict: Verdict, chosen: int, parent: int | None) -> Candidate:
    made_from = None if parent is None else parent + 1
    return Candidate(number, label.title, label.description, verdict.score, number == chosen, verdict.reason, made_from)
