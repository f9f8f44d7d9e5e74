"""From a configuration to scorers and simulator."""

from pathlib import Path

import pytest

from autointerp.config import Config
from autointerp.config_reading import load_config
from autointerp.errors import UserError
from autointerp.score.parts import part_of, scorers_for, simulator_for
from autointerp.score.stage import score_key


def config(**settings: object) -> Config:
    return load_config(None, {name.replace("__", "."): value for name, value in settings.items()})


def test_the_default_is_simulation_and_detection_where_a_model_simulates() -> None:
    assert list(scorers_for(config())) == ["simulation"]
    asking = scorers_for(config(explain__explainer="token_activation"))
    assert [part_of(*item) for item in asking.items()] == [("simulator", "logprob_free"), ("scorer", "detection")]
    only = scorers_for(config(explain__explainer="token_activation", score__scorers=("simulation",)))
    assert list(only) == ["simulation"] and only["simulation"].needs_model
    with pytest.raises(UserError, match="no scorer is named 'dectection'; there are: detection, simulation"):
        scorers_for(config(score__scorers=("simulation", "dectection")))


def test_the_users_own_prompts_are_those_of_scorers_too(tmp_path: Path) -> None:
    plain = config(explain__explainer="token_activation", explain__model="m")
    mine = config(explain__explainer="token_activation", explain__model="m", explain__prompt_dir=str(tmp_path))
    (tmp_path / "other.j2").write_text("")
    assert score_key(plain) == score_key(mine) and simulator_for(plain).version == simulator_for(mine).version
    changed = tmp_path / "changed"
    changed.mkdir()
    (changed / "_texts.j2").write_text("Mine.")
    mine = config(explain__explainer="token_activation", explain__model="m", explain__prompt_dir=str(changed))
    assert simulator_for(mine).version != simulator_for(plain).version
    assert scorers_for(mine)["detection"].version != scorers_for(plain)["detection"].version
    assert score_key(mine) != score_key(plain)


def test_the_key_covers_what_scores_depend_on() -> None:
    settings: list[dict[str, object]] = [
        {}, {"score__scorers": ("simulation",)}, {"score__texts_per_request": 10}, {"negatives__per_kind": 8},
        {"score__silent": 30}, {"explain__model": "other"},
    ]  # fmt: skip
    base = {"explain__explainer": "token_activation", "explain__model": "m"}
    assert len({score_key(config(**{**base, **more})) for more in settings}) == len(settings)
    free = [{"negatives__per_kind": 8}, {"score__texts_per_request": 10}, {}]
    assert len({score_key(config(**more)) for more in free}) == 1  # they ask no model and look at no negatives
