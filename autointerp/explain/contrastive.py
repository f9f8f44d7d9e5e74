"""The explainer `contrastive`: active texts against texts in which the feature could be expected to fire, and does not.

A label from active texts alone is easily too broad: it fits all that was shown, and much that was not. Here silent texts are
shown as well, hard negatives first (a decoder neighbour fires there, or the feature's top token stands there), and the label must
separate the two. Where there are too few of them random silent texts stand in, and the prompt says which is which.
Texts are of the explain split only.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Self

from autointerp.catalog.records import Context, FeatureEvidence, Label
from autointerp.explain import DEFAULT_SEARCH, Search, explainers
from autointerp.explain.asking import ModelExplainer
from autointerp.explain.counts import counts_json
from autointerp.explain.exemplars import Exemplar, Selection, Show, choose, cut, hard_negatives
from autointerp.explain.marking import listed, marked_text, marks_for_exemplars, quoted
from autointerp.llm.types import Ask, FailureKind, RequestFailed
from autointerp.vocabulary import Vocabulary

NEGATIVES = 10


@dataclass(frozen=True, slots=True)
class Contrastive(ModelExplainer):
    """See the module. `exemplars.negatives` is the number of silent texts; 10 where it is 0."""

    template = "contrastive"
    method = "2"
    wants_negatives = True

    selection: Selection = field(default_factory=lambda: Selection(negatives=NEGATIVES, show="both"))

    def configured(self, selection: Selection, directory: Path | None, search: Search = DEFAULT_SEARCH) -> Self:
        chosen = replace(selection, negatives=selection.negatives or NEGATIVES)
        return replace(self, selection=chosen, directory=directory)

    async def __call__(self, evidence: FeatureEvidence, ask: Ask | None, vocabulary: Vocabulary) -> Label:
        """The model's label; see `ModelExplainer.label`. Raises RequestFailed, too, where there is no silent text to show."""
        chosen = choose(evidence, replace(self.selection, silent=0, negatives=0))
        silent = silent_texts(evidence, self.selection)
        if chosen.active and not silent:
            raise RequestFailed(
                FailureKind.NO_EVIDENCE,
                "the explain split has no hard negative and no silent context of the feature: nothing to contrast with",
                attempts=0,
            )
        data = contrast_json(evidence, chosen.active, silent, self.selection.show, vocabulary)
        kinds = sorted({_why(exemplar) for exemplar in silent})
        return await self.label(ask, chosen, data, kinds=kinds)


def silent_texts(evidence: FeatureEvidence, selection: Selection) -> list[Exemplar]:
    """Hard negatives of both kinds in turn; then random silent ones up to `negatives` in all, or as many as `silent`.

    A window counts once, and so does a text.
    """
    found: dict[bytes, Exemplar] = {}
    windows: set[int] = set()

    def take(contexts: Iterable[Context], limit: int) -> None:
        for context in contexts:
            if len(found) >= limit:
                return
            exemplar = cut(context, evidence.max_activation, selection.window)
            if context.window_id not in windows and exemplar.tokens.tobytes() not in found:
                windows.add(context.window_id)
                found[exemplar.tokens.tobytes()] = exemplar

    take(hard_negatives(evidence, "explain"), selection.negatives)
    take(evidence.of("explain", ("silent",)), max(selection.negatives, len(found) + selection.silent))
    return list(found.values())


def contrast_json(
    evidence: FeatureEvidence,
    active: Sequence[Exemplar],
    silent: Sequence[Exemplar],
    show: Show,
    vocabulary: Vocabulary,
) -> str:
    """{"marks": …, "active": [{"text", "active"}, …], "silent": [{"why", "token", "text"}, …], "counts": …}, a line a text."""
    marks = marks_for_exemplars(chain(active, silent), vocabulary)
    head = "" if show == "levels" else f'"marks":{marks.json},'
    shown = listed("active", [marked_text(exemplar, show, marks, vocabulary) for exemplar in active])
    quiet = listed("silent", [_silent(exemplar, vocabulary) for exemplar in silent])
    return f"{{{head}{shown},{quiet},\n{counts_json(evidence, vocabulary)}}}"


def _why(exemplar: Exemplar) -> str:
    """Why a silent text was chosen, as the prompt calls it."""
    return {"near": "near", "token": "token"}.get(exemplar.context.kind, "random")


def _silent(exemplar: Exemplar, vocabulary: Vocabulary) -> str:
    token = ""
    if (
        exemplar.context.cause_position is not None
    ):  # the text is cut around it: where the neighbour peaks, or the token
        token = f'"token":{quoted(vocabulary.text(int(exemplar.tokens[exemplar.peak])))},'
    return f'{{"why":"{_why(exemplar)}",{token}"text":{quoted(vocabulary.join(exemplar.tokens))}}}'


explainers.register("contrastive")(Contrastive())
