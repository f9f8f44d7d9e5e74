"""What a server turns out to be unable to do: found out by the first refusal that says so, said once, and the run ends.

What providers declare is checked before anything is sent (`provider.require`). But a server that speaks a known protocol may
ignore or refuse a part of it, and would do so for every further request. What an answer has shown is there: a later
refusal is that request's own trouble.
"""

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from autointerp.errors import UserError
from autointerp.llm.denials import denies
from autointerp.llm.provider import CallFailed, Reply, asked_for, choose_another
from autointerp.llm.types import FailureKind, Request

_MANY = 20  # refusals that do not say why, or answers without JSON, and nothing else so far
_REJECTED = "what was rejected until now counts as failed; once it can be answered: autointerp retry --kind rejected"
_WITHOUT: Mapping[str, str] = {
    "prompt_logprobs": "gives no log-probabilities of given texts (prompt_logprobs)",
    "logprobs": "gives no log-probabilities of its answers (logprobs)",
    "exact_logprobs": "gives no log-probabilities of chosen texts (exact_logprobs)",
    "json_schema": "gives no structured output (json_schema)",
    "tools": "calls no tools (tools)",
    "embeddings": "makes no vectors (embeddings)",
    "temperature": "takes no temperature (temperature)",
}
Need = tuple[str, Hashable]
"""A capability, with what of it was asked for: a server may give five alternatives and not fifteen, or one schema only."""
_ANYTHING: Need = ("", None)


@dataclass(frozen=True, slots=True)
class Use:
    """Who needs a capability, and what to do without it, both for messages."""

    by: str
    instead: str = ""


class Abilities:
    """Of the model of one provider (its name). `uses`: capability → who needs it; `by`: who asks the model at all."""

    def __init__(self, provider: str, model: str, by: str, uses: Mapping[str, Use]) -> None:
        self._who = f"the provider {provider!r} (model {model})"
        self._by = by
        self._uses = uses
        self._shown: set[Need] = set()
        self._refusals: Counter[Need] = Counter()
        self._without_json: Counter[Need] = Counter()

    def answered(self, request: Request, reply: Reply) -> None:
        """Note what a reply shows. Raises UserError where many answers are no JSON, though all were to be."""
        self._shown.add(_ANYTHING)
        if reply.finish != "stop":
            return
        for need in _needs(request):
            if need[0] != "json_schema" or reply.calls or "{" in reply.text:
                self._shown.add(need)
            elif need not in self._shown:
                self._without_json[need] += 1
                if self._without_json[need] >= _MANY:
                    told = f"none of its {_MANY} answers so far holds JSON, the last begins {reply.text[:40]!r}"
                    raise self._lacking("json_schema", told)

    def refused(self, request: Request, failure: CallFailed) -> None:
        """Note a failure that asking again would not mend.

        Raises UserError where it says that the server lacks what the request needs, or is one of many and nothing like it was
        ever answered.
        """
        open_needs = [need for need in _needs(request) if need not in self._shown]
        for capability, _ in open_needs:
            if failure.lacks == capability or denies(capability, failure.reason):
                raise self._lacking(capability, failure.reason)
        if failure.kind not in (FailureKind.REJECTED, FailureKind.MALFORMED):
            return
        for need in [*open_needs, *({_ANYTHING} - self._shown)]:
            self._refusals[need] += 1
            if self._refusals[need] >= _MANY:
                raise self._refusing(need, failure.reason)

    def explained(self, request: Request, error: UserError) -> UserError:
        """What ends the run, in the words that say which capability is missing, if that is it."""
        told = str(error)
        for need in _needs(request) if "HTTP 4" in told else ():
            if need not in self._shown and denies(need[0], told):
                return self._lacking(need[0], told.partition("; ")[0])
        return error

    def lacking(self, told: str) -> UserError | None:
        """The error for a refusal of an unknown request; None where it denies no capability."""
        found = next((capability for capability in _WITHOUT if denies(capability, told)), None)
        return None if found is None else self._lacking(found, told)

    def _lacking(self, capability: str, told: str) -> UserError:
        return UserError(
            f"{self._who} {_WITHOUT[capability]}, which {self._use(capability).by} needs ({told}); {self._advice(capability)}"
        )

    def _refusing(self, need: Need, told: str) -> UserError:
        capability, count = need[0], self._refusals[need]
        if not capability:
            return UserError(
                f"{self._who} rejects every request ({count} so far; the last: {told}); see whether the server knows the "
                f"model, and run again; {_REJECTED}"
            )
        return UserError(
            f"{self._who} rejects every request with {capability}, which {self._use(capability).by} needs ({count} so far; the "
            f"last: {told}); see whether the server and the model have it, or {self._advice(capability)}; {_REJECTED}"
        )

    def _use(self, capability: str) -> Use:
        return self._uses.get(capability) or Use(self._by or "a request", f"do without {self._by}" if self._by else "")

    def _advice(self, capability: str) -> str:
        instead = self._use(capability).instead
        return choose_another(capability) + (f"; or {instead}" if instead else "") + "; what others found is kept"


def _needs(request: Request) -> list[Need]:
    details: dict[str, Hashable] = {
        "json_schema": request.schema_name,
        "logprobs": request.logprobs,
        "prompt_logprobs": request.logprobs,
        "embeddings": request.dimensions,
    }
    return [(capability, details.get(capability)) for capability in asked_for(request)]
