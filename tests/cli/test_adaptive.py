"""`autointerp score --adaptive`, on runs over the tiny model: the same rows however it is run, no question asked twice."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from autointerp.catalog.digest import table_digests
from autointerp.catalog.store import Catalog
from autointerp.config_reading import load_config
from autointerp.errors import UserError
from autointerp.score import grading
from autointerp.score.adaptive import plan_of
from autointerp.score.keys import score_keys
from tests.cli.test_bad_input import options, run
from tests.cli.test_run import catalog_rows

MOCK = ["--provider", "mock", "--label-model", "mock"]
ADAPTIVE = ["--adaptive", "--set", "score.rounds=3", "--set", "score.target_width=1.0", "--set", "score.silent=12", "--rank-by",
            "r_balanced"]  # fmt: skip


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, tiny_settings: dict[str, object]) -> Path:
    from autointerp.cli import cli

    out = str(tmp_path_factory.mktemp("adaptive") / "run")
    settings = options(tiny_settings, sample__per_band=20, sample__pool=80)
    for command in (["sample", *settings, "--out", out], ["explain", "--out", out, *MOCK], ["explain", "--out", out]):
        result = CliRunner().invoke(cli, list(map(str, command)))
        assert result.exit_code == 0, result.output
    return Path(out)


@pytest.fixture
def out(labelled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(labelled, tmp_path / "run"))


def lexicon(*more: str) -> list[str]:
    return [*ADAPTIVE, "--set", "explain.explainer=lexicon", *more]


def digests(out: Path) -> dict[str, str]:
    with Catalog.open(out / "catalog.duckdb") as catalog:
        found = table_digests(catalog)
    return {table: found[table] for table in ("scores", "simulations", "judgements", "ranks")}


def looks(out: Path) -> dict[int, int]:
    return dict(catalog_rows(out, "SELECT feature_id, count(*) FROM scores JOIN scorings USING (score_key) WHERE "
                                  "scores.metric LIKE '%\\_look\\_%' ESCAPE '\\' GROUP BY 1"))  # fmt: skip


def test_features_stop_at_different_looks_and_keep_their_strata(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    code, err = run(capsys, "score", "--out", out, *lexicon())
    assert code == 0, err
    found = looks(out)
    assert len(found) > 10 and set(found.values()) > {3} and set(found.values()) <= {1, 2, 3}
    plan = plan_of(load_config(None, {}, base=json.loads((out / "config.json").read_text())))
    assert plan is not None
    for feature, number in found.items():
        bands = catalog_rows(out, "SELECT band, count(*) FROM simulations JOIN scorings USING (score_key) JOIN windows "
                                  "USING (window_id) WHERE control = '' AND split = 'test' "
                                  f"AND feature_id = {feature} GROUP BY 1")  # fmt: skip
        per_band, silent = plan.contexts(number)
        assert all(count <= (per_band if band else silent) for band, count in bands)
        n_ok = catalog_rows(out, "SELECT DISTINCT n_ok FROM scores JOIN scorings USING (score_key) WHERE metric = 'r_balanced' "
                                 f"AND control = '' AND feature_id = {feature}")  # fmt: skip
        assert n_ok == [(sum(count for _, count in bands),)]
    # Controls are graded on the contexts that its feature has used.
    assert not catalog_rows(out, "SELECT 1 FROM simulations s JOIN scorings USING (score_key) WHERE control <> '' AND NOT "
                                 "EXISTS (SELECT 1 FROM simulations t WHERE t.score_key = s.score_key AND t.control = '' AND "
                                 "t.feature_id = s.feature_id AND t.window_id = s.window_id)")  # fmt: skip
    facts = json.loads(catalog_rows(out, "SELECT facts FROM stages WHERE stage = 'score'")[0][0])
    assert sum(facts["adaptive"]["stopped"].values()) == len(found)
    assert run(capsys, "score", "--out", out)[0] == 0  # a rerun does nothing


def test_of_all_looks_the_values_are_those_of_the_fixed_design(
    capsys: pytest.CaptureFixture[str], out: Path, tmp_path: Path
) -> None:
    fixed = Path(shutil.copytree(out, tmp_path / "fixed"))
    never = lexicon("--set", "score.target_width=0")
    assert run(capsys, "score", "--out", out, *never)[0] == 0
    assert run(capsys, "score", "--out", fixed, *[one for one in never if one != "--adaptive"])[0] == 0
    query = ("SELECT feature_id, control, metric, value, lo, hi, n_ok FROM scores JOIN scorings USING (score_key) "
             "WHERE NOT contains(metric, '_look_') ORDER BY ALL")  # fmt: skip
    assert catalog_rows(out, query) == catalog_rows(fixed, query)
    assert set(looks(out).values()) == {3} and not looks(fixed)


def test_stopped_and_gone_on_with_it_is_the_same(
    capsys: pytest.CaptureFixture[str], out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path(shutil.copytree(out, tmp_path / "whole"))
    chosen = lexicon("--top-k", "5")
    assert run(capsys, "score", "--out", whole, *chosen)[0] == 0
    write, written = grading.write_grades, []

    def failing(*arguments: object) -> None:
        if len(written) == 1:
            raise OSError(28, "No space left on device")
        written.append(1)
        write(*arguments)

    for _ in range(12):
        written.clear()
        monkeypatch.setattr(grading, "write_grades", failing)
        if run(capsys, "score", "--out", out, *chosen)[0] == 0:
            break
    else:
        raise AssertionError("each try writes at least one chunk")
    assert digests(out) == digests(whole)


def test_with_a_model_no_context_is_asked_about_twice(
    capsys: pytest.CaptureFixture[str], out: Path, tmp_path: Path
) -> None:
    again = Path(shutil.copytree(out, tmp_path / "again"))
    chosen = [*ADAPTIVE, *MOCK, "--set", "explain.explainer=highlighted"]
    assert run(capsys, "score", "--out", out, *chosen)[0] == 0
    spent = catalog_rows(out, "SELECT requests, failed FROM spend WHERE purpose = 'simulate'")
    assert spent and catalog_rows(out, "SELECT count(*) FROM judgements")[0][0] > 0
    # One request holds 25 texts, so a look is one request, and so is each control.
    asked = sum(looks(out).values()) + catalog_rows(
        out, "SELECT count(DISTINCT (feature_id, control)) FROM simulations JOIN scorings USING (score_key) WHERE control <> ''"
    )[0][0]  # fmt: skip
    assert spent[0][0] <= asked * 1.3  # what was malformed is asked again by itself
    assert run(capsys, "score", "--out", again, *chosen, "--concurrency", "3")[0] == 0
    assert digests(again) == digests(out)
    # From the journal alone the same comes out.
    code, err = run(capsys, "rederive", "--out", out)
    assert code == 0, err
    assert digests(out) == digests(again)


def test_adaptive_rows_have_a_key_of_their_own(out: Path) -> None:
    config = load_config(None, {"explain.explainer": "lexicon"}, base=json.loads((out / "config.json").read_text()))
    keys = {
        score_keys(config.model_copy(update={"score": config.score.model_copy(update=changed)}))["simulation"]
        for changed in ({}, {"adaptive": True}, {"adaptive": True, "top_k": 3}, {"top_k": 3}, {"rounds": 3},
                        {"adaptive": "halving"}, {"adaptive": "halving", "target_width": 0.2})
    }  # fmt: skip
    assert len(keys) == 4  # what is not adaptive does not depend on how it would be


def test_what_is_meant_by_the_options() -> None:
    """A goal means adaptive scoring, and ends features for no other reason; what is ruled out is not passed over in silence."""

    def plan(base: dict[str, Any] | None = None, **given: Any) -> Any:
        known = {"explain": {"explainer": "lexicon"}, "score": base or {}}
        return plan_of(load_config(None, {f"score.{name}": value for name, value in given.items()}, base=known))

    assert plan() is None and plan(adaptive=True).target_width == 0.3
    assert (plan(top_k=5).top, plan(top_k=5).target_width) == (5, 0.0)
    assert plan(threshold=0.5).threshold == 0.5 and plan(threshold=0.5).target_width == 0.0
    assert plan(top_k=5, target_width=0.2).target_width == 0.2
    assert plan({"adaptive": True, "top_k": 5}, adaptive=False) is None
    assert plan({"adaptive": False}, top_k=5).top == 5
    halved = plan({"adaptive": "halving", "threshold": 0.3}, top_k=5)
    assert (halved.halving, halved.top, halved.target_width, halved.threshold) == (True, 5, 0.0, None)
    with pytest.raises(UserError, match="only adaptive scoring does"):
        plan(top_k=5, adaptive=False)


def test_halving(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    chosen = ["--halving", "--top-k", "3", *lexicon()[1:]]
    code, err = run(capsys, "score", "--out", out, *chosen)
    assert code == 0, err
    found = looks(out)
    per_look = [sum(number >= look for number in found.values()) for look in (1, 2, 3)]
    assert per_look[1:] == [max(3, per_look[0] // 2), max(3, per_look[0] // 4)]
    facts = json.loads(catalog_rows(out, "SELECT facts FROM stages WHERE stage = 'score'")[0][0])
    assert facts["adaptive"]["stopped"] == {
        "all contexts": per_look[2],
        "not in the better half": per_look[0] - per_look[2],
    }
    # Who was stopped has intervals that say what they are of.
    query = "SELECT feature_id, reason FROM scores JOIN scorings USING (score_key) WHERE metric = 'r_balanced' AND control = '' "
    notes = dict(catalog_rows(out, query + "AND lo IS NOT NULL"))
    assert notes and all(
        ("stopped by halving after round" in (reason or "")) == (found[feature] < 3)
        for feature, reason in notes.items()
    )
    before = digests(out)
    assert run(capsys, "score", "--out", out)[0] == 0 and digests(out) == before  # remembered, and complete
    assert run(capsys, "score", "--out", out, "--no-adaptive")[0] == 0 and not looks(out)
    assert json.loads((out / "config.json").read_text())["score"]["adaptive"] is False


def test_scorers_of_the_feature_know_whose_label_stopped_it(out: Path) -> None:
    """Their contexts are those that its label's simulation has used: with other labels there are others."""
    base = json.loads((out / "config.json").read_text())

    def key(**changed: Any) -> str:
        settings = {"score.scorers": ["simulation", "intruder"], "score.model": "mock", "score.provider": "mock"}
        return score_keys(load_config(None, settings | changed, base=base))["intruder"]

    fixed, adaptive = {"score.adaptive": False}, {"score.adaptive": True}
    others = {"explain.explainer": "token_activation", "explain.model": "mock"}
    assert key(**fixed) == key(**fixed, **others)
    assert key(**adaptive) != key(**adaptive, **others)
