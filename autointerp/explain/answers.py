"""What a model answers when it is asked for a label: the JSON schema, its checks, and the label that comes of it.

Structured output is checked here whoever enforces it there. Fields that a small model often gets wrong (lists too long, tags
that there are not) are mended where that loses nothing and fail where it would.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from autointerp.catalog.records import Label

MAX_TITLE_WORDS = 8

Kind = Literal["token", "phrase", "topic", "syntax", "position", "format", "output", "mixed", "unclear"]
Confidence = Literal["low", "medium", "high"]
Safety = Literal[
    "none", "deception", "power-seeking", "sycophancy", "bias", "dangerous-knowledge", "security-flaws", "scams",
    "self-representation", "manipulation", "violence", "sexual-content", "privacy", "refusal",
]  # fmt: skip
"""What a safety reviewer would want to find; see docs/explainers.md. "none" is the answer for almost every feature."""


def one_line(text: str) -> str:
    """`text` with single spaces. Raises ValueError if there is nothing in it."""
    text = " ".join(text.split())
    if not text:
        raise ValueError("it is empty")
    return text


def _short(title: str) -> str:
    if (words := len(title.split())) > MAX_TITLE_WORDS:
        raise ValueError(f"it has {words} words; at most {MAX_TITLE_WORDS} are wanted")
    return title


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _tags(values: object) -> object:
    """Lower case, hyphens for spaces, without "none" beside others."""
    if not isinstance(values, list):
        return values
    tags = [
        value.strip().lower().replace(" ", "-").replace("_", "-") if isinstance(value, str) else value
        for value in values
    ]
    return [tag for tag in dict.fromkeys(tags) if tag != "none" or len(tags) == 1]


Title = Annotated[str, AfterValidator(one_line), AfterValidator(_short)]
Sentence = Annotated[str, AfterValidator(one_line)]


class LabelAnswer(BaseModel):
    """Title, description and kind are required; the rest says more where the model has more to say."""

    title: Title
    description: Sentence
    kind: Annotated[Kind, BeforeValidator(_lower)]
    scope: str = ""
    confidence: Annotated[Confidence | None, BeforeValidator(_lower)] = None
    languages: list[Sentence] = Field(default=[], max_length=8)
    domains: list[Sentence] = Field(default=[], max_length=8)
    safety: Annotated[list[Safety], BeforeValidator(_tags)] = []
    parts: list[Sentence] = Field(default=[], max_length=8)

    def label(self, evidence: Sequence[int]) -> Label:
        return Label(
            self.title, self.description, self.kind, evidence=evidence, scope=" ".join(self.scope.split()) or None,
            confidence=self.confidence, languages=tuple(self.languages), domains=tuple(self.domains), parts=tuple(self.parts),
            safety=tuple(tag for tag in self.safety if tag != "none"),
        )  # fmt: skip


def _text(**more: Any) -> dict[str, Any]:
    return {"type": "string", **more}


SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "title": _text(),
        "description": _text(),
        "kind": _text(enum=list(get_args(Kind))),
        "scope": _text(),
        "confidence": _text(enum=list(get_args(Confidence))),
        "languages": {"type": "array", "items": _text()},
        "domains": {"type": "array", "items": _text()},
        "safety": {"type": "array", "items": _text(enum=list(get_args(Safety)))},
        "parts": {"type": "array", "items": _text()},
    },
    "required": ["title", "description", "kind", "scope", "confidence", "languages", "domains", "safety", "parts"],
    "additionalProperties": False,
}
