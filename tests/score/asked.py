"""What is asked about texts, read back from a request."""

import json
import re
from dataclasses import dataclass

from autointerp.llm.types import Request
from autointerp.running_text import read

_FENCED = re.compile(r"<data ([0-9a-f]{16})>\n(.*?)\n</data \1>", re.DOTALL)


@dataclass(frozen=True)
class Asked:
    """`texts`: number → tokens."""

    texts: dict[int, list[str]]
    question: str
    explanation: str


def asked_in(request: Request) -> Asked:
    user = request.messages[1].content
    texts, question = _FENCED.finditer(user)
    assert (texts.start(), texts.end() + 1, question.end()) == (0, question.start(), len(user))
    lines = [line.split("|", 1) for line in texts[2].split("\n")]
    wanted = json.loads(question[2])
    return Asked({int(number): read(line) for number, line in lines}, wanted["question"], wanted["explanation"])
