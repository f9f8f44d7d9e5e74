"""A judge: a language model says whether a label means what the true label means.

It is told which of the two is true. How far it can be trusted is known, too: it can be asked about the planted false labels,
of which the answer is known by construction (`EXPECTED`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator

from autointerp.catalog.records import Label
from autointerp.evaluate.planted import Falsehood
from autointerp.explain.parsing import can_parse, parse_answer
from autointerp.llm.types import Ask, FailureKind, Request, RequestFailed
from autointerp.prompts_loader import fenced, render
from autointerp.vocabulary import escape

TEMPLATE = "judge"
Verdict = Literal["same", "broader", "narrower", "other"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
EXPECTED: Mapping[Falsehood, Verdict] = {"broad": "broader", "narrow": "narrower", "neighbour": "other"}

_MAX_TOKENS = 1024
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "verdict": {"type": "string", "enum": list(VERDICTS)}},
    "required": ["reason", "verdict"],
    "additionalProperties": False,
}


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


class _Answer(BaseModel):
    reason: str = ""
    verdict: Annotated[Verdict, BeforeValidator(_lower)]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the judge said of one label."""

    verdict: Verdict
    reason: str


async def judge(ask: Ask, true: Label, proposed: Label, directory: Path | None = None) -> Judgement:
    """The verdict on `proposed`. An answer that cannot be used is asked for once more; then RequestFailed is raised."""
    prompt = render(TEMPLATE, directory=directory, data=fenced(labels_as_json(true, proposed)))
    request = Request(
        messages=prompt.messages, max_tokens=_MAX_TOKENS, json_schema=SCHEMA, schema_name="verdict", purpose="judge",
        template_hash=prompt.template_hash, check=partial(can_parse, model=_Answer),
    )  # fmt: skip
    try:
        answer = parse_answer(await ask(request), _Answer)
    except RequestFailed as failure:
        if failure.kind != FailureKind.MALFORMED:
            raise
        answer = parse_answer(await ask(replace(request, sample=1)), _Answer)
    return Judgement(answer.verdict, " ".join(answer.reason.split()))


def labels_as_json(true: Label, proposed: Label) -> str:
    """JSON, a line a label. Nothing but title and description is shown, nothing in them can look like a control token."""
    lines = [
        f'"{name}":{{"title":"{escape(label.title)}","description":"{escape(label.description)}"}}'
        for name, label in (("true", true), ("proposed", proposed))
    ]
    return "{\n" + ",\n".join(lines) + "\n}"
