"""From a configuration to scorers and simulator."""

from pathlib import Path

import pytest

from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.config_reading import load_config
from autointerp.errors import UserError
from autointerp.score.keys import score_keys
from autointerp.score.parts import part_of, require_negatives, scorers_for, simulator_for


def config(**settings: object) -> Config:
    return load_config(None, {name.replace("__", "."): value for name, value in settings.items()})


def test_the_default_is_simulation_and_detection_where_a_model_simulates() -> None:
    assert list(scorers_for(config())) == ["simulation"]
    asking = scorers_for(config(explain__explainer="token_activation"))
    assert [part_of(*item) for item in asking.items()] == [("simulator", "logprob_free"), ("scorer", "detection")]
    only = scorers_for(config(explain__explainer="token_activation", score__scorers=("simulation",)))
    assert list(only) == ["simulation"] and only["simulation"].wants.model
    with pytest.raises(UserError, match=r"no scorer is named 'dectection'; there are: .*detection, .*simulation"):
        scorers_for(config(score__scorers=("simulation", "dectection")))


def test_a_scorer_that_nobody_knows_is_said_first() -> None:
    with pytest.raises(UserError, match="no scorer is named 'foo'"):
        scorers_for(config(score__scorers=("foo",)))


def test_controls_are_listed_with_commas_too() -> None:
    assert config(score__controls="shuffled, empty").score.controls == ("shuffled", "empty")
    assert config(score__controls=[]).score.controls == ()


def test_the_users_own_prompts_are_those_of_scorers_too(tmp_path: Path) -> None:
    plain = config(explain__explainer="token_activation", explain__model="m")
    mine = config(explain__explainer="token_activation", explain__model="m", explain__prompt_dir=str(tmp_path))
    (tmp_path / "other.j2").write_text("")
    assert score_keys(plain) == score_keys(mine) and simulator_for(plain).version == simulator_for(mine).version
    changed = tmp_path / "changed"
    changed.mkdir()
    (changed / "_texts.j2").write_text("Mine.")
    mine = config(explain__explainer="token_activation", explain__model="m", explain__prompt_dir=str(changed))
    assert simulator_for(mine).version != simulator_for(plain).version
    assert scorers_for(mine)["detection"].version != scorers_for(plain)["detection"].version
    assert not set(score_keys(mine).values()) & set(score_keys(plain).values())


def test_a_scorers_key_covers_what_its_scores_depend_on_and_nothing_else() -> None:
    base = {"explain__explainer": "token_activation", "explain__model": "m"}

    def keys(**more: object) -> dict[str, str]:
        return score_keys(config(**{**base, **more}))

    plain = keys()
    assert len({*plain.values()}) == 2
    for more in ({"score__texts_per_request": 10}, {"score__silent": 30}, {"explain__model": "other"}):
        assert not {*plain.values()} & {*keys(**more).values()}
    with_negatives = keys(negatives__per_kind=8)  # the simulation does not look at them
    assert with_negatives["simulation"] == plain["simulation"] and with_negatives["detection"] != plain["detection"]
    more_tries = keys(negatives__per_kind=8, negatives__tries=3)
    assert with_negatives["simulation"] == more_tries["simulation"]
    assert with_negatives["detection"] != more_tries["detection"]
    assert keys(negatives__tries=3) == plain  # where none are looked for
    assert keys(score__scorers=("simulation",)) == {"simulation": plain["simulation"]}
    free = [{"negatives__per_kind": 8}, {"score__texts_per_request": 10}, {}]
    assert len({score_keys(config(**more))["simulation"] for more in free}) == 1  # they ask no model


def test_configured_hard_negatives_that_nobody_found_are_not_silently_left_out(tmp_path: Path) -> None:
    """Labels that were graded without them would never be graded with them: the key is the same."""
    given = {"explain__explainer": "token_activation", "explain__model": "m", "negatives__per_kind": 8}
    mine = config(**given)
    with Catalog.open(tmp_path / "catalog.duckdb", write=True) as catalog:
        require_negatives(config(), catalog)
        require_negatives(config(**given, score__scorers=("simulation",)), catalog)  # which does not look at them
        with pytest.raises(UserError, match=r"per_kind is 8, but .* run first: autointerp negatives"):
            require_negatives(mine, catalog)
        found = {"negatives": mine.negatives.model_dump(), "seed": mine.seed}
        catalog.finish_stage("negatives", "a fingerprint", found, {})
        require_negatives(mine, catalog)
        for more in ({"negatives__per_kind": 9}, {"negatives__tries": 3}, {"seed": 1}):
            with pytest.raises(UserError, match="run first: autointerp negatives"):
                require_negatives(config(**{**given, **more}), catalog)
