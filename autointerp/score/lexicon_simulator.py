"""The simulator `lexicon`: predicts activations from a label's lexicon rule. It asks no model."""

from collections.abc import Sequence
from typing import Self

from autointerp.catalog.records import Context, Label
from autointerp.errors import DataError
from autointerp.explain.lexicon_rules import Rule, predict
from autointerp.llm.types import Ask
from autointerp.score import Settings, Simulated, simulators
from autointerp.vocabulary import Vocabulary


class LexiconSimulator:
    """Reads `label.rule` and the contexts' tokens, nothing else."""

    needs_model = False
    needs: tuple[str, ...] = ()
    version = "1"

    def configured(self, settings: Settings) -> Self:
        """Itself: it has no settings."""
        return self

    def unreadable(self, label: Label) -> str | None:
        """Why it cannot read a label; None where it can."""
        try:
            Rule.from_json(label.rule)
        except DataError as error:
            return str(error)
        return None

    async def __call__(
        self, label: Label, contexts: Sequence[Context], max_activation: float, ask: Ask | None, vocabulary: Vocabulary
    ) -> list[Simulated]:
        """One prediction a context; all failed, with the reason, for a label without a lexicon rule."""
        try:
            rule = Rule.from_json(label.rule)
        except DataError as error:
            return [Simulated(context.window_id, None, "failed", str(error)) for context in contexts]
        expected = predict(rule, [context.tokens for context in contexts])
        return [Simulated(c.window_id, values, "ok") for c, values in zip(contexts, expected, strict=True)]


simulators.register("lexicon")(LexiconSimulator())
