"""Whether a server's refusal says that it lacks a capability. Pure: it looks at texts.

Servers of the same protocol have no common code for it: 400, 403, 404, 422 and 501 are used, and words. So a refusal counts
as a denial if it names the capability, or the field that asks for it, and says that there is no such thing. What is unclear is
no denial, nor is a text that is too long.
"""

import re
from collections.abc import Mapping

_NAMES: Mapping[str, str] = {
    "prompt_logprobs": r"prompt.{0,3}log.?prob|continue_final_message|add_generation_prompt",
    "logprobs": r"log.?prob",
    "exact_logprobs": r"log.?prob",
    "json_schema": r"response_?format|json.?(schema|mode|object)|structured.?output|guided|grammar",
    "tools": r"\btools?\b|\btool_|function.?call",
    "embeddings": r"embed|dimensions|matryoshka",
    "temperature": r"temperature",
}
_DENIES = re.compile(
    r"unsupported|n[o']t\s+(\w+\s+)?support|no support|not (yet )?(implemented|allowed|permitted|available|enabled|recogni[sz]ed)"
    r"|(unknown|unexpected|unrecogni[sz]ed) (request )?(parameter|field|argument|keyword|name|key|property)|unrecogni[sz]ed"
    r"|extra (inputs|fields)|extra_forbidden|requires? --|max(imum)? allowed|no endpoints found",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(r"context length|context window|too long|reduce the length|too many tokens", re.IGNORECASE)
_ABSENT = re.compile(r"HTTP (404|405|501)\b")
"""Statuses of a path that is not there: vectors have one of their own."""


def denies(capability: str, told: str) -> bool:
    """Whether `told`, a refusal of a request that asked for the capability, says that the server lacks it."""
    if _TOO_LONG.search(told):
        return False
    if capability == "embeddings" and _ABSENT.search(told):
        return True
    return bool(re.search(_NAMES[capability], told, re.IGNORECASE) and _DENIES.search(told))
