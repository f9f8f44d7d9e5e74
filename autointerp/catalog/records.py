"""What the catalog hands to explainers, scorers and reports: plain frozen records, arrays inside.

Positions count from 0 within a window's tokens; the BOS token that the harvest prepends is not part of a window.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["explain", "rerank", "test"]
SPLITS: tuple[Split, ...] = ("explain", "rerank", "test")


@dataclass(frozen=True, slots=True)
class Context:
    """One feature's activations over one window.

    `kind`: "top" (the strongest windows of the split), "band" (a uniform draw from one band of the activating windows),
    "silent" (a window of the shared random pool in which the feature does not fire), or a hard negative, silent too: "near"
    (a decoder neighbour fires in it) or "token" (it holds the feature's top token); or "random" (a uniform draw from all
    windows).
    `band`: 1 (weakest) … S (strongest); 0 for silent windows. For kind "top" the band that the window belongs to.
    `tokens` int32 [T]; `activations` float32 [T], raw, 0 where the feature is off.
    `cause`, of hard negatives only: the neighbour's feature id or the token; `cause_position`: where it peaks, or stands.
    """

    window_id: int
    split: Split
    kind: str
    band: int
    tokens: NDArray[np.int32]
    activations: NDArray[np.float32]
    cause: int | None = None
    cause_position: int | None = None

    @property
    def peak(self) -> float:
        return float(self.activations.max(initial=0.0))


@dataclass(frozen=True, slots=True)
class FeatureEvidence:
    """Everything an explainer or a scorer may see of one feature, from the splits that it is entitled to.

    `stratum_windows` maps (split, band) to the exact number of windows of the corpus in that stratum (band 0: silent).
    `promoted` and `suppressed` are token ids by the logit lens, strongest first, and the `…_logits` what each is raised or
    lowered by (positive, negative). `steered`: None where nobody steered the model.
    """

    feature_id: int
    max_activation: float
    density: float
    contexts: Sequence[Context]
    stratum_windows: Mapping[tuple[str, int], int]
    promoted: Sequence[int] = ()
    suppressed: Sequence[int] = ()
    promoted_logits: Sequence[float] = ()
    suppressed_logits: Sequence[float] = ()
    steered: "Steered | None" = None

    def of(self, split: Split, kinds: tuple[str, ...] = ("top", "band", "silent")) -> list[Context]:
        """The contexts of one split and of the given kinds, in the catalog's order."""
        return [context for context in self.contexts if context.split == split and context.kind in kinds]


@dataclass(frozen=True, slots=True)
class Steered:
    """Token ids whose log-probability rose (`up`) or fell (`down`) most when the feature was switched on, strongest first.

    `kl`: how far all predictions moved, the mean KL(clean || steered) in nats.
    """

    up: Sequence[int]
    down: Sequence[int]
    kl: float


@dataclass(frozen=True, slots=True)
class Label:
    """What an explainer says of a feature. `rule` is machine-readable (the lexicon's patterns) or None.

    `scope`: how wide it is; `confidence`: low, medium or high; `languages` (natural and programming) and `domains`: where they
    matter; `safety`: tags of docs/explainers.md; `parts`: of several unrelated things each one; `output`: what the feature makes
    the model say, where that was asked; `candidates`: all the labels that it was chosen from, itself included; `remark`: what
    should be known of how it came about; `steps`: what its author tried out on the way, in order.
    """

    title: str
    description: str
    kind: str = "unclear"
    rule: Mapping[str, Any] | None = None
    evidence: Sequence[int] = field(default=())
    scope: str | None = None
    confidence: str | None = None
    domains: Sequence[str] = ()
    safety: Sequence[str] = ()
    parts: Sequence[str] = ()
    output: "OutputLabel | None" = None
    candidates: "Sequence[Candidate]" = ()
    remark: str | None = None
    languages: Sequence[str] = ()
    steps: "Sequence[Step]" = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an investigation: a tool, what it was asked and what it told, both JSON."""

    tool: str
    arguments: str
    result: str


@dataclass(frozen=True, slots=True)
class OutputLabel:
    """What a feature makes the model say. `agrees`: whether that is the concept of the input label; None if nobody judged.
    `clear`: whether there is something to judge."""

    title: str
    description: str
    agrees: bool | None = None
    clear: bool = True


@dataclass(frozen=True, slots=True)
class Candidate:
    """A label that was in the choice. `title` and `description` are None where none was had.

    `score`: on the rerank split; None with its `reason` where there is none. `parent`: the number of the one it was made from.
    """

    number: int
    title: str | None
    description: str | None
    score: float | None
    chosen: bool
    reason: str | None = None
    parent: int | None = None
