"""The identity of each scorer's rows: a key of all that they depend on. A further scorer does not touch what the others found."""

from autointerp.config import Config, ModelAccess
from autointerp.explain.stage import explainer_key
from autointerp.hashing import hex_hash
from autointerp.llm.session import provider_for
from autointerp.score import Scorer
from autointerp.score.adaptive import identity
from autointerp.score.parts import scorers_for, silent_contexts
from autointerp.score.simulating import BASELINE
from autointerp.score.writing import Scoring

STATISTICS_VERSION = "2"
"""Of what all scorers share: weights, intervals, metrics, controls that permute answers. Raise it where any value changes.

Labels are then graded anew, from the answers that the journal has.
"""


def score_keys(config: Config) -> dict[str, str]:
    """Of each scorer the identity of its scores: the labels, and every setting that the values depend on."""
    return {name: scoring.key for name, scoring in scorings(config).items()}


def scorings(config: Config) -> dict[str, Scoring]:
    """Of each scorer how its rows are marked."""
    labels, found = explainer_key(config, config.explain.explainer), {}
    for name, scorer in scorers_for(config).items():
        asked, model = _asked(config, name, scorer, labels), _model(config, scorer)
        key = hex_hash(asked, STATISTICS_VERSION, _compared_with(config, scorer))
        found[name] = Scoring(name, key, scorer.simulator, model, scorer.wants.label, asked)
    return found


def has_baseline(config: Config, scorer: Scorer) -> bool:
    """Whether it compares the run's labels with the lexicon's."""
    return scorer.wants.baseline and config.explain.explainer != BASELINE


def _compared_with(config: Config, scorer: Scorer) -> str:
    """The identity of the lexicon's labels, where they are compared with."""
    return explainer_key(config, BASELINE) if has_baseline(config, scorer) else ""


def _asked(config: Config, name: str, scorer: Scorer, labels: str) -> str:
    """The identity of what a scorer asks for. (The resamples do not belong there; they are in the `draws` of older catalogs.)"""
    settings, wants = config.score, scorer.wants
    model = _identity(config.simulating()) if wants.model else ("", "")
    embedder = _identity(config.embedding()) if wants.embedder else ()
    chosen = (settings.per_band, silent_contexts(config, scorer), settings.resamples, config.seed)
    negatives = config.negatives.identity() if wants.negatives else "0"
    # Where scoring is adaptive a label decides how many contexts there are, also for those who do not look at it.
    by_label = wants.label or config.score.adaptive
    return hex_hash("score", name, labels if by_label else "", scorer.version, *model, *chosen, negatives, *embedder,
                    *identity(config))  # fmt: skip


def _identity(access: ModelAccess) -> tuple[str, str | None]:
    """Whose answers they are."""
    return provider_for(access).name, access.model


def _model(config: Config, scorer: Scorer) -> str | None:
    """The model that a scorer's rows are marked with."""
    if scorer.wants.model:
        return config.simulating().model
    return config.embedding().model if scorer.wants.embedder else None
