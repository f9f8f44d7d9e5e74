"""What the pages of single features are made of, a record each; `feature_pages` reads them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autointerp.catalog.descriptors import CofiringNeighbour, Descriptors, HardNegative
from autointerp.catalog.label_details import LabelDetails
from autointerp.catalog.steered import SteeredToken


@dataclass(frozen=True, slots=True)
class ContextQuota:
    """How many contexts a page shows: the strongest, of each band, random ones, simulated silent windows, and hard negatives
    of each kind.
    """

    top: int = 8
    band: int = 2
    random: int = 4
    silent: int = 2
    negatives: int = 2


@dataclass(frozen=True, slots=True)
class ContextRow:
    """A feature's activations over one window, and what its label made the simulator predict there.

    `kind`: top, band, random, or silent (a simulated window in which the feature does not fire).
    `positions` and `activations` hold the tokens where it fires, raw. `evidence`: the label names this window as its
    evidence. `simulation` is ok, failed (see `simulation_reason`) or None where the window was not simulated;
    `expected` holds one value of 0..10 a token.
    """

    feature_id: int
    kind: str
    split: str
    band: int
    rank: int
    window_id: int
    peak: float
    positions: list[int]
    activations: list[float]
    duplicate: bool
    evidence: bool
    simulation: str | None
    simulation_reason: str | None
    expected: list[float] | None


@dataclass(frozen=True, slots=True)
class HistogramBin:
    """Exact number of windows whose peak lies in [2^(bin/4), 2^((bin+1)/4)), over all splits, by band."""

    feature_id: int
    bin: int
    band: int
    n_windows: int


@dataclass(frozen=True, slots=True)
class OutputToken:
    """A token that the feature's decoder direction promotes or suppresses, by the logit lens."""

    feature_id: int
    side: str
    token: int
    logit: float


@dataclass(frozen=True, slots=True)
class Neighbour:
    feature_id: int
    neighbour_id: int
    cosine: float


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One score of one of the feature's explanations.

    `value` is None unless `status` is ok. `reason` says why it is None, or remarks on a value that is there.
    """

    feature_id: int
    explanation_id: str
    scorer: str
    simulator: str
    metric: str
    control: str
    value: float | None
    lo: float | None
    hi: float | None
    n_ok: int
    n_failed: int
    status: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One explainer's explanation of the feature, whether or not the catalog shows it as the feature's label."""

    feature_id: int
    explanation_id: str
    explainer: str
    model: str | None
    status: str
    reason: str | None
    title: str | None


@dataclass(frozen=True, slots=True)
class FeaturePage:
    """All that the page of one feature shows beside its row of the catalog.

    `descriptors` is None, and the two after it are empty, in a catalog that has no room for them (see `descriptors.measured`).
    `details` are those of the label that the catalog shows; None where it shows none, or has no room for them.
    """

    feature_id: int
    contexts: Sequence[ContextRow]
    histogram: Sequence[HistogramBin]
    output_tokens: Sequence[OutputToken]
    steered: Sequence[SteeredToken]
    neighbours: Sequence[Neighbour]
    labels: Sequence[LabelRow]
    scores: Sequence[ScoreRow]
    descriptors: Descriptors | None
    cofiring: Sequence[CofiringNeighbour]
    negatives: Sequence[HardNegative]
    details: LabelDetails | None

    def window_ids(self) -> Iterator[int]:
        """The windows that the page shows; some occur more than once."""
        yield from (context.window_id for context in self.contexts)
        yield from (negative.window_id for negative in self.negatives)


@dataclass(frozen=True, slots=True)
class Window:
    """The tokens of one window and where they come from: `start` counts tokens from the document's beginning."""

    window_id: int
    doc_id: str
    start: int
    tokens: list[int]


@dataclass(frozen=True, slots=True)
class Token:
    """`text` is for people; `bytes` is what the token stands for, which need not be valid UTF-8 by itself."""

    token: int
    text: str
    bytes: bytes
