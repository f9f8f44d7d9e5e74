"""The subject model as explainers of one run use it: one experiment at a time, in a thread, each of them once.

Results are remembered as the texts that a model is told, by feature and by what was asked: a coroutine that starts over (batches,
files) finds what it had. Those that the catalog holds of an earlier run come first: labels can be derived anew from the
journal where there is no subject model.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from autointerp.catalog.records import Step
from autointerp.errors import UserError
from autointerp.explain.bench import Bench, BrokenBenchError, Continuations, Neighbour, TooLargeError

_REMEMBERED = 20_000  # results; of some KB each

Recall = Callable[[int], Sequence[Step]]
"""The steps of a feature's investigation that the catalog has."""


class NotAtHandError(Exception):
    """The subject model, or its dictionary, cannot be had; the text says why."""


class NoBench:
    """Stands where there is no bench. Every experiment raises NotAtHandError with the reason."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def activations(self, feature_id: int, text: str) -> list[tuple[int, float]]:
        self._fail()

    def peaks(self, feature_id: int, texts: Sequence[str]) -> list[float | None]:
        self._fail()

    def nearest(self, feature_id: int, count: int) -> Sequence[Neighbour]:
        self._fail()

    def steered(self, feature_id: int, prompt: str, strength: float, tokens: int) -> Continuations:
        self._fail()

    def _fail(self) -> NoReturn:
        raise NotAtHandError(self.reason)


class MadeUpBench:
    """Answers without a model, for estimates: a token for every four characters, none of them active."""

    def activations(self, feature_id: int, text: str) -> list[tuple[int, float]]:
        return [(0, 0.0)] * (1 + len(text) // 4)

    def peaks(self, feature_id: int, texts: Sequence[str]) -> list[float | None]:
        return [0.0 for _ in texts]

    def nearest(self, feature_id: int, count: int) -> Sequence[Neighbour]:
        return [Neighbour(number, 0.5, "a title of some words") for number in range(count)]

    def steered(self, feature_id: int, prompt: str, strength: float, tokens: int) -> Continuations:
        return Continuations(" word" * tokens, " word" * tokens)


class Laboratory:
    """A bench with a memory. `say` takes lines for the user."""

    def __init__(
        self,
        bench: Bench,
        recall: Recall | None = None,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    ) -> None:
        self._bench = bench
        self._recall = recall
        self._say = say
        self._said = False
        self._lock = asyncio.Lock()
        self._memory: dict[int, dict[str, str]] = {}
        self._count = 0

    def recalled(self, feature_id: int) -> Sequence[Step]:
        """What the catalog has of an earlier investigation."""
        return self._recall(feature_id) if self._recall is not None else ()

    def open(self, feature_id: int, known: Mapping[str, str]) -> None:
        """Before the first question about a feature. `known`: results by what was asked, of an earlier run.

        Raises NotAtHandError where nothing is known and nothing can be found out: nothing should be paid for then.
        """
        if not known and isinstance(self._bench, NoBench):
            raise NotAtHandError(self._bench.reason)
        if feature_id not in self._memory:
            self._memory[feature_id] = dict(known)
            self._count += len(known)

    async def result(self, feature_id: int, asked: str, experiment: Callable[[Bench], str]) -> str:
        """What `experiment` finds, or found when it was `asked` before; where memory is too small for it, a fault in the same
        form, remembered likewise: a conversation must go the same way when it is gone through again.

        Raises NotAtHandError, and BrokenBenchError, which ends the run.
        """
        memory = self._memory.setdefault(feature_id, {})
        if asked not in memory:
            async with self._lock:
                try:
                    found = await asyncio.to_thread(experiment, self._bench)
                except TooLargeError as error:
                    found = json.dumps({"fault": f"this could not be computed: {error}"})
                    self._say(f"feature {feature_id}: an experiment could not be made: {error}")
                except BrokenBenchError:
                    raise
                except UserError as error:
                    raise NotAtHandError(str(error)) from None
            memory[asked] = found
            self._count += 1
            self._make_room(feature_id)
        return memory[asked]

    def close(self, feature_id: int) -> None:
        """The feature is done: its results are no longer needed."""
        self._count -= len(self._memory.pop(feature_id, ()))

    def explain_absence(self, line: str) -> None:
        """Say once that the subject model is not at hand."""
        if not self._said:
            self._said = True
            self._say(line)

    def _make_room(self, kept: int) -> None:
        while self._count > _REMEMBERED and len(self._memory) > 1:
            self.close(next(feature for feature in self._memory if feature != kept))
