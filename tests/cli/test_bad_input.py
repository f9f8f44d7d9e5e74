"""A user's mistakes: one clear line, exit code 2, nothing half-written."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from autointerp import cli
from autointerp.errors import UserError


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and stderr of the command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["autointerp", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    return code, capsys.readouterr().err


def options(settings: dict[str, object], **changed: object) -> list[str]:
    merged = settings | {name.replace("__", "."): value for name, value in changed.items()}
    return [part for name, value in merged.items() for part in ("--set", f"{name}={json.dumps(value)}")]


CASES = [
    ({"subject__model": "no/such/folder/here"}, ["no/such/folder/here", "there is no such folder"]),
    ({"sae__path": "no-such-sae/at/all/here"}, ["no-such-sae"]),
    ({"sae__hookpoint": "model.layers.9"}, ["model.layers.9", "model.layers.2"]),
    ({"sae__hookpoint": "model.layers.1.mlp.gate_proj"}, ["reads 16", "gives 32", "model.layers.1"]),
    ({"corpus__source": "missing.jsonl"}, ["missing.jsonl", "no such file"]),
    ({"sample__features": "0-99"}, ["feature 99", "0 to 23"]),
    ({"sample__features": "7-3"}, ["backwards", "3-7"]),
    ({"sample__features": "seven"}, ["'seven'", "0-999,2048"]),
    ({"corpus__window": 100}, ["context of 64"]),
    ({"sample__allow_mismatch": False}, ["worse than the mean", "sample.allow_mismatch=true"]),
]


@pytest.mark.parametrize(("changed", "words"), CASES)
def test_sample_refuses(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object], changed: dict[str, object],
    words: list[str],
) -> None:  # fmt: skip
    code, err = run(capsys, "sample", *options(tiny_settings, **changed), "--out", tmp_path / "run")
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("autointerp: ")
    assert all(word in last for word in words), last
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "catalog.duckdb").exists() and not list(tmp_path.rglob("*.partial"))


def test_empty_corpus(capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object]) -> None:
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n')
    code, err = run(
        capsys, "sample", *options(tiny_settings, corpus__source=str(tmp_path / "empty.jsonl")), "--out", tmp_path / "r"
    )
    assert code == 2 and "no tokens" in err


def test_wrong_text_field_names_what_was_found(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object]
) -> None:
    (tmp_path / "c.jsonl").write_text('{"content": "the cat"}\n')
    code, err = run(
        capsys, "sample", *options(tiny_settings, corpus__source=str(tmp_path / "c.jsonl")), "--out", tmp_path / "r"
    )
    assert code == 2 and "line 1" in err and "content" in err and "--text-field" in err


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[sample]\ntpo = 3\n", ["sample.tpo", "did you mean top"]),
        ("[smaple]\ntop = 3\n", ["'smaple'", "sample"]),
        ("[sample]\ntop = 'many'\n", ["sample.top", "'many'", "integer"]),
        ("[sample\n", ["not valid TOML", "run.toml"]),
    ],
)
def test_configuration_file(capsys: pytest.CaptureFixture[str], tmp_path: Path, toml: str, words: list[str]) -> None:
    (tmp_path / "run.toml").write_text(toml)
    code, err = run(capsys, "run", tmp_path / "run.toml", "--out", tmp_path / "run")
    assert code == 2 and all(word in err for word in words), err
    assert not (tmp_path / "run").exists()


def test_missing_configuration_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, err = run(capsys, "run", tmp_path / "no.toml")
    assert code == 2 and "no.toml" in err and "no such" in err


def test_no_key(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    tiny_settings: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    arguments = ["--explainer", "token_activation", "--provider", "openai", "--label-model", "some-model"]
    code, err = run(capsys, "run", *options(tiny_settings), *arguments, "--out", tmp_path / "run")
    assert code == 2 and "OPENAI_API_KEY" in err
    assert not (tmp_path / "run" / "plan").exists()  # said before the harvest, not after


def test_no_label_model(capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object]) -> None:
    code, err = run(
        capsys, "run", *options(tiny_settings), "--explainer", "token_activation", "--out", tmp_path / "run"
    )
    assert code == 2 and "--label-model" in err


def test_unknown_explainer_lists_the_known(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, err = run(capsys, "run", "--explainer", "oracle", "--out", tmp_path / "run")
    assert code == 2 and "oracle" in err and "lexicon" in err and "token_activation" in err


def test_other_settings_on_the_same_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object]
) -> None:
    assert run(capsys, "sample", *options(tiny_settings), "--out", tmp_path / "run")[0] == 0
    code, err = run(capsys, "sample", *options(tiny_settings, sample__top=7), "--out", tmp_path / "run")
    assert code == 2 and "sample.top was 5, now 7" in err
    assert run(capsys, "sample", "--out", tmp_path / "run")[0] == 0  # the folder's own settings are taken up


def test_stage_before_its_time(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for command in ("explain", "score", "report"):
        code, err = run(capsys, command, "--out", tmp_path / "nothing")
        assert code == 2 and "autointerp sample" in err, err
    code, err = run(capsys, "sql", "SELECT 1", "--out", tmp_path / "nothing")
    assert code == 2 and "no catalog here" in err


def test_bad_sql(capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object]) -> None:
    run(capsys, "sample", *options(tiny_settings), "--out", tmp_path / "run")
    code, err = run(capsys, "sql", "SELECT nothing FROM nowhere", "--out", tmp_path / "run")
    assert code == 2 and "nowhere" in err
    code, err = run(capsys, "sql", "DELETE FROM features", "--out", tmp_path / "run")
    assert code == 2 and "read-only" in err


def test_a_full_disk(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    tiny_settings: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere.parquet")

    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.parquet.write_table", full)
        code, err = run(capsys, "sample", *options(tiny_settings), "--out", tmp_path / "run")
    assert code == 2 and "no space left" in err and "same command" in err
    assert not list(tmp_path.rglob("*.partial"))
    assert run(capsys, "sample", *options(tiny_settings), "--out", tmp_path / "run")[0] == 0


def test_a_second_process_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import os

    from autointerp.run_folder import run_folder

    with (
        run_folder(tmp_path / "run"),
        pytest.raises(UserError, match=f"process {os.getpid()}"),
        run_folder(tmp_path / "run"),
    ):
        pass
    with run_folder(tmp_path / "run"):
        pass


def test_the_package_is_light_to_import() -> None:
    heavy = "('torch', 'transformers', 'openai', 'duckdb', 'numpy')"
    code = f"import sys, autointerp; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_catalog_that_a_kill_left_empty_is_made_anew(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object]
) -> None:
    import duckdb

    (tmp_path / "run").mkdir()
    duckdb.connect(str(tmp_path / "run" / "catalog.duckdb")).close()
    assert run(capsys, "sample", *options(tiny_settings), "--out", tmp_path / "run")[0] == 0


def test_an_unfinished_harvest_is_not_thrown_away(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object]
) -> None:
    from autointerp.harvest import stage

    def stop(*_arguments: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "_merge", stop)
        assert run(capsys, "sample", *options(tiny_settings, sample__part_windows=20), "--out", out)[0] == 130
    before = sorted(path.name for path in (out / "shards").iterdir())
    for change in ({"sample__part_windows": 500}, {"sample__top": 9}, {"seed": 4}):
        for shard in ([], ["--shard", "1/2"]):
            code, err = run(capsys, "sample", *options(tiny_settings, **change), *shard, "--out", out)
            assert code == 2 and "unfinished harvest with other settings" in err
    assert sorted(path.name for path in (out / "shards").iterdir()) == before
    # The settings are there: the bare command that the shards' message names goes on with them.
    assert run(capsys, "sample", "--out", out)[0] == 0
    assert run(capsys, "sample", *options(tiny_settings, sample__part_windows=500), "--out", tmp_path / "fresh")[0] == 0
    from tests.harvest.test_harvest import dump

    assert dump(out / "catalog.duckdb") == dump(tmp_path / "fresh" / "catalog.duckdb")


def test_folders_of_one_run_and_of_several_are_told_apart(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object]
) -> None:
    two = ["--sae", tiny_settings["sae.path"], "--sae", tiny_settings["sae.path"], "--hookpoint", "model.layers.0",
           "--hookpoint", "model.layers.1"]  # fmt: skip
    assert run(capsys, "sample", *options(tiny_settings), "--out", tmp_path / "one")[0] == 0
    code, err = run(capsys, "sample", *options(tiny_settings), *two, "--out", tmp_path / "one")
    assert code == 2 and "holds the run of one SAE" in err
    assert run(capsys, "sample", *options(tiny_settings), *two, "--out", tmp_path / "two")[0] == 0
    code, err = run(
        capsys, "sample", *options(tiny_settings), "--sae", tiny_settings["sae.path"], "--out", tmp_path / "two"
    )
    assert code == 2 and "holds the runs of several SAEs (tiny-sae-1, tiny-sae-2)" in err
    for command in (["sql", "SELECT 1"], ["probe", "--text", "cat"]):
        code, err = run(capsys, *command, "--out", tmp_path / "two")
        assert code == 2 and "holds several runs" in err and "tiny-sae-2" in err
    code, err = run(capsys, "probe", "--text", "cat", *two)
    assert code == 2 and "one SAE at a time" in err
    bad = ["--sae", tiny_settings["sae.path"], "--sae", "/nope"]
    assert run(capsys, "doctor", *options(tiny_settings), *bad, "--out", tmp_path / "x")[0] == 2


def test_changed_inputs_are_noticed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object]
) -> None:
    features = tmp_path / "features.txt"
    features.write_text("0-3\n")
    settings = options(tiny_settings, sample__features=str(features))
    assert run(capsys, "sample", *settings, "--out", tmp_path / "run")[0] == 0
    features.write_text("0-10\n")
    code, err = run(capsys, "sample", *settings, "--out", tmp_path / "run")
    assert code == 2 and "have changed since" in err


def test_sampling_settings_cannot_change_under_the_labels(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object]
) -> None:
    assert run(capsys, "run", *options(tiny_settings), "--out", tmp_path / "run")[0] == 0
    before = (tmp_path / "run" / "config.json").read_text()
    for command in ("explain", "score"):
        code, err = run(capsys, command, "--seed", "5", "--out", tmp_path / "run")
        assert code == 2 and "seed was 0, now 5" in err
    code, err = run(capsys, "score", "--explainer", "token_activation", "--provider", "mock", "--label-model", "mock",
                    "--out", tmp_path / "run")  # fmt: skip
    assert code == 2 and "autointerp explain" in err
    assert (tmp_path / "run" / "config.json").read_text() == before


def test_keys_given_in_the_wrong_place_are_not_kept(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments in (["--api-key-env", "sk-PLANTED-123"], ["--base-url", "http://127.0.0.1:9/v1?key=sk-PLANTED-123"]):
        code, err = run(capsys, "run", *arguments, "--out", tmp_path / "run")
        assert code == 2 and "PLANTED" not in err and not (tmp_path / "run").exists()


def test_special_tokens_in_a_text_are_text(tmp_path: Path, tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    from autointerp.harvest.plan import PlanSettings, make_plan
    from autointerp.subject.documents import Document

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    settings = PlanSettings(window=16, max_tokens=None, pool=8, seed=0, part_windows=10)
    plan = make_plan([Document("a", "the <s> cat <s><s>")], tokenizer, tmp_path / "plan", settings, "x")
    assert tokenizer.bos_token_id not in plan.part(0).tokens.tolist()


def test_glob_characters_in_the_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, err = run(capsys, "run", "--out", tmp_path / "g[x]")
    assert code == 2 and "choose another" in err
