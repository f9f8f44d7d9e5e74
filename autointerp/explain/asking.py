"""What explainers that ask a model share: settings, the request, one more try for an answer that cannot be used."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

from autointerp.catalog.records import Label, Split
from autointerp.errors import UserError
from autointerp.explain import DEFAULT_SEARCH, Search
from autointerp.explain.answers import SCHEMA, LabelAnswer
from autointerp.explain.exemplars import Exemplars, Selection
from autointerp.explain.parsing import Record, can_parse, parse_answer
from autointerp.hashing import hex_hash
from autointerp.llm.types import Ask, FailureKind, Message, Request, RequestFailed
from autointerp.prompts_loader import fenced, render, template_hash

AGAIN = "That answer cannot be used: {reason}. Answer again, in the form that was asked for."
_SHOWN = 4000  # characters of an answer that could not be used


@dataclass(frozen=True, slots=True)
class ModelExplainer:
    """The settings of an explainer, and how it asks. An explainer is a subclass with a template and a `__call__`.

    `template` names the prompt in prompts/; `method` changes with what the code puts into it. `directory` holds the user's own
    prompts; `temperature` None leaves it to the provider.
    """

    template: ClassVar[str]
    method: ClassVar[str] = "1"
    needs_model: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("json_schema",)
    wants_negatives: ClassVar[bool] = False
    wants_steered: ClassVar[bool] = False
    splits: ClassVar[tuple[Split, ...]] = ("explain",)

    selection: Selection = field(default_factory=Selection)
    max_tokens: int = 2048
    temperature: float | None = None
    directory: Path | None = None

    def configured(self, selection: Selection, directory: Path | None, search: Search = DEFAULT_SEARCH) -> Self:
        """The same explainer with a run's settings; it makes one label, so `search` is nothing to it."""
        return replace(self, selection=selection, directory=directory)

    @property
    def template_hash(self) -> str:
        return template_hash(self.template, directory=self.directory)

    @property
    def version(self) -> str:
        """Changes with everything that the labels depend on, the model apart."""
        settings = {part.name: getattr(self, part.name) for part in fields(self) if part.name != "directory"}
        return hex_hash(self.method, str(settings), self.template_hash)

    @property
    def schema(self) -> Mapping[str, Any]:
        """What an answer must fit. Further fields than LabelAnswer's are allowed; nothing is made of them."""
        return SCHEMA

    async def label(self, ask: Ask | None, chosen: Exemplars, data: str, **values: Any) -> Label:
        """The label that the model gives for `data`; `values` are further variables of the template.

        Raises RequestFailed where there is no active exemplar, and as `answer` does.
        """
        if ask is not None and not chosen.active:
            raise no_evidence("the feature is active in no context of the explain split")
        found = await self.answer(ask, data, LabelAnswer, self.schema, show=self.selection.show, **values)
        return found.label(chosen.windows)

    async def answer(
        self,
        ask: Ask | None,
        data: str,
        record: type[Record],
        schema: Mapping[str, Any],
        name: str = "label",
        **values: Any,
    ) -> Record:
        """What the model answers to the template with `data` in a fence: a `record`, which `schema` describes.

        An answer that cannot be used is asked for once more, with what is wrong with it. Raises RequestFailed where there is
        none after that; UserError where `ask` is None.
        """
        if ask is None:
            raise UserError(f"the explainer {self.template} asks a model, and none is given; name one, or use lexicon")
        prompt = render(self.template, directory=self.directory, data=fenced(data), **values)
        request = Request(
            messages=prompt.messages,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            json_schema=schema,
            schema_name=name,
            purpose="explain",
            template_hash=prompt.template_hash,
            check=partial(can_parse, model=record),
        )
        try:
            answer = await ask(request)
        except RequestFailed as failure:
            if failure.kind != FailureKind.MALFORMED:  # an empty answer: there is nothing to say about it
                raise
            return parse_answer(await ask(replace(request, sample=1)), record)
        try:
            return parse_answer(answer, record)
        except RequestFailed as failure:
            if failure.kind != FailureKind.MALFORMED:
                raise
            fault = AGAIN.format(reason=failure.reason)
        again = (Message("assistant", answer.text[:_SHOWN]), Message("user", fault))
        return parse_answer(await ask(replace(request, messages=(*request.messages, *again), sample=1)), record)


def no_evidence(reason: str) -> RequestFailed:
    """Nothing was asked: there is nothing to show."""
    return RequestFailed(FailureKind.NO_EVIDENCE, reason, attempts=0)
