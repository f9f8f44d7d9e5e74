"""The explainer `dual`: an input label and an output label of the same feature, kept apart, and whether they agree.

When a feature fires and what it then makes the model say need not be one concept, and a label that blurs the two is right about
neither. So two questions are asked, as `token_activation` and `output` ask them, and a third, which sees nothing but the two
descriptions: are they about the same thing? The input label is the label that is graded.

Where the logit lens has nothing, there is no output label. Where either side is unclear there is nothing to compare, and nobody
judges. A request that fails fails the whole label, so that it is tried again.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator

from autointerp.catalog.records import FeatureEvidence, Label, OutputLabel
from autointerp.explain import explainers
from autointerp.explain.asking import ModelExplainer
from autointerp.explain.output import Output
from autointerp.explain.token_activation import TokenActivation
from autointerp.hashing import hex_hash
from autointerp.llm.types import Ask, FailureKind, RequestFailed
from autointerp.prompts_loader import template_hash
from autointerp.vocabulary import Vocabulary, escape

SAME_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"same": {"type": "string", "enum": ["yes", "no"]}},
    "required": ["same"],
    "additionalProperties": False,
}


def _yes_or_no(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value.strip().lower().rstrip(".") if isinstance(value, str) else value


class SameAnswer(BaseModel):
    """Whether the two sides are about the same thing."""

    same: Annotated[Literal["yes", "no"], BeforeValidator(_yes_or_no)]


@dataclass(frozen=True, slots=True)
class Dual(ModelExplainer):
    """See the module. Its settings are those of both sides, too."""

    template = "dual"
    wants_steered = True

    @property
    def template_hash(self) -> str:
        """Of all three prompts."""
        names = (self.template, TokenActivation.template, Output.template)
        return hex_hash("templates", *(template_hash(name, directory=self.directory) for name in names))

    @property
    def version(self) -> str:
        """Changes with everything that the labels depend on, the model apart."""
        return hex_hash(self.method, self.template_hash, *(side.version for side in self._sides()))

    def _sides(self) -> tuple[TokenActivation, Output]:
        settings = (self.selection, self.max_tokens, self.temperature, self.directory)
        return TokenActivation(*settings), Output(*settings)

    async def __call__(self, evidence: FeatureEvidence, ask: Ask | None, vocabulary: Vocabulary) -> Label:
        """The input label with the output label in it. Raises RequestFailed where one of the requests fails."""
        # Both are asked before either is waited for; one that fails does not stop the other, which is paid for.
        label, output = await asyncio.gather(
            *(side(evidence, ask, vocabulary) for side in self._sides()), return_exceptions=True
        )
        if isinstance(label, BaseException):
            raise label
        if isinstance(output, RequestFailed) and output.kind == FailureKind.NO_EVIDENCE:
            return label
        if isinstance(output, BaseException):
            raise output
        safety = tuple(
            dict.fromkeys((*label.safety, *output.safety))
        )  # a reviewer must find it whichever side it is on
        said = OutputLabel(output.title, output.description, clear=output.kind != "unclear")
        return await self.compared(replace(label, safety=safety, output=said), ask)

    async def compared(self, label: Label, ask: Ask | None) -> Label:
        """The label with whether its sides agree. Nobody is asked where one is missing or unclear. Raises RequestFailed."""
        output = label.output
        if output is None or not output.clear or label.kind == "unclear":
            return label
        data = f'{{"input":"{escape(label.description)}",\n"output":"{escape(output.description)}"}}'
        answer = await self.answer(ask, data, SameAnswer, SAME_SCHEMA, "agreement")
        return replace(label, output=replace(output, agrees=answer.same == "yes"))


explainers.register("dual")(Dual())
