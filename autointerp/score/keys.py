"""The identity of each scorer's rows: a key of all that they depend on. A further scorer does not touch what the others found."""

from autointerp.config import Config, ModelAccess
from autointerp.explain.stage import explainer_key
from autointerp.hashing import hex_hash
from autointerp.llm.session import provider_for
from autointerp.score import Scorer
from autointerp.score.adaptive import identity
from autointerp.score.parts import scorers_for, silent_contexts
from autointerp.score.writing import Scoring


def score_keys(config: Config) -> dict[str, str]:
    """Of each scorer the identity of its scores: the labels, and every setting that the values depend on."""
    labels = explainer_key(config, config.explain.explainer)
    return {name: _score_key(config, name, scorer, labels) for name, scorer in scorers_for(config).items()}


def _score_key(config: Config, name: str, scorer: Scorer, labels: str) -> str:
    settings, wants = config.score, scorer.wants
    model = _identity(config.simulating()) if wants.model else ("", "")
    embedder = _identity(config.embedding()) if wants.embedder else ()
    chosen = (settings.per_band, silent_contexts(config), settings.resamples, config.seed)
    negatives = config.negatives.identity() if wants.negatives else "0"
    # Where scoring is adaptive a label decides how many contexts there are, also for those who do not look at it.
    by_label = wants.label or config.score.adaptive
    return hex_hash("score", name, labels if by_label else "", scorer.version, *model, *chosen, negatives, *embedder,
                    *identity(config))  # fmt: skip


def _identity(access: ModelAccess) -> tuple[str, str | None]:
    """Whose answers they are."""
    return provider_for(access).name, access.model


def scorings(config: Config) -> dict[str, Scoring]:
    """Of each scorer how its rows are marked."""
    keys = score_keys(config)
    return {
        name: Scoring(name, keys[name], scorer.simulator, _model(config, scorer), scorer.wants.label)
        for name, scorer in scorers_for(config).items()
    }


def _model(config: Config, scorer: Scorer) -> str | None:
    """The model that a scorer's rows are marked with."""
    if scorer.wants.model:
        return config.simulating().model
    return config.embedding().model if scorer.wants.embedder else None
