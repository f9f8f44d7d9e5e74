"""The explainer `token_activation`: a model is shown texts with the feature's activation at every token.

After Bills et al. 2023, "Language models can explain neurons in language models", step 1: token and activation in
pairs, activations as integers 0..10 of the feature's maximum, the active pairs once more where they are few. Ours
differs: half of the texts come from all bands of the feature's activations and not from the strongest only, texts are
cut around their peak, near-copies are shown once, and title, description and kind come as structured JSON. Texts are
of the explain split only. They are strangers' writing: they go in as JSON, one text a line, between lines that hold a
mark which they cannot have foreseen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, BeforeValidator

from autointerp.catalog.records import Context, FeatureEvidence, Label
from autointerp.errors import UserError
from autointerp.explain import explainers
from autointerp.explain.parsing import can_parse, parse_answer
from autointerp.hashing import hex_hash
from autointerp.llm.types import Ask, FailureKind, Request, RequestFailed
from autointerp.prompts_loader import fenced, render, template_hash
from autointerp.score.discretise import discretise
from autointerp.vocabulary import Vocabulary

TEMPLATE = "token_activation"
MAX_TITLE_WORDS = 8

Kind = Literal["token", "phrase", "topic", "syntax", "position", "format", "output", "mixed", "unclear"]

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "description": {"type": "string"},
        "kind": {"type": "string", "enum": list(get_args(Kind))},
    },
    "required": ["title", "description", "kind"],
    "additionalProperties": False,
}

_SPARSE = 0.2  # below this share of active tokens they are listed again, as Bills et al. do
_SAME = 0.8  # two cuts are near-copies if so large a share of their tokens agree when their peaks are laid together
_BEFORE = 0.75  # share of a cut that lies before its peak: what comes later has no influence on it


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    if not text:
        raise ValueError("it is empty")
    return text


def _short(title: str) -> str:
    if (words := len(title.split())) > MAX_TITLE_WORDS:
        raise ValueError(f"it has {words} words; at most {MAX_TITLE_WORDS} are wanted")
    return title


def _lower(kind: object) -> object:
    return kind.strip().lower() if isinstance(kind, str) else kind


class _Answer(BaseModel):
    title: Annotated[str, AfterValidator(_one_line), AfterValidator(_short)]
    description: Annotated[str, AfterValidator(_one_line)]
    kind: Annotated[Kind, BeforeValidator(_lower)]


@dataclass(frozen=True, slots=True)
class Cut:
    """A context cut around its peak. `levels` int [t]: activations discretised to 0..10; `peak` is an index into it."""

    context: Context
    tokens: NDArray[np.int32]
    levels: NDArray[np.int64]
    peak: int


@dataclass(slots=True)
class TokenActivation:
    """See the module. Up to `texts` texts of up to `window` tokens are shown.

    `temperature` None leaves it to the provider; `directory` holds the user's own prompts.
    """

    texts: int = 20
    window: int = 32
    max_tokens: int = 2048
    temperature: float | None = None
    directory: Path | None = None
    needs_model: bool = True
    needs: tuple[str, ...] = ("json_schema",)

    @property
    def template_hash(self) -> str:
        return template_hash(TEMPLATE, directory=self.directory)

    @property
    def version(self) -> str:
        """Changes with everything that the labels depend on, the model apart."""
        return hex_hash("1", self.texts, self.window, self.max_tokens, self.temperature, self.template_hash)

    async def __call__(self, evidence: FeatureEvidence, ask: Ask | None, vocabulary: Vocabulary) -> Label:
        """The model's label. `evidence` of the label: the windows that were shown, strongest first.

        A malformed answer is asked for once more. Raises RequestFailed where there is none after that, or where no
        context of the explain split shows an activation; UserError where `ask` is None.
        """
        if ask is None:
            raise UserError("the explainer token_activation asks a model, and none is given; name one, or use lexicon")
        shown = choose(evidence, self.texts, self.window)
        if not shown:
            reason = "the feature is active in no context of the explain split"
            raise RequestFailed(FailureKind.NO_EVIDENCE, reason, attempts=0)
        prompt = render(TEMPLATE, directory=self.directory, data=fenced(_data(shown, vocabulary)))
        request = Request(
            messages=prompt.messages,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            json_schema=SCHEMA,
            schema_name="label",
            purpose="explain",
            template_hash=prompt.template_hash,
            check=partial(can_parse, model=_Answer),
        )
        try:
            answer = parse_answer(await ask(request), _Answer)
        except RequestFailed as failure:
            if failure.kind != FailureKind.MALFORMED:
                raise
            answer = parse_answer(await ask(replace(request, sample=1)), _Answer)
        windows = [cut.context.window_id for cut in shown]
        return Label(answer.title, answer.description, answer.kind, evidence=windows)


def choose(evidence: FeatureEvidence, texts: int, window: int) -> list[Cut]:
    """The cuts to show, strongest first: half of the strongest windows, half in turn from the bands, no near-copies.

    Contexts whose peak is below a tenth of the feature's maximum are left out: they would be shown as silent.
    """
    strongest = sorted(evidence.of("explain", ("top",)), key=lambda context: -context.peak)
    spread = _in_turn(evidence.of("explain", ("band",)))
    kept: list[Cut] = []
    for candidates, limit in ((strongest, texts // 2), (spread, texts), (strongest, texts)):
        for context in candidates:
            if len(kept) >= limit:
                break
            cut = _cut(context, evidence.max_activation, window)
            if cut.levels.any() and not any(_is_near_copy(cut, other) for other in kept):
                kept.append(cut)
    return sorted(kept, key=lambda cut: -cut.context.peak)


def _in_turn(contexts: Sequence[Context]) -> list[Context]:
    """One of each band, the strongest band first, then the second of each, and so on."""
    turns: dict[int, int] = {}
    order = []
    for context in contexts:
        turns[context.band] = turns.get(context.band, 0) + 1
        order.append((turns[context.band], -context.band))
    return [contexts[index] for index in sorted(range(len(contexts)), key=order.__getitem__)]


def _cut(context: Context, maximum: float, window: int) -> Cut:
    peak = int(context.activations.argmax())
    begin = max(0, min(peak - int(window * _BEFORE), len(context.tokens) - window))
    levels = discretise(context.activations[begin : begin + window], maximum)
    return Cut(context, context.tokens[begin : begin + window], levels, peak - begin)


def _is_near_copy(one: Cut, other: Cut) -> bool:
    before = min(one.peak, other.peak)
    after = min(len(one.tokens) - one.peak, len(other.tokens) - other.peak)
    common = one.tokens[one.peak - before : one.peak + after] == other.tokens[other.peak - before : other.peak + after]
    long_enough = 2 * len(common) >= min(len(one.tokens), len(other.tokens))
    return bool(long_enough and common.mean() >= _SAME)


def _data(shown: Sequence[Cut], vocabulary: Vocabulary) -> str:
    """JSON, written by hand around tokens that are escaped already. A line a text."""
    return '{"texts":[\n' + ",\n".join(_text(cut, vocabulary) for cut in shown) + "\n]}"


def _text(cut: Cut, vocabulary: Vocabulary) -> str:
    tokens = [vocabulary.escaped(int(token)) for token in cut.tokens]
    pairs = [f'["{token}",{level}]' for token, level in zip(tokens, cut.levels, strict=True)]
    active = [pair for pair, level in zip(pairs, cut.levels, strict=True) if level]
    again = f',"active":[{",".join(active)}]' if len(active) < _SPARSE * len(pairs) else ""
    return f'{{"tokens":[{",".join(pairs)}]{again}}}'


explainers.register("token_activation")(TokenActivation())
