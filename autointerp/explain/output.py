"""The explainer `output`: what a feature makes the model say, from the tokens that it promotes and suppresses.

After Gur-Arieh et al. 2025, "Enhancing Automated Interpretability with Output-Centric Feature Descriptions": the feature's
vocabulary projection (the logit lens) and, where somebody measured them, the tokens whose probability changes when the model
is steered. Ours differs: a few texts in which the feature peaks, each with what came after the peak, help to choose between
readings of the lists; logits are shown as whole numbers 0..10 of the largest, since their scale means nothing by itself; and
"unclear" is an allowed answer. Texts are of the explain split only; they and the tokens go in as fenced JSON.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator

from autointerp.catalog.records import Context, FeatureEvidence, Label
from autointerp.explain import explainers
from autointerp.explain.answers import SCHEMA, Kind, LabelAnswer
from autointerp.explain.asking import ModelExplainer, no_evidence
from autointerp.explain.exemplars import choose
from autointerp.llm.types import Ask
from autointerp.vocabulary import Vocabulary, escape

_STRENGTHS = 10
_OF_INPUT = {"token", "phrase", "topic", "syntax", "position", "format"}

OUTPUT_SCHEMA: Mapping[str, Any] = {
    **SCHEMA,
    "properties": {**SCHEMA["properties"], "kind": {"type": "string", "enum": ["output", "mixed", "unclear"]}},
}


def _kind(value: object) -> object:
    """Models that name the kind of the promoted tokens mean one thing that is said."""
    value = value.strip().lower() if isinstance(value, str) else value
    return "output" if value in _OF_INPUT else value


class OutputAnswer(LabelAnswer):
    """As of every explainer, but of the kinds that an output label can have."""

    kind: Annotated[Kind, BeforeValidator(_kind)] = "output"


@dataclass(frozen=True, slots=True)
class Output(ModelExplainer):
    """See the module. `texts`: how many of the chosen exemplars are shown, the strongest."""

    template = "output"
    wants_steered = True
    texts: ClassVar[int] = 6

    async def __call__(self, evidence: FeatureEvidence, ask: Ask | None, vocabulary: Vocabulary) -> Label:
        """The model's label. Raises RequestFailed where neither lens nor steering says anything, and as `answer` does."""
        if ask is not None and not (evidence.promoted or evidence.suppressed or evidence.steered):
            raise no_evidence("the logit lens says nothing of this feature: no token is promoted or suppressed")
        shown = [exemplar.context for exemplar in choose(evidence, self.selection).active[: self.texts]]
        data = effects_as_json(evidence, shown, self.selection.window, vocabulary)
        steered = evidence.steered is not None
        answer = await self.answer(ask, data, OutputAnswer, OUTPUT_SCHEMA, steered=steered)
        return answer.label([context.window_id for context in shown])


def effects_as_json(evidence: FeatureEvidence, shown: Sequence[Context], window: int, vocabulary: Vocabulary) -> str:
    """JSON, written by hand around what is escaped already: a line each for the lists and the texts."""
    largest = max((abs(logit) for logit in (*evidence.promoted_logits, *evidence.suppressed_logits)), default=0.0)

    def weighed(tokens: Sequence[int], logits: Sequence[float]) -> str:
        pairs = zip(tokens, logits, strict=True)
        return ",".join(f'["{vocabulary.escaped(token)}",{_strength(logit, largest)}]' for token, logit in pairs)

    def listed(tokens: Sequence[int]) -> str:
        return ",".join(f'"{vocabulary.escaped(token)}"' for token in tokens)

    lines = [
        f'{{"promoted":[{weighed(evidence.promoted, evidence.promoted_logits)}]',
        f'"suppressed":[{weighed(evidence.suppressed, evidence.suppressed_logits)}]',
    ]
    if evidence.steered is not None:
        up, down = listed(evidence.steered.up), listed(evidence.steered.down)
        lines.append(f'"steered":{{"kl":{evidence.steered.kl:.2g},"up":[{up}],"down":[{down}]}}')
    texts = ",\n".join(_text(context, window, vocabulary) for context in shown)
    return ",\n".join(lines) + f',\n"texts":[\n{texts}\n]}}'


def _strength(logit: float, largest: float) -> int:
    return round(abs(logit) / largest * _STRENGTHS) if largest > 0 else 0


def _text(context: Context, window: int, vocabulary: Vocabulary) -> str:
    """The `window` tokens around the peak, half of them after it: what follows is what the feature may have brought about."""
    peak = int(context.activations.argmax())
    begin = max(0, min(peak - window // 2, len(context.tokens) - window))
    parts = {
        "before": context.tokens[begin:peak],
        "at": context.tokens[peak : peak + 1],
        "after": context.tokens[peak + 1 : begin + window],
    }
    return "{" + ",".join(f'"{name}":"{escape(vocabulary.join(part))}"' for name, part in parts.items()) + "}"


explainers.register("output")(Output())
