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

from autointerp.catalog.records import Context, FeatureEvidence, Label
from autointerp.errors import UserError
from autointerp.hashing import hex_hash
from autointerp.llm.types import Ask, FailureKind, Request, RequestFailed, TokenLogprobs
from autointerp.prompts_loader import render, template_hash
from autointerp.score import Grade, Judged, Means, Settings, Wants, scorers
from autointerp.score.detection import judged_contexts
from autointerp.score.questions import all_asked
from autointerp.score.separation import score_separation

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
        pairs = await all_asked(
            all_asked(self._losses(ask, description, text) for description in (GENERIC, label.description))
            for text in texts.values()
        )
        gains = dict(zip(texts, (_gain(*pair) for pair in pairs), strict=True))
        judged = [_judged(context, gains[context.window_id]) for context in contexts]
        rows = score_separation(NAME, evidence, judged, seed=self.seed, resamples=self.resamples)
        return Grade(rows, judged=judged)

    async def _losses(self, ask: Ask, description: str, text: str) -> Sequence[TokenLogprobs] | RequestFailed:
        if not text:
            return RequestFailed(FailureKind.NO_EVIDENCE, "the text holds nothing but white space")
        # Not fenced: nothing that the model writes is read. On one line, so that it begins no collection of its own.
        prompt = render(NAME, directory=self.directory, explanation=" ".join(description.split()))
        request = Request(
            messages=prompt.messages, max_tokens=1, logprobs=0, continuation=text, purpose=NAME,
            template_hash=prompt.template_hash, check=lambda answered: True,
        )  # fmt: skip
        try:
            return (await ask(request)).logprobs
        except RequestFailed as failure:
            return failure


def _gain(
    generic: Sequence[TokenLogprobs] | RequestFailed, labelled: Sequence[TokenLogprobs] | RequestFailed
) -> float | RequestFailed:
    """Loss after the generic description less that after the label, nats a token."""
    for side in (generic, labelled):
        if isinstance(side, RequestFailed):
            return side
        if not side or any(not token.logprob > _IMPOSSIBLE for token in side):
            return RequestFailed(
                FailureKind.MALFORMED, "a token of the text has no log-probability, or a probability of 0"
            )
    assert not isinstance(generic, RequestFailed) and not isinstance(labelled, RequestFailed)
    if [token.token for token in generic] != [token.token for token in labelled]:
        return RequestFailed(FailureKind.MALFORMED, "the text is not the same tokens after both descriptions")
    return math.fsum(after.logprob - before.logprob for before, after in zip(generic, labelled, strict=True)) / len(
        generic
    )


def _judged(context: Context, gain: float | RequestFailed) -> Judged:
    truth = context.peak > 0
    if isinstance(gain, RequestFailed):
        return Judged(context.window_id, context.kind, truth, None, "failed", str(gain))
    return Judged(context.window_id, context.kind, truth, None, "ok", value=gain)


scorers.register(NAME)(Surprisal())
