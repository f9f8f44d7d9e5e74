"""A bench without a model, and the explainer that stands in for `refine`, for tests of explainers that experiment."""

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from autointerp.catalog.records import FeatureEvidence, Label, Split
from autointerp.errors import UserError
from autointerp.explain.bench import Continuations, Neighbour
from autointerp.explain.exemplars import Selection
from autointerp.llm.types import Ask, Message, Request
from autointerp.vocabulary import Vocabulary


class WordBench:
    """Knows words "w12" as token 12. `strength` of a word: its activation. `calls`: what was computed.

    `missing`: why it can do nothing; `fixed`: why it cannot steer.
    """

    def __init__(
        self, strength: dict[int, float] | None = None, missing: str | None = None, fixed: str | None = None
    ) -> None:
        self.strength = strength or {}
        self.missing, self.fixed = missing, fixed
        self.calls: list[tuple[Any, ...]] = []
        self.at_once = self.most_at_once = 0
        self._guard = threading.Lock()

    def activations(self, feature_id: int, text: str) -> list[tuple[int, float]]:
        self._computed("activations", feature_id, text)
        return [(int(word), self.strength.get(int(word), 0.0)) for word in re.findall(r"w(\d+)", text)]

    def peaks(self, feature_id: int, texts: Sequence[str]) -> list[float | None]:
        return [max((value for _, value in self.activations(feature_id, text)), default=None) for text in texts]

    def nearest(self, feature_id: int, count: int) -> Sequence[Neighbour]:
        self._computed("nearest", feature_id, count)
        return [
            Neighbour(100 + number, 0.987654 / (number + 1), None if number else 'A "title"') for number in range(count)
        ]

    def steered(self, feature_id: int, prompt: str, strength: float, tokens: int) -> Continuations:
        if self.fixed:
            raise UserError(self.fixed)
        self._computed("steered", feature_id, prompt, strength, tokens)
        return Continuations(" as it is\n", f" switched on {strength:g} times <|im_end|>")

    def _computed(self, *call: Any) -> None:
        with self._guard:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        if self.missing:
            raise UserError(self.missing)
        self.calls.append(call)
        with self._guard:
            self.at_once -= 1


@dataclass(frozen=True)
class FakeRefine:
    """Asks one question with the splits that it was given, and says so in its title."""

    needs_model = True
    needs: tuple[str, ...] = ("json_schema",)
    wants_negatives = False
    wants_steered = False
    splits: tuple[Split, ...] = ("explain", "rerank")
    version = "fake"
    template_hash = None
    selection: None = None

    def configured(self, selection: Selection, directory: Path | None, search: Any = None) -> Self:
        return self

    async def __call__(self, evidence: FeatureEvidence, ask: Ask | None, vocabulary: Vocabulary) -> Label:
        assert ask is not None
        await ask(Request([Message("user", f"refine feature {evidence.feature_id}")], purpose="explain"))
        seen = sorted({context.split for context in evidence.contexts})
        return Label("refined", f"The splits {', '.join(seen)}.", "topic", remark="of its own")
