"""The scorer `surprisal`: does a language model that knows the label find texts likelier in which the feature is active?

After Paulo et al. 2024, "Automatically Interpreting Millions of Features in Large Language Models", appendix D.3: a text's value
is its cross-entropy after the description "Various unrelated sentences." less that after the label, and the score is the AUROC
of that value for "the feature is active in it". The loss is the mean over the text's own tokens, in nats a token; the paper does
not say whether it is the mean or the sum, which is the same there, since all its texts are of one length. Ours differs in its
contexts and weights, which are those of `detection`, and in its prompt (prompts/surprisal.j2).

The text is the same tokens in both prompts; where a server makes others of it, the context is failed. The losses after the
generic description are asked for once, whatever labels a text is compared with.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

from autointerp.catalog.records import FeatureEvidence, Label
from autointerp.errors import UserError
from autointerp.hashing import hex_hash
from autointerp.llm.types import Ask, FailureKind, Request, RequestFailed, TokenLogprobs
from autointerp.prompts_loader import render, template_hash
from autointerp.score import Grade, Means, Settings, Wants, scorers
from autointerp.score.asked import all_asked
from autointerp.score.detection import judged_contexts
from autointerp.score.separation import Unusable, score_separation, valued

NAME = "surprisal"
GENERIC = "Various unrelated sentences."  # as published
_IMPOSSIBLE = -1e6  # nats; what is less likely stands for a probability of 0


@dataclass(frozen=True, slots=True)
class Surprisal:
    """See the module."""

    directory: Path | None = None
    resamples: int = 1000
    seed: int = 0
    wants: ClassVar[Wants] = Wants(model=True, capabilities=("prompt_logprobs",), negatives=True)
    simulator: ClassVar[str] = ""
    ranks: ClassVar[tuple[str, ...]] = ("auroc",)

    def configured(self, settings: Settings) -> Self:
        """The same scorer with a run's settings."""
        return replace(self, directory=settings.directory, resamples=settings.resamples, seed=settings.seed)

    @property
    def version(self) -> str:
        """Changes with everything that the losses and scores depend on, the model apart."""
        return hex_hash("1", template_hash(NAME, directory=self.directory))

    async def __call__(self, label: Label, evidence: FeatureEvidence, means: Means) -> Grade:
        """The differences of losses and what they come to. Raises UserError where there is no model, or it ends the run."""
        if means.ask is None:
            raise UserError("the scorer surprisal asks a model, and none is given; name one with --label-model")
        ask, contexts = means.ask, judged_contexts(evidence)
        # Chat templates cut white space from the ends of messages, so that it cannot be asked for everywhere.
        texts = {context.window_id: means.vocabulary.join(context.tokens).strip() for context in contexts}
        gains = await all_asked(self._gain(ask, label.description, text) for text in texts.values())
        gain_of = dict(zip(texts, gains, strict=True))
        judged = [valued(context, gain_of[context.window_id]) for context in contexts]
        rows = score_separation(NAME, evidence, judged, seed=self.seed, resamples=self.resamples)
        return Grade(rows, judged=judged)

    async def _gain(self, ask: Ask, description: str, text: str) -> float | Unusable:
        """Loss after the generic description less that after the label, nats a token."""
        generic, labelled = await all_asked(self._losses(ask, one, text) for one in (GENERIC, description))
        return gain(generic, labelled)

    async def _losses(self, ask: Ask, description: str, text: str) -> Sequence[TokenLogprobs] | Unusable:
        if not text:
            return Unusable(f"{FailureKind.NO_EVIDENCE}: the text holds nothing but white space")
        # Not fenced: nothing that the model writes is read. On one line, so that it begins no collection of its own.
        prompt = render(NAME, directory=self.directory, explanation=" ".join(description.split()))
        request = Request(
            messages=prompt.messages, max_tokens=1, logprobs=0, continuation=text, purpose=NAME,
            template_hash=prompt.template_hash, check=lambda answered: True,
        )  # fmt: skip
        try:
            return (await ask(request)).logprobs
        except RequestFailed as failure:
            return Unusable(str(failure))


def gain(generic: Sequence[TokenLogprobs] | Unusable, labelled: Sequence[TokenLogprobs] | Unusable) -> float | Unusable:
    """The mean loss of a text's tokens as the first says, less that as the second says, in nats."""
    if isinstance(generic, Unusable):
        return generic
    if isinstance(labelled, Unusable):
        return labelled
    if not generic or any(not token.logprob > _IMPOSSIBLE for token in (*generic, *labelled)):
        return Unusable(f"{FailureKind.MALFORMED}: a token of the text has no log-probability, or a probability of 0")
    if [token.token for token in generic] != [token.token for token in labelled]:
        return Unusable(f"{FailureKind.MALFORMED}: the text is not the same tokens after both descriptions")
    pairs = zip(generic, labelled, strict=True)
    return math.fsum(known.logprob - before.logprob for before, known in pairs) / len(generic)


scorers.register(NAME)(Surprisal())
