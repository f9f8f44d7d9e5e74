"""`--features` of explain, score and run: some first, then the rest, and it is as if all had been done at once."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from autointerp.catalog.digest import table_digests
from autointerp.catalog.store import Catalog
from tests.cli.test_bad_input import options, run
from tests.cli.test_run import catalog_rows

FEW = ["--set", "score.silent=8", "--set", "score.resamples=200", "--set", "score.per_band=3"]


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory, tiny_settings: dict[str, object]) -> Path:
    from autointerp.cli import cli

    out = tmp_path_factory.mktemp("some") / "run"
    settings = options(tiny_settings, sample__features="0-15")
    result = CliRunner().invoke(cli, ["sample", *settings, "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def out(sampled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sampled, tmp_path / "run"))


def labelled(out: Path, explainer: str = "lexicon") -> list[int]:
    query = f"SELECT feature_id FROM explanations WHERE status = 'ok' AND explainer = '{explainer}' ORDER BY 1"
    return [feature for (feature,) in catalog_rows(out, query)]


def digests(out: Path) -> dict[str, str]:
    with Catalog.open(out / "catalog.duckdb") as catalog:
        found = table_digests(catalog)
    return {table: found[table] for table in ("explanations", "scores", "simulations", "ranks", "ranking")}


def test_some_first_and_then_the_rest(
    capsys: pytest.CaptureFixture[str], out: Path, sampled: Path, tmp_path: Path
) -> None:
    known = [one for (one,) in catalog_rows(out, "SELECT feature_id FROM features WHERE flag IS DISTINCT FROM 'dead' "
                                                 "AND flag IS DISTINCT FROM 'rare' ORDER BY 1")]  # fmt: skip
    chosen = known[1:4]
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(map(str, chosen)))
    before = (out / "config.json").read_text()
    assert run(capsys, "explain", "--out", out, "--features", f"@{listed}")[0] == 0
    assert labelled(out) == chosen and (out / "config.json").read_text() == before
    code, err = run(capsys, "score", "--out", out, *FEW, "--features", f"{known[0]},{known[1]}")
    assert code == 0, err
    assert catalog_rows(out, "SELECT DISTINCT feature_id FROM scores ORDER BY 1") == [(known[1],)]
    assert json.loads((out / "config.json").read_text())["sample"]["features"] == "0-15"
    code, err = run(capsys, "score", "--out", out, "--features", known[0])
    assert code == 2 and "none of the 1 features of --features has a label by lexicon" in err
    for command in ("explain", "score"):
        assert run(capsys, command, "--out", out)[0] == 0
    at_once = Path(shutil.copytree(sampled, tmp_path / "once"))
    assert run(capsys, "explain", "--out", at_once)[0] == 0 and run(capsys, "score", "--out", at_once, *FEW)[0] == 0
    assert labelled(out) == known and digests(out) == digests(at_once)
    assert run(capsys, "score", "--out", out, "--features", known[0])[0] == 0  # nothing is left to do
    assert digests(out) == digests(at_once)


def test_controls_of_verdicts_are_those_of_a_run_that_was_done_at_once(
    capsys: pytest.CaptureFixture[str], out: Path
) -> None:
    """Of a few features two are in the controls; of all of them others are."""
    known = [one for (one,) in catalog_rows(out, "SELECT feature_id FROM features WHERE flag IS DISTINCT FROM 'dead' "
                                                 "AND flag IS DISTINCT FROM 'rare' ORDER BY 1")]  # fmt: skip
    assert run(capsys, "explain", "--out", out, "--features", ",".join(map(str, known[1:4])))[0] == 0
    chosen = ["score", "--out", out, *FEW, "--explainer", "lexicon", "--simulator", "lexicon", "--provider", "mock",
              "--label-model", "mock", "--set", "score.scorers=simulation,detection", "--set",
              "score.control_features=2"]  # fmt: skip
    code, err = run(capsys, *chosen)
    assert code == 0, err
    members = "SELECT DISTINCT feature_id FROM scores WHERE scorer = 'detection' AND control = '{}' ORDER BY 1"
    before = catalog_rows(out, members.format("always_no"))
    assert run(capsys, "explain", "--out", out)[0] == 0
    assert run(capsys, *chosen)[0] == 0
    now = catalog_rows(out, members.format("shuffled"))
    assert now != before and catalog_rows(out, members.format("always_no")) == now


def test_features_that_were_not_sampled_are_named(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    for command in ("explain", "score", "run"):
        code, err = run(capsys, command, "--out", out, "--features", "3,16-18")
        assert code == 2 and "has no samples of 16, 17, 18; it has 16 of the SAE's 24 features" in err, err
    for given, said in (("99", "out of range"), ("x", "neither an id nor a range"), ("@gone", "there is no file gone")):
        code, err = run(capsys, "explain", "--out", out, "--features", given)
        assert code == 2 and said in err, err
    assert labelled(out) == []


def test_run_on_a_sampled_folder_labels_these_only(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    [(feature,)] = catalog_rows(out, "SELECT max(feature_id) FROM features WHERE flag IS NULL OR flag = 'dense'")
    code, err = run(capsys, "run", "--out", out, *FEW, "--features", feature)
    assert code == 0, err
    assert "1 of 16 features, by --features" in err
    assert labelled(out) == [feature] and (out / "report.html").exists()
    assert json.loads((out / "config.json").read_text())["sample"]["features"] == "0-15"
    # Of rules that compare features with each other some cannot be asked about.
    for rule in (["--top-k", "3"], ["--halving"]):
        code, err = run(capsys, "score", "--out", out, *rule, "--features", feature)
        assert code == 2 and "compares all features of the run" in err
    assert json.loads((out / "config.json").read_text())["score"]["adaptive"] is False
    assert run(capsys, "score", "--out", out, "--adaptive", "--set", "score.rounds=2", "--features", feature)[0] == 0
    looks = "SELECT DISTINCT feature_id FROM scores WHERE contains(metric, '_look_')"
    assert catalog_rows(out, looks) == [(feature,)]
    facts = json.loads(catalog_rows(out, "SELECT facts FROM stages WHERE stage = 'score'")[0][0])
    assert sum(facts["adaptive"]["stopped"].values()) == 1


def test_a_copy_of_the_inputs_is_the_same_and_a_changed_weight_is_not(
    capsys: pytest.CaptureFixture[str], sampled: Path, tmp_path: Path
) -> None:
    import os

    out = Path(shutil.copytree(sampled, tmp_path / "run"))
    config = json.loads((out / "config.json").read_text())
    model = Path(shutil.copytree(config["subject"]["model"], tmp_path / "elsewhere"))
    for path in model.iterdir():
        os.utime(path, ns=(1, 1))
    for command in (["sample", "--model", model], ["explain", "--features", "all"]):
        code, err = run(capsys, *command, "--out", out)
        assert code == 0, err
    weights = model / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    os.utime(weights, ns=(1, 1))
    for command in ("sample", "explain", "run"):
        code, err = run(capsys, command, "--out", out)
        assert code == 2 and "holds a run with other settings" in err and "subject.model was" in err, err


def test_an_estimate_asks_no_more_of_a_folder_than_the_stages_do(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    with Catalog.open(
        out / "catalog.duckdb", write=True
    ) as catalog:  # as an earlier version has left it, files moved since
        catalog.rows("UPDATE stages SET fingerprint = 'of before' WHERE stage = 'sample'")
    for command in ("estimate", "explain"):
        code, err = run(capsys, command, "--out", out, "--provider", "mock", "--label-model", "mock")
        assert code == 0, err


def test_a_run_of_an_earlier_version_is_taken_over(
    capsys: pytest.CaptureFixture[str], sampled: Path, tmp_path: Path
) -> None:
    from autointerp.config_reading import load_config
    from autointerp.files import read_marker, write_marker
    from autointerp.harvest import earlier
    from autointerp.harvest.runs import Run, inputs_of, plan_fingerprint, sample_settings
    from autointerp.hashing import hex_hash
    from autointerp.run_folder import saved_config

    out = Path(shutil.copytree(sampled, tmp_path / "run"))
    config = load_config(None, {}, base=saved_config(out))
    files = [*map(earlier._times, inputs_of(config)), earlier._times("0-15")]
    as_before = hex_hash(2, json.dumps(sample_settings(config), sort_keys=True), *files)

    def mark(fingerprint: str) -> None:
        with Catalog.open(out / "catalog.duckdb", write=True) as catalog:
            catalog.rows("UPDATE stages SET fingerprint = ? WHERE stage = 'sample'", [fingerprint])

    mark(as_before)
    marker = read_marker(out / "plan")
    assert marker is not None
    model, _, corpus = inputs_of(config)
    prepend_bos = marker["fingerprint"] == plan_fingerprint(config, prepend_bos=True)
    cut = [config.subject.model, None, config.corpus.model_dump(exclude={"prepend_bos"}), prepend_bos, config.sample.pool,
           config.sample.part_windows, 0]  # fmt: skip
    known = hex_hash(2, json.dumps(cut, sort_keys=True), earlier._times(model), earlier._times(corpus))
    write_marker(out / "plan", marker | {"fingerprint": known})
    assert Run(config, out).facts() is not None
    assert read_marker(out / "plan") == marker
    now = Run(config, out).fingerprint
    assert catalog_rows(out, "SELECT fingerprint FROM stages WHERE stage = 'sample'") == [(now,)]
    mark("0" * 16)  # other times
    code, err = run(capsys, "sample", "--out", out)
    assert code == 2 and "an earlier version of autointerp made it" in err and "cp -p" in err
