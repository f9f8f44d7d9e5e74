"""By which metrics the labels of a run can be ranked: known from its configuration, before anything is graded."""

from collections.abc import Iterator

from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.metric_names import MetricName
from autointerp.score import Scorer
from autointerp.score.parts import asks_logprobs, scorers_for, settings_of
from autointerp.score.simulating import BASELINE

_HARD = ("near", "token")  # kinds of hard negatives; fuzzing's further kind `silent` is one as any


def rankable(config: Config) -> list[MetricName]:
    """Metrics of the configured scorers, each scorer's main one first. Raises UserError where scorers cannot be had."""
    return [MetricName(name, one) for name, scorer in scorers_for(config).items() for one in _of(config, scorer)]


def _of(config: Config, scorer: Scorer) -> Iterator[str]:
    verdicts = "balanced_accuracy" in scorer.ranks
    for metric in scorer.ranks:
        if metric.startswith("lexical_gain") and config.explain.explainer == BASELINE:
            continue  # there is nothing to compare with
        if metric.endswith("_calibrated") and not settings_of(config).calibration:
            continue
        if metric == "auroc" and verdicts and not asks_logprobs(config):
            continue
        yield metric
        if scorer.wants.negatives and config.negatives.per_kind:
            yield from (f"{metric}_{kind}" for kind in _HARD)


def require_rank(config: Config) -> None:
    """Raise UserError, with the metrics that there are, where score.rank_by is none of them."""
    chosen, known = config.score.ranked(), rankable(config)
    if chosen not in known:
        names = ", ".join(one.metric if one.scorer == "simulation" else str(one) for one in known)
        raise UserError(
            f"score.rank_by is {config.score.rank_by!r}, which is no metric to rank labels by; expected one of: {names}"
        )
