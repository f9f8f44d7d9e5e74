"""The simulator `logprob_free`: any chat model, no log-probabilities. It answers in structured JSON.

The form of question and answer was chosen for alignment first and cost second, in tokens of a current tokenizer a token of text:
- The texts are running text with marks where token boundaries are not as expected (`running_text`): 1.03 on stories, 1.1 to 1.5
  on web pages and source code of current models' tokens, 1.5 on the demo's short ones. A position beside every token would cost
  4.0 to 4.3, a JSON list of tokens 2.8, a mark at every boundary 1.9 to 2.1.
- The answer names active tokens only, by their text and, where not all places of that token are meant, by their number among
  them: [" run", 8] or [" run", 8, 2]. The text proves that both mean the same token; nobody has to count positions.
- 25 texts share the instructions. How questions are put, and why they begin alike, is in `questions`.

An entry that names no token of its text, or could mean either of two, makes the text's answer unusable. It is asked for once
more, by itself; then the context is failed. It is never taken for silent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from autointerp.catalog.records import Context, Label
from autointerp.llm.types import Ask, RequestFailed
from autointerp.running_text import CUT, JOIN
from autointerp.score import Settings, Simulated, simulators
from autointerp.score.discretise import LEVELS
from autointerp.score.questions import Form, MisalignedError, Question, ask_about, quoted
from autointerp.vocabulary import Vocabulary, escape


@dataclass(frozen=True, slots=True)
class LogprobFree:
    """See the module."""

    form: Form = field(default_factory=Form)
    needs_model: bool = True
    needs: tuple[str, ...] = ("json_schema",)

    def configured(self, settings: Settings) -> Self:
        """The same simulator with a run's settings."""
        return replace(self, form=Form.of(settings))

    @property
    def version(self) -> str:
        """Changes with everything that the simulations depend on, the model apart."""
        return self.form.version(QUESTION.template)

    async def __call__(
        self,
        label: Label,
        contexts: Sequence[Context],
        max_activation: float,
        ask: Ask | None,
        vocabulary: Vocabulary,
    ) -> list[Simulated]:
        """One result for each context, in their order. Raises UserError where `ask` is None or ends the run."""
        outcomes = await ask_about(QUESTION, self.form, label, contexts, ask, vocabulary)
        return [_simulated(context, outcome) for context, outcome in zip(contexts, outcomes, strict=True)]


def expected_values(tokens: Sequence[str], entries: Sequence[Any]) -> NDArray[np.float32]:
    """The activations [T] that entries [token, activation] or [token, activation, place, …] give to a text's tokens.

    Raises MisalignedError where an entry is of another form, does not name a token of the text, or names one anew.
    """
    expected = np.zeros(len(tokens), dtype=np.float32)
    seen: set[int] = set()
    for entry in entries:
        if not isinstance(entry, list) or [type(part) for part in entry[:2]] != [str, int]:
            raise MisalignedError(f"expected [token, activation], found {quoted(entry)}")
        token, value, *places = entry
        if not 0 <= value <= LEVELS:
            raise MisalignedError(f"activation {value} of {quoted(token)}; expected 0 to {LEVELS}")
        positions = _positions(tokens, token)
        if any(type(place) is not int or not 1 <= place <= len(positions) for place in places):
            raise MisalignedError(f"{quoted(entry)}: that token stands at {len(positions)} places of the text")
        chosen = {positions[place - 1] for place in places} if places else set(positions)
        if seen & chosen or len(chosen) < len(places):
            raise MisalignedError(f"{quoted(entry)} names a token that was named before")
        seen |= chosen
        expected[list(chosen)] = value
    return expected


def _positions(tokens: Sequence[str], echo: str) -> list[int]:
    """Where the token stands that a model wrote as `echo`. Models drop outer spaces, copy marks, or escape twice."""
    exact = [position for position, token in enumerate(tokens) if token == echo]
    if exact:
        return exact
    plain = echo.replace(JOIN, "").strip(CUT).strip()
    like = [p for p, token in enumerate(tokens) if plain and plain in (token.strip(), escape(token).strip())]
    meant = {tokens[position] for position in like}
    if len(meant) == 1:
        return like
    if meant:
        raise MisalignedError(f"{quoted(echo)} could be {' or '.join(map(quoted, sorted(meant)))}")
    raise MisalignedError(f"{quoted(echo)} is no token of the text")


def _simulated(context: Context, outcome: NDArray[np.float32] | RequestFailed) -> Simulated:
    if isinstance(outcome, RequestFailed):
        return Simulated(context.window_id, None, "failed", str(outcome))
    return Simulated(context.window_id, outcome, "ok")


QUESTION = Question("logprob_free", "activations", "simulate", expected_values)
simulators.register("logprob_free")(LogprobFree())
