"""Scoring: what a label says is compared with what its feature does, on texts that the label was not made from.

A scorer is a named protocol, one file in this package or an entry point of another one: from a label and the test split's
evidence to rows of the catalog. A simulator predicts activations from a label alone, for scorers that need it; it is a part of
its own, found in the same way. `metrics`, `bootstrap` and `discretise` are pure and know nothing of models, files or databases.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from autointerp.catalog.records import Context, FeatureEvidence, Label
from autointerp.explain.bench import Bench
from autointerp.llm.types import Ask
from autointerp.registry import Registry
from autointerp.vocabulary import Vocabulary

__all__ = [
    "Grade",
    "Judged",
    "Means",
    "ScoreRow",
    "Scorer",
    "Settings",
    "Simulated",
    "Simulator",
    "Wants",
    "Written",
    "scorers",
    "simulators",
]


@dataclass(frozen=True, slots=True)
class Settings:
    """A run's settings, for scorers and simulators. `directory`: the user's own prompts. `simulator`: its name.

    `asked_again`: the same texts are asked about more than once, so it pays to have the provider's cache keep them.
    `resamples` and `seed` are the bootstrap's. `reading`: of log-probabilities, see `readings`; `offers`: the provider's
    capabilities. `calibration`: contexts of the rerank split from which a simulation's scale is learnt. The `embed_…` are for
    scorers that want an embedder. `logprobs`: verdicts come with log-probabilities.
    """

    directory: Path | None = None
    texts_per_request: int = 25
    asked_again: bool = True
    simulator: str = "lexicon"
    resamples: int = 1000
    seed: int = 0
    reading: Literal["exact", "bills23"] = "bills23"
    offers: tuple[str, ...] = ()
    calibration: int = 0
    embed_label_prefix: str = ""
    embed_text_prefix: str = ""
    embed_dimensions: int | None = None
    logprobs: bool = False


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a simulator predicts for one context.

    `expected` float32 [T]: the expected value, on the scale 0..10, at each of the context's tokens; None if it failed. `mass`
    float32 [T]: where the simulator reads probabilities, how much of them was on numbers. `start`: the window's token at which
    the context begins, for protocols that cut windows.
    """

    window_id: int
    expected: NDArray[np.float32] | None
    status: Literal["ok", "failed"]
    reason: str | None = None
    mass: NDArray[np.float32] | None = None
    start: int | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """What a classifying scorer was told of one context: whether the feature is active in it; None if it failed.

    `kind` is the context's, `truth` the right answer: whether the feature is active in it, or the marks are right.
    `probability`: of a yes, where the model gives it. `value`: what is no verdict (a similarity, a difference of losses, a
    rating). `marked`: the positions that were marked. `item`: which question of several about a window, or which group of
    windows it was asked in.
    """

    window_id: int
    kind: str
    truth: bool
    answer: bool | None
    status: Literal["ok", "failed"]
    reason: str | None = None
    probability: float | None = None
    value: float | None = None
    marked: Sequence[int] | None = None
    item: int | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """A text that a model wrote for a scorer. `wanted`: whether the feature was to be active in it; `peak`: its maximum there."""

    number: int
    wanted: bool
    text: str | None
    peak: float | None
    status: Literal["ok", "failed"]
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One metric of one label, as the catalog stores it.

    `value` and the 95 % interval `lo`, `hi` are None where undefined; `reason` says why, or remarks on a defined value.
    `status` "failed": no context could be used; "undefined": the metric has no value on what was.
    """

    metric: str
    value: float | None
    lo: float | None
    hi: float | None
    n_ok: int
    n_failed: int
    status: Literal["ok", "undefined", "failed"]
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Grade:
    """What a scorer found: its metrics, and the answers that they can be computed from again."""

    rows: Sequence[ScoreRow]
    simulated: Sequence[Simulated] = ()
    judged: Sequence[Judged] = ()
    written: Sequence[Written] = ()


@dataclass(frozen=True, slots=True)
class Wants:
    """What a scorer must be given.

    `model`: a language model, with the provider's `capabilities`; `embedder`: a model that makes vectors of texts; `bench`: the
    subject model itself. `negatives`: the hard negatives that there are; `random`: so many uniformly drawn windows of the test
    split, active or not (kind "random"). `rerank`: the rerank split's contexts, too. `baseline`: the token lexicon's label, to
    compare with. `label` False: it says something of the feature, whatever the label: there is one grade a feature, and no
    control with another label.
    """

    model: bool = False
    capabilities: tuple[str, ...] = ()
    embedder: bool = False
    bench: bool = False
    negatives: bool = False
    random: int = 0
    rerank: bool = False
    baseline: bool = False
    label: bool = True


@dataclass(frozen=True, slots=True)
class Means:
    """What a scorer works with, as far as it wants it; see `Wants`.

    `ask` asks the language model, `embed` the embedder. `baseline`: the token lexicon's label of the same feature, to compare
    with; None for the lexicon's own and for controls. `peaks`: the feature's maximum over texts that the subject model read
    earlier. `controlled`: the feature is in a control, so that all that is asked of it is asked with other labels, too.
    """

    vocabulary: Vocabulary
    ask: Ask | None = None
    embed: Ask | None = None
    bench: Bench | None = None
    baseline: Label | None = None
    peaks: Mapping[str, float] = field(default_factory=dict)
    controlled: bool = False


class Simulator(Protocol):
    """Predicts activations from a label. It sees tokens, never the true activations: it must not read them.

    `max_activation` is the feature's maximum over the harvest, to which 10 on the simulated scale corresponds. One
    `Simulated` is returned for every context, in the order given. A context that could not be simulated is a
    `Simulated` of status "failed": the simulator does not raise for it. `needs`: capabilities that its provider must have.
    `version` changes with everything that the simulations depend on, the model apart.

    A simulator that reads more than a label's words may have `unreadable(label)`: why it cannot read one, None where it can.
    """

    @property
    def needs_model(self) -> bool: ...
    @property
    def needs(self) -> tuple[str, ...]: ...
    @property
    def version(self) -> str: ...

    def configured(self, settings: Settings) -> Self:
        """The same simulator with a run's settings."""
        ...

    async def __call__(
        self,
        label: Label,
        contexts: Sequence[Context],
        max_activation: float,
        ask: Ask | None,
        vocabulary: Vocabulary,
    ) -> list[Simulated]: ...


class Scorer(Protocol):
    """Grades a label on the evidence of the test split, as one protocol. What it cannot have is a row with a reason.

    `simulator`: of the simulator that it uses, "" if it uses none. `ranks`: its metrics that labels can be ranked by, the main
    one first: those that have intervals and are higher for better labels, not ceilings, chance values or shares of one class;
    those against hard negatives go without saying. `version` changes with everything that the values depend on,
    the models apart. A scorer raises UserError or Deferred; a failed request is a failed item of its grade.
    """

    @property
    def wants(self) -> Wants: ...
    @property
    def simulator(self) -> str: ...
    @property
    def ranks(self) -> tuple[str, ...]: ...
    @property
    def version(self) -> str: ...

    def configured(self, settings: Settings) -> Self:
        """The same scorer with a run's settings."""
        ...

    async def __call__(self, label: Label, evidence: FeatureEvidence, means: Means) -> Grade: ...


simulators: Registry[Simulator] = Registry("simulator", "autointerp.score")
scorers: Registry[Scorer] = Registry("scorer", "autointerp.score")
