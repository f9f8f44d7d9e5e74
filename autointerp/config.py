"""A run's configuration: a sentence for every field. How it comes about is in `config_reading`; the sections are in
`config_harvest` and `config_labels`.

The resolved configuration is written into the catalog with the results; it never holds a key, only the name of the
environment variable that does.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from autointerp.config_fields import Section
from autointerp.config_harvest import (
    CorpusConfig,
    NegativesConfig,
    SaeConfig,
    SampleConfig,
    SteeringConfig,
    SubjectConfig,
)
from autointerp.config_labels import (
    NO_MODEL,
    WITH_MODEL,
    ExemplarsConfig,
    ExplainConfig,
    ReportConfig,
    ScoreConfig,
    SpendingConfig,
)

__all__ = [
    "NO_MODEL",
    "WITH_MODEL",
    "Config",
    "CorpusConfig",
    "ExemplarsConfig",
    "ExplainConfig",
    "ModelAccess",
    "NegativesConfig",
    "ReportConfig",
    "SaeConfig",
    "SampleConfig",
    "ScoreConfig",
    "SpendingConfig",
    "SteeringConfig",
    "SubjectConfig",
]


class Config(Section):
    """Everything that a run depends on."""

    subject: SubjectConfig = SubjectConfig()
    sae: SaeConfig = SaeConfig()
    also: tuple[SaeConfig, ...] = ()
    """Further dictionaries to read in the same pass over the corpus ([[also]]); each gets a run folder of its own."""
    corpus: CorpusConfig = CorpusConfig()
    sample: SampleConfig = SampleConfig()
    negatives: NegativesConfig = NegativesConfig()
    steering: SteeringConfig = SteeringConfig()
    explain: ExplainConfig = ExplainConfig()
    exemplars: ExemplarsConfig = ExemplarsConfig()
    score: ScoreConfig = ScoreConfig()
    spending: SpendingConfig = SpendingConfig()
    report: ReportConfig = ReportConfig()
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of every draw: splits, samples, bootstrap, controls."""

    def explaining(self) -> "ModelAccess":
        """How explainers ask their model."""
        return self._access(self.explain, self.explain.provider, self.explain.model)

    def simulating(self) -> "ModelAccess":
        """How simulators ask theirs: as explainers do, as far as nothing else is said."""
        given = self.score if self.score.provider else self.explain
        return self._access(given, self.score.provider or self.explain.provider, self.score.model or self.explain.model)

    def embedding(self) -> "ModelAccess":
        """How the embedder is asked: as explainers ask, as far as nothing else is said, but never by batches."""
        score, explain = self.score, self.explain
        own = score.embed_provider is not None
        return ModelAccess(
            score.embed_provider or explain.provider.removesuffix("-batch"), score.embedder,
            score.embed_base_url if own else explain.base_url, score.embed_api_key_env if own else explain.api_key_env,
            explain.concurrency, explain.timeout_s, self.spending.budget, self.spending.prices, "embed",
        )  # fmt: skip

    def _access(self, given: "ExplainConfig | ScoreConfig", provider: str, model: str | None) -> "ModelAccess":
        return ModelAccess(
            provider, model, given.base_url, given.api_key_env, self.explain.concurrency, self.explain.timeout_s,
            self.spending.budget, self.spending.prices,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelAccess:
    """How a model is reached, and what it may cost; `budget` in US dollars for the run's whole journal. `role`: what for."""

    provider: str
    model: str | None
    base_url: tuple[str, ...]
    api_key_env: str | None
    concurrency: int
    timeout_s: float
    budget: float | None
    prices: str | None
    role: Literal["ask", "embed"] = "ask"
