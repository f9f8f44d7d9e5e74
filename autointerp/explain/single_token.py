"""The explainer `single_token`: of a feature that one token carries, only what is still open is asked, and little is shown.

Many features fire on one token and hardly anywhere else. What the token is need not be asked; what remains is in which
contexts it fires, on which spellings of it, and how strength goes with the place. So short snippets around the
token's occurrences are shown, active and silent ones, and a table of its spellings. For any other feature the explainer
makes no claim: it fails with the share as the reason. All that is shown and counted is of the explain split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autointerp.catalog.records import Context, FeatureEvidence, Label
from autointerp.explain import explainers
from autointerp.explain.asking import ModelExplainer
from autointerp.explain.exemplars import choose
from autointerp.explain.marking import Marks, listed, marked, marks_for, quoted
from autointerp.llm.types import Ask, FailureKind, RequestFailed
from autointerp.score.discretise import discretise
from autointerp.vocabulary import Vocabulary

BEFORE, AFTER = 8, 3  # tokens of a snippet on either side of the occurrence
ACTIVE, SILENT = 12, 6  # occurrences shown at most
OTHERS = 5  # other tokens listed at most
SPELLINGS = 6


@dataclass(frozen=True, slots=True)
class SingleToken(ModelExplainer):
    """`least_share`: of the summed activation that the token must carry for a claim."""

    template = "single_token"
    method = "2"

    least_share: float = 0.9

    async def __call__(self, evidence: FeatureEvidence, ask: Ask | None, vocabulary: Vocabulary) -> Label:
        """The model's label; see `ModelExplainer.label`. Raises RequestFailed, too, where no token carries the feature."""
        chosen = choose(evidence, replace(self.selection, silent=0, negatives=0))
        if not chosen.active:
            return await self.label(ask, chosen, "")
        shown = [exemplar.context for exemplar in chosen.active]
        shares = token_shares(shown)
        token, share = next(iter(shares.items()))
        if share < self.least_share:
            reason = (
                f"its strongest token, {quoted(vocabulary.text(token))}, carries {share:.0%} of the feature's activation in the "
                f"explain split, below {self.least_share:.0%}: this is no feature of a single token"
            )
            raise RequestFailed(FailureKind.NO_EVIDENCE, reason, attempts=0)
        texts = _texts(evidence, shown, token, vocabulary)
        data = occurrences_json(evidence, texts, shares, vocabulary)
        return await self.label(ask, chosen, data, silent=any(not one.level for one in texts))


def token_shares(contexts: Sequence[Context]) -> dict[int, float]:
    """Token id → its share of the summed activation of `contexts`, the largest first; ties by id. Shares of 0 are left out."""
    tokens = np.concatenate([context.tokens for context in contexts])
    sums = np.bincount(tokens, weights=np.concatenate([context.activations for context in contexts]))
    order = np.argsort(-sums, kind="stable")
    return {int(token): float(sums[token] / sums.sum()) for token in order if sums[token] > 0}


@dataclass(frozen=True, slots=True)
class _Occurrence:
    """A token of a context, with its activation in levels."""

    context: Context
    at: int
    level: int

    @property
    def tokens(self) -> NDArray[np.int32]:
        """The snippet around it."""
        return self.context.tokens[max(0, self.at - BEFORE) : self.at + AFTER + 1]


def occurrences_json(
    evidence: FeatureEvidence, texts: "Sequence[_Occurrence]", shares: Mapping[int, float], vocabulary: Vocabulary
) -> str:
    """{"token", "percent", "others": [[token, percent], …], "spellings": [{"token", "active", "silent"}, …], "marks",
    "texts": [{"text", "before", "level"}, …]}; "before" counts the tokens before the marked one.
    """
    (token, share), *others = list(shares.items())[: OTHERS + 1]
    of_others = ",".join(f"[{quoted(vocabulary.text(other))},{100 * part:.1f}]" for other, part in others)
    marks = marks_for(vocabulary.join(one.tokens) for one in texts)
    parts = [
        f'"token":{quoted(vocabulary.text(token))}',
        f'"percent":{100 * share:.1f}',
        f'"others":[{of_others}]',
        listed("spellings", [_counted(one, vocabulary) for one in _spellings(evidence, token, vocabulary)]),
        f'"marks":{marks.json}',
        listed("texts", [_snippet(one, marks, vocabulary) for one in texts]),
    ]
    return f"{{{','.join(parts)}}}"


def _texts(
    evidence: FeatureEvidence, shown: Sequence[Context], token: int, vocabulary: Vocabulary
) -> list[_Occurrence]:
    """The token's strongest occurrences in contexts of `shown`, spread evenly from strong to weak; the strongest one of each
    other spelling that is active; then silent ones."""
    active = [max(found, key=lambda one: one.level) for found in _by_context(evidence, shown, token)]
    silent = [
        one
        for found in _by_context(evidence, [*evidence.of("explain", ("silent", "token")), *shown], token)
        for one in [one for one in found if one.level == 0][:1]
    ]
    texts = [*sorted((one for one in active if one.level), key=lambda one: -one.level), *silent]
    distinct = list({(one.tokens.tobytes(), one.level > 0): one for one in reversed(texts)}.values())[::-1]
    active = [one for one in distinct if one.level]
    spread = [active[index * len(active) // ACTIVE] for index in range(ACTIVE)] if len(active) > ACTIVE else active
    others = [one.token for one in _spellings(evidence, token, vocabulary) if one.active and one.token != token]
    spelt = [_strongest(evidence, other) for other in others]
    return [*spread, *spelt, *[one for one in distinct if not one.level][:SILENT]]


def _strongest(evidence: FeatureEvidence, token: int) -> _Occurrence:
    """Where a token that is active in the explain split is strongest."""
    found = _by_context(evidence, evidence.of("explain", ("top", "band")), token)
    return max((one for some in found for one in some), key=lambda one: one.level)


def _by_context(evidence: FeatureEvidence, contexts: Sequence[Context], token: int) -> list[list[_Occurrence]]:
    """The occurrences of `token` in each window that holds it; each window once."""
    found = []
    for context in {context.window_id: context for context in contexts}.values():
        levels = discretise(context.activations, evidence.max_activation)
        places = np.flatnonzero(context.tokens == token)
        if len(places):
            found.append([_Occurrence(context, int(at), int(levels[at])) for at in places])
    return found


@dataclass(frozen=True, slots=True)
class _Spelling:
    """A token, and at how many places it is active, and silent."""

    token: int
    active: int
    silent: int


def _spellings(evidence: FeatureEvidence, token: int, vocabulary: Vocabulary) -> list[_Spelling]:
    """The token and those that differ from it by spaces and case alone, with how often each is active, and silent."""
    contexts = {context.window_id: context for context in evidence.of("explain", ("top", "band", "silent", "token"))}
    tokens = np.concatenate([context.tokens for context in contexts.values()])
    on = np.concatenate([discretise(one.activations, evidence.max_activation) > 0 for one in contexts.values()])
    plain = _plain(token, vocabulary)
    same = [int(other) for other in np.unique(tokens) if plain and _plain(int(other), vocabulary) == plain] or [token]
    counts = sorted((-int((tokens == other).sum()), other, int(on[tokens == other].sum())) for other in same)
    return [_Spelling(other, active, -count - active) for count, other, active in counts[:SPELLINGS]]


def _counted(one: _Spelling, vocabulary: Vocabulary) -> str:
    return f'{{"token":{quoted(vocabulary.text(one.token))},"active":{one.active},"silent":{one.silent}}}'


def _plain(token: int, vocabulary: Vocabulary) -> str:
    return vocabulary.text(token).strip().casefold()


def _snippet(one: _Occurrence, marks: Marks, vocabulary: Vocabulary) -> str:
    chosen = np.arange(len(one.tokens)) == min(one.at, BEFORE)
    text = marked(one.tokens, chosen, marks, vocabulary)
    return f'{{"text":{text},"before":{one.at},"level":{one.level}}}'


explainers.register("single_token")(SingleToken())
