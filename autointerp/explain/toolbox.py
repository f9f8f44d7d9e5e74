"""The tools of an investigation: what a model may ask about one feature, and what it is told.

A result is JSON on lines of its own, all texts in it escaped. Activations are shares of the feature's maximum, to two digits, and
whole numbers from 0 to 10 made of these: what a model is told must not depend on the machine, for its next question does. Of the
catalog's texts those of the explain split are shown, and no others. What the dictionary does not allow (steering with one that
writes to no one place) is told like a call that is wrong; without activations there is no investigation.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, StringConstraints, ValidationError

from autointerp.catalog.records import Context, FeatureEvidence
from autointerp.errors import UserError
from autointerp.explain.bench import Bench, BrokenBenchError
from autointerp.explain.exemplars import Selection, cut
from autointerp.explain.experiments import Laboratory
from autointerp.explain.marking import listed, marked, marked_text, marks_for, marks_for_exemplars, quoted
from autointerp.llm.tools import arguments_of
from autointerp.llm.types import Tool, ToolCall
from autointerp.vocabulary import Vocabulary

LEVELS = 10
_MOST_ACTIVE = 30  # tokens listed of a text
_CONTINUED = 24  # tokens written by the steered model
_SHOWN = 200  # characters of a fault

Text = Annotated[str, StringConstraints(min_length=1, max_length=600)]
Kind = Literal["strongest", "band", "silent", "near_miss"]
_KINDS: Mapping[Kind, tuple[str, ...]] = {
    "strongest": ("top",), "band": ("band",), "silent": ("silent",), "near_miss": ("near", "token"),
}  # fmt: skip


class Activations(BaseModel):
    """Run the language model on texts that you write, and see at which tokens the feature is active, and how strongly. Texts are
    read from their beginning, as separate documents."""

    texts: list[Text] = Field(min_length=1, max_length=6, description="One to six texts, of up to 600 characters each.")


class Exemplars(BaseModel):
    """Further texts of the corpus, cut around the token in question: strongest (where the feature is strongest), band (drawn at
    random from one band of its activations, band 1 being the weakest), silent (random texts in which it is silent), near_miss
    (texts in which it could be expected to be active and is silent)."""

    kind: Kind
    band: int = Field(default=1, ge=1, le=100, description="Which band, for kind band.")
    skip: int = Field(default=0, ge=0, le=1000, description="How many of them you have seen.")
    count: int = Field(default=4, ge=1, le=6)


class NearestFeatures(BaseModel):
    """Other features of the dictionary whose directions are most alike, with the cosine and the title of their label, if any."""

    count: int = Field(default=5, ge=1, le=10)


class TopLogits(BaseModel):
    """The next tokens that the feature makes likelier and less likely, read from the model's weights: each as [token, strength],
    10 for the strongest. Of features in early layers this says little."""


class Steer(BaseModel):
    """Let the model continue a prompt, as it is and with the feature switched on at every token."""

    prompt: str = Field(min_length=1, max_length=300)
    strength: float = Field(
        ge=-10,
        le=10,
        description="In units of the feature's maximum: 1 is as strong as it ever is; negative pushes away.",
    )


_ARGUMENTS: Mapping[str, type[BaseModel]] = {
    "activations": Activations,
    "exemplars": Exemplars,
    "nearest_features": NearestFeatures,
    "top_logits": TopLogits,
    "steer": Steer,
}


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a tool's arguments without pydantic's titles."""
    found = model.model_json_schema()
    properties = {
        name: {key: value for key, value in part.items() if key != "title"}
        for name, part in found.get("properties", {}).items()
    }
    return {
        "type": "object", "properties": properties, "required": found.get("required", []), "additionalProperties": False,
    }  # fmt: skip


TOOLS = tuple(Tool(name, " ".join((model.__doc__ or "").split()), _schema(model)) for name, model in _ARGUMENTS.items())


class FaultError(Exception):
    """A call that cannot be run; the text tells the model why."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a model is told of a call, JSON. `is_fault`: nothing was run."""

    told: str
    is_fault: bool = False


class Toolbox:
    """The tools at work on one feature. `shown`: ids of the windows that the model has seen from the start."""

    def __init__(
        self,
        evidence: FeatureEvidence,
        shown: Sequence[int],
        selection: Selection,
        vocabulary: Vocabulary,
        laboratory: Laboratory,
    ) -> None:
        self._evidence = evidence
        self._vocabulary = vocabulary
        self._window = selection.window
        self._laboratory = laboratory
        self._shown = frozenset(shown)
        self._asked: dict[str, int] = {}
        self.active_windows: list[int] = []

    def open(self) -> None:
        """Before the first question. Raises NotAtHandError where there is nothing to work with."""
        feature = self._evidence.feature_id
        known: dict[str, str] = {}
        for step in self._laboratory.recalled(feature):
            try:  # of a question that was repeated the first step holds the answer, the others refer to it
                known.setdefault(_asked(*_read(ToolCall("", step.tool, step.arguments))), step.result)
            except FaultError:
                continue
        self._laboratory.open(feature, known)

    def close(self) -> None:
        """After the last: what was found out is no longer needed."""
        self._laboratory.close(self._evidence.feature_id)

    async def run(self, call: ToolCall, step: int) -> Result:
        """What to tell the model of its call, the `step`-th. Raises NotAtHandError where the subject model is missing."""
        try:
            name, arguments = _read(call)
        except FaultError as fault:
            return Result(_fault(str(fault)), is_fault=True)
        asked = _asked(name, arguments)
        if asked in self._asked:
            return Result(f'{{"note":"the same as step {self._asked[asked]}"}}')
        self._asked[asked] = step
        if isinstance(arguments, Exemplars):
            return Result(self._exemplars(arguments))
        if isinstance(arguments, TopLogits):
            return Result(self._top_logits())
        experiment = self._experiment(arguments)
        return Result(await self._laboratory.result(self._evidence.feature_id, asked, experiment))

    def further(self) -> dict[str, Any]:
        """How many texts of each kind `exemplars` has still to show; of the bands by number."""
        counts: dict[str, Any] = {kind: len(self._further(kind)) for kind in _KINDS if kind != "band"}
        bands = sorted({context.band for context in self._further("band")})
        return counts | {"band": {str(band): len(self._further("band", band)) for band in bands}}

    def _experiment(self, arguments: BaseModel) -> Callable[[Bench], str]:
        feature = self._evidence.feature_id
        if isinstance(arguments, Activations):
            texts = arguments.texts
            return lambda bench: self._activations([bench.activations(feature, text) for text in texts])
        if isinstance(arguments, NearestFeatures):
            count = arguments.count
            return lambda bench: _neighbours(bench, feature, count)
        assert isinstance(arguments, Steer)
        prompt, strength = arguments.prompt, arguments.strength
        return lambda bench: _steered(bench, feature, prompt, strength)

    def _activations(self, read: Sequence[Sequence[tuple[int, float]]]) -> str:
        marks = marks_for(self._vocabulary.join(token for token, _ in tokens) for tokens in read)
        texts = []
        for tokens in read:
            ids = np.array([token for token, _ in tokens], np.int32)
            shares = [share_of(value, self._evidence.max_activation) for _, value in tokens]
            levels = [level_of(share) for share in shares]
            on = np.array([level > 0 for level in levels], np.bool_)
            active = [
                f"[{quoted(self._vocabulary.text(token))},{level},{share:g}]"
                for (token, _), level, share in zip(tokens, levels, shares, strict=True)
                if level > 0
            ]
            more = f',"more":{len(active) - _MOST_ACTIVE}' if len(active) > _MOST_ACTIVE else ""
            text = marked(ids, on, marks, self._vocabulary) if len(ids) else '""'
            peak = max(shares, default=0.0)
            texts.append(f'{{"text":{text},"peak":{peak:g},"active":[{",".join(active[:_MOST_ACTIVE])}]{more}}}')
        return f'{{"marks":{marks.json},{listed("texts", texts)}}}'

    def _exemplars(self, arguments: Exemplars) -> str:
        found = self._further(arguments.kind, arguments.band)
        chosen = found[arguments.skip : arguments.skip + arguments.count]
        left = max(0, len(found) - arguments.skip - len(chosen))
        shown = [cut(context, self._evidence.max_activation, self._window) for context in chosen]
        marks = marks_for_exemplars(shown, self._vocabulary)
        self.active_windows += [context.window_id for context in chosen if context.peak > 0]
        texts = [marked_text(exemplar, "both", marks, self._vocabulary) for exemplar in shown]
        return f'{{"marks":{marks.json},{listed("texts", texts)},"left":{left}}}'

    def _further(self, kind: Kind, band: int | None = None) -> list[Context]:
        """The contexts of a kind that were not shown from the start, the strongest first, else in the catalog's order."""
        found = [one for one in self._evidence.of("explain", _KINDS[kind]) if one.window_id not in self._shown]
        if kind == "strongest":
            found.sort(key=lambda context: -context.peak)
        if kind == "band" and band is not None:
            found = [context for context in found if context.band == band]
        return list({context.window_id: context for context in found}.values())

    def _top_logits(self) -> str:
        evidence = self._evidence
        largest = max((abs(logit) for logit in (*evidence.promoted_logits, *evidence.suppressed_logits)), default=0.0)

        def side(tokens: Sequence[int], logits: Sequence[float]) -> str:
            pairs = zip(tokens, logits, strict=True)
            return ",".join(
                f'["{self._vocabulary.escaped(token)}",{round(LEVELS * share_of(abs(logit), largest))}]'
                for token, logit in pairs
            )

        promoted = side(evidence.promoted, evidence.promoted_logits)
        return f'{{"promoted":[{promoted}],"suppressed":[{side(evidence.suppressed, evidence.suppressed_logits)}]}}'


def _fault(text: str) -> str:
    return f'{{"fault":{quoted(text[:_SHOWN])}}}'


def share_of(value: float, maximum: float) -> float:
    """`value` as a share of `maximum`, to two digits; 0 where either is not above 0. Above 1 for more than was ever seen."""
    return round(float(value) / maximum, 2) if value > 0 and maximum > 0 else 0.0


def level_of(share: float) -> int:
    """The whole number from 0 to 10 that a share of two digits is rounded down to."""
    return min(LEVELS, round(share * 100) * LEVELS // 100)


def _read(call: ToolCall) -> tuple[str, BaseModel]:
    """The tool's name and its checked arguments. Raises FaultError."""
    model = _ARGUMENTS.get(call.name)
    if model is None:
        raise FaultError(f"there is no tool {call.name}; there are: {', '.join(_ARGUMENTS)}")
    try:
        return call.name, model.model_validate(arguments_of(call))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FaultError(f"{where}: {first['msg']}") from None
    except ValueError as error:
        raise FaultError(str(error)) from None


def _asked(name: str, arguments: BaseModel) -> str:
    """One text for one question, however its arguments were written."""
    return f"{name} {json.dumps(arguments.model_dump(), sort_keys=True)}"


def _neighbours(bench: Bench, feature: int, count: int) -> str:
    try:
        neighbours = bench.nearest(feature, count)
    except BrokenBenchError:
        raise
    except UserError as error:
        return _fault(f"not possible here: {error}")
    found = []
    for near in neighbours:
        title = "null" if near.title is None else quoted(near.title)
        found.append(f'{{"feature":{near.feature_id},"cosine":{near.cosine:.2f},"title":{title}}}')
    return f"{{{listed('features', found)}}}"


def _steered(bench: Bench, feature: int, prompt: str, strength: float) -> str:
    try:
        found = bench.steered(feature, prompt, strength, _CONTINUED)
    except BrokenBenchError:
        raise
    except UserError as error:
        return _fault(f"not possible here: {error}")
    return f'{{"prompt":{quoted(prompt)},\n"clean":{quoted(found.clean)},\n"steered":{quoted(found.steered)}}}'
