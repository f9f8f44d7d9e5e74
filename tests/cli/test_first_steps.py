"""What a new user meets: help, lists in settings, comments in queries, messages that name the matter."""

import re
import shutil
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from autointerp.cli import cli
from autointerp.config_reading import load_config, parse_setting
from tests.cli.test_bad_input import options, run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_settings: dict[str, object]) -> Path:
    """A run of a few features."""
    out = tmp_path_factory.mktemp("steps") / "run"
    result = CliRunner().invoke(cli, ["run", *options(tiny_settings, sample__features="0-8"), "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out


def said(*arguments: object) -> str:
    """What a command prints on standard output."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("query", ["-- a comment\nSELECT 7", "--no space\nSELECT 7", "-- a = b\nSELECT 7"])
def test_a_query_may_begin_with_a_comment(finished: Path, query: str) -> None:
    for arguments in ((query, "--out", finished, "--format", "csv"), ("--out", finished, "--format", "csv", query)):
        assert said("sql", *arguments).split() == ["7", "7"]
    assert said("sql", "--out", finished, "--format", "csv", "--", query).split() == ["7", "7"]


def test_sql_still_knows_a_misspelt_option(capsys: pytest.CaptureFixture[str], finished: Path) -> None:
    code, err = run(capsys, "sql", "SELECT 7", "--frmat", "csv", "--out", finished)
    assert code == 2 and "No such option" in err


def test_the_query_that_a_run_proposes_is_one_that_can_be_read(finished: Path) -> None:
    line = next(line for line in said("run", "--out", finished).splitlines() if line.startswith("catalog: "))
    query = re.search(r'"(SELECT .*)"', line)
    assert query is not None
    table = said("sql", "--out", finished, query[1]).splitlines()
    assert table[0].split() == ["rank", "feature_id", "title", "score", "lo", "hi"] and len(table) > 5


def test_a_row_of_too_many_columns_is_shown_line_by_line(finished: Path) -> None:
    lines = said("sql", "SELECT * FROM catalog LIMIT 2", "--out", finished).splitlines()
    shown = [line.split()[0] for line in lines if line]
    assert shown[:3] == ["rank", "feature_id", "title"] and len(lines) == 2 * shown.index("rank", 1) + 1
    assert said("sql", "SELECT * FROM catalog WHERE false", "--out", finished) == "no rows\n"


def test_features_without_a_label_are_counted(finished: Path) -> None:
    [kinds] = [
        line for line in said("run", "--out", finished).splitlines() if line.startswith("features without a label")
    ]
    flags = said(
        "sql", "SELECT flag, count(*) FROM features WHERE flag IN ('dead', 'rare') GROUP BY 1", "--out", finished
    )
    assert all(f"{count} {flag}" in kinds for flag, count in map(str.split, flags.splitlines()[1:]))


def test_help_says_that_a_folder_remembers() -> None:
    with_folder = [
        command for command in cli.commands.values() if any(option.name == "config_file" for option in command.params)
    ]
    assert len(with_folder) == 12
    for command in with_folder:
        text = " ".join(command.get_help(click.Context(command)).split())
        assert "the defaults above are those of a new folder" in text, command.name


@pytest.mark.parametrize("text", ["simulation,detection", "simulation, detection", '["simulation", "detection"]'])
def test_a_setting_of_several_words_takes_commas(text: str) -> None:
    config = load_config(None, dict([parse_setting(f"score.scorers={text}")]))
    assert config.score.scorers == ("simulation", "detection")


def test_a_setting_of_several_words_takes_one_or_none() -> None:
    def chosen(field: str, text: str) -> object:
        section, name = field.split(".")
        return getattr(getattr(load_config(None, dict([parse_setting(f"{field}={text}")])), section), name)

    assert chosen("score.scorers", "simulation") == ("simulation",)
    assert chosen("explain.base_url", "http://a:1/v1,http://b:2/v1") == ("http://a:1/v1", "http://b:2/v1")
    assert chosen("score.base_url", "http://a:1/v1") == ("http://a:1/v1",)
    assert load_config(None, {"explain.base_url": None}).explain.base_url == ()


def test_steer_names_what_is_wrong_and_loses_nothing(capsys: pytest.CaptureFixture[str], finished: Path) -> None:
    assert run(capsys, "steer", "--features", "0-2", "--set", "steering.length=8", "--out", finished)[0] == 0
    rows = said("sql", "SELECT count(*) FROM steered_tokens", "--out", finished, "--format", "csv")
    cases = {
        "5000": "feature 5000 is out of range; the SAE has features 0 to 23",
        "7-12": "4 of these features were not sampled in this run, feature 9 for one; choose among its 9, 0 to 8",
        "3": "none of these fires in the sampled text",
    }
    for features, words in cases.items():
        code, err = run(capsys, "steer", "--features", features, "--kl", "0.5", "--out", finished)
        assert code == 2 and words in err
    assert said("sql", "SELECT count(*) FROM steered_tokens", "--out", finished, "--format", "csv") == rows


@pytest.mark.parametrize("command", [["steer"], ["negatives", "--per-kind", "2"], ["explain"], ["score"]])
def test_a_stage_on_a_folder_without_a_run_says_what_comes_first(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: list[str]
) -> None:
    code, err = run(capsys, *command, "--out", tmp_path / "none")
    assert code == 2 and "nothing sampled here yet; run first: autointerp sample --out" in err
    assert not (tmp_path / "none").exists()


def test_a_corpus_of_few_documents_is_named_as_the_cause(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object]
) -> None:
    out = tmp_path / "run"
    few = options(tiny_settings, sample__features="0-8", corpus__max_tokens=100)
    assert run(capsys, "sample", *few, "--out", out)[0] == 0
    documents = said("sql", "SELECT count(*) FROM documents", "--out", out, "--format", "csv").split()[1]
    code, err = run(capsys, "score", "--out", out)
    assert code == 2 and int(documents) < 20
    assert f"fewer than 20 documents: the part of the corpus that was sampled has {documents}" in err


def test_probe_prints_no_empty_table(finished: Path) -> None:
    told = said("probe", "--text", "cat", "--feature", "3", "--out", finished)  # it is dead
    assert "no feature fires on" in told and "maximum" not in told


def test_who_waits_for_answers_is_told_so_by_the_exit_code_and_of_the_price_once(
    capsys: pytest.CaptureFixture[str], finished: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    asking = ["--explainer", "highlighted", "--provider", f"files:{tmp_path / 'desk'}", "--label-model", "m"]
    for round_ in (1, 2):
        code, err = run(capsys, "explain", *asking, "--out", out)
        assert code == 75 and "requests wait in" in err
        assert err.count("the price of") == (round_ == 1)


@pytest.mark.parametrize(
    ("asking", "words", "left_out"),
    [
        ([], "none is needed: explainer lexicon and its scores ask no model", "OPENAI"),
        (["--provider", "anthropic", "--label-model", "c"], "problem  keys: the environment variable ANTHROPIC", "OPENAI"),
        (["--provider", "mock", "--label-model", "mock"], "explainer highlighted asks mock, model mock: needs no key", "API_KEY"),
        (["--simulator", "logprob_free", "--label-model", "m", "--explainer", "lexicon", "--provider", "openai"],
         "scorer simulation asks openai, model m: key in OPENAI_API_KEY", "ANTHROPIC"),
    ],
)  # fmt: skip
def test_doctor_speaks_of_the_keys_that_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, finished: Path, asking: list[str], words: str, left_out: str
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    result = CliRunner().invoke(cli, ["doctor", *asking, "--out", str(finished)])
    lines = [line for line in result.stdout.splitlines() if " keys: " in line]
    assert any(words in line for line in lines), result.output
    assert not any(left_out in line for line in lines)


def test_estimate_shows_what_a_batch_would_cost_where_none_is_asked(finished: Path, tmp_path: Path) -> None:
    told = {
        provider: said(
            "estimate", "--label-model", "gpt-5-mini", "--provider", provider, "--sample", "3", "--out", finished
        )
        for provider in ("openai", "openai-batch")
    }
    assert "as a batch" in told["openai"] and "as a batch" not in told["openai-batch"]
    [prompts] = [line for line in told["openai"].splitlines() if line.startswith("- from the prompts of")]
    assert prompts.count("(score)") == prompts.count("(explain)") == 1
