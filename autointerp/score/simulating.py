"""The scorer `simulation`: a simulator predicts activations from the label, and they are compared with the true ones.

The protocol, with its metrics, is in `simulation`; which simulator it is, the run's settings say.
"""

from dataclasses import dataclass, field
from typing import Any, Self

from autointerp.catalog.records import FeatureEvidence, Label
from autointerp.hashing import hex_hash
from autointerp.score import Grade, Means, Settings, Simulated, Simulator, Wants, scorers, simulators
from autointerp.score.calibration import NOT_ASKED_FOR, Line, NoLine, calibration_contexts, fitted
from autointerp.score.discretise import LEVELS
from autointerp.score.pool import blinded, scored_contexts
from autointerp.score.simulation import SCORER, difference_rows, score_simulation

RANKS = (
    "r_corpus", "r_balanced", "r2_uncentred", "absdev_uncentred", "r2_calibrated", "absdev_calibrated", "f1_corpus",
    "lexical_gain_corpus", "lexical_gain_balanced",
)  # fmt: skip
BASELINE = "lexicon"  # the simulator of the labels that others are compared with


@dataclass(frozen=True, slots=True)
class Simulation:
    """See the module. What it wants is what its simulator needs."""

    settings: Settings = field(default_factory=Settings)

    def configured(self, settings: Settings) -> Self:
        """The same scorer with a run's settings."""
        return type(self)(settings)

    @property
    def wants(self) -> Wants:
        by = self._by()
        return Wants(model=by.needs_model, capabilities=by.needs, rerank=self.settings.calibration > 0, baseline=True)

    @property
    def simulator(self) -> str:
        return self.settings.simulator

    @property
    def ranks(self) -> tuple[str, ...]:
        return RANKS

    @property
    def version(self) -> str:
        """Changes with everything that the simulations depend on, the model apart."""
        return hex_hash("2", self.simulator, self._by().version, self.settings.calibration)

    def _by(self) -> Simulator:
        return simulators.get(self.settings.simulator).configured(self.settings)

    async def __call__(self, label: Label, evidence: FeatureEvidence, means: Means) -> Grade:
        """The simulations and the scores that they come to; with a baseline also the difference from it."""
        contexts = [blinded(context) for context in scored_contexts(evidence)]
        options: dict[str, Any] = {"seed": self.settings.seed, "resamples": self.settings.resamples}
        simulated = await self._by()(label, contexts, evidence.max_activation, means.ask, means.vocabulary)
        learnt, further = await self._calibration(label, evidence, means)
        rows = score_simulation(evidence, simulated, calibration=learnt, **options)
        if means.baseline is not None:
            by = simulators.get(BASELINE)
            other = await by(means.baseline, contexts, evidence.max_activation, None, means.vocabulary)
            rows = [*rows, *difference_rows(evidence, simulated, other, **options)]
        return Grade(rows, simulated=[*simulated, *further])

    async def _calibration(
        self, label: Label, evidence: FeatureEvidence, means: Means
    ) -> tuple[Line | NoLine, list[Simulated]]:
        """The scale, learnt on contexts of the rerank split, and their simulations. Asked apart from the scored texts, which
        other questions of the same texts share."""
        contexts = calibration_contexts(evidence, self.settings.calibration)
        if not self.settings.calibration:
            return NOT_ASKED_FOR, []
        blind = [blinded(context) for context in contexts]
        simulated = (
            await self._by()(label, blind, evidence.max_activation, means.ask, means.vocabulary) if blind else []
        )
        scale = LEVELS / evidence.max_activation if evidence.max_activation > 0 else 0.0
        return fitted(contexts, simulated, scale), simulated


scorers.register(SCORER)(Simulation())
