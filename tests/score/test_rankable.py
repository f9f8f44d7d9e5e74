"""How metrics are named, and by which of them labels can be ranked."""

import pytest

from autointerp.config import Config
from autointerp.config_reading import load_config
from autointerp.errors import UserError
from autointerp.metric_names import USUAL, MetricName, parse_metric
from autointerp.score import scorers
from autointerp.score.rankable import rankable, require_rank


def test_names() -> None:
    assert parse_metric("r_corpus") == USUAL == MetricName("simulation", "r_corpus")
    assert (
        parse_metric(" detection.f1 ") == ("detection", "f1")
        and str(parse_metric("f1_corpus")) == "simulation.f1_corpus"
    )
    for text in ("", ".", ".f1", "detection."):
        with pytest.raises(UserError, match=r"names no metric; expected scorer\.metric"):
            parse_metric(text)


def of(**settings: object) -> list[str]:
    given = {"explain.explainer": "lexicon"} | {name.replace("__", "."): value for name, value in settings.items()}
    return list(map(str, rankable(load_config(None, given))))


def test_what_there_will_be() -> None:
    own = [f"simulation.{name}" for name in ("r_corpus", "r_balanced", "r2_uncentred", "absdev_uncentred")]
    assert of() == [*own, "simulation.r2_calibrated", "simulation.absdev_calibrated", "simulation.f1_corpus"]
    assert of(score__calibration=0) == [*own, "simulation.f1_corpus"]
    by_model = {"explain__explainer": "highlighted", "explain__model": "mock", "explain__provider": "mock"}
    found = of(**by_model, score__scorers="simulation,detection")
    assert "simulation.lexical_gain_corpus" in found and "simulation.r2_calibrated" not in found
    assert found[-3:] == ["detection.balanced_accuracy", "detection.f1", "detection.precision"]
    found = of(**by_model, score__scorers="simulation,detection", score__logprobs=True, negatives__per_kind=3)
    assert found[-3:] == ["detection.auroc", "detection.auroc_near", "detection.auroc_token"]


def test_every_scorer_has_a_main_metric_and_offers_no_ceiling() -> None:
    for name, scorer in scorers.items():
        assert scorer.ranks, name
        assert not [
            one for one in scorer.ranks if one.startswith(("quantisation", "ess_", "false_alarms", "chance"))
        ], name


def test_others_are_refused_with_the_list() -> None:
    require_rank(Config())
    config = load_config(None, {"score.rank_by": "quantisation_ceiling"})
    with pytest.raises(
        UserError, match=r"'quantisation_ceiling', which is no metric to rank labels by; expected one of: r_corpus"
    ):
        require_rank(config)
