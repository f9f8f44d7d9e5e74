"""What a command leaves in the run's folder: its settings if it began, those of before if it failed at once; whose labels."""

import json
import shutil
from pathlib import Path

import pytest

from autointerp.llm.providers.mock import MockProvider
from tests.cli.test_bad_input import options, run
from tests.cli.test_run import catalog_rows

MODEL = ["--provider", "mock", "--label-model", "mock"]
SHOWN = "SELECT DISTINCT explainer FROM catalog WHERE explainer IS NOT NULL"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, tiny_settings: dict[str, object]) -> Path:
    """A run of a few features with lexicon labels, scored."""
    from click.testing import CliRunner

    from autointerp.cli import cli

    out = tmp_path_factory.mktemp("kept") / "run"
    result = CliRunner().invoke(cli, ["run", *options(tiny_settings, sample__features="0-8"), "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def out(labelled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(labelled, tmp_path / "run"))


def settings_in(out: Path) -> str:
    return (out / "config.json").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", "--explainer", "highlighted", "--provider", "openai", "--label-model", "gpt-5-mini"],
        ["explain", "--explainer", "highlighted", "--provider", "openai-batch", "--label-model", "gpt-5-mini"],
        ["explain", "--explainer", "output", *MODEL, "--set", "steering.enabled=true"],
        ["score", "--simulator", "oracle"],
        ["score", "--simulator", "logprob_free", "--label-model", "gpt-5-mini"],
        ["run", "--label-model", "gpt-5-mini", "--provider", "openai"],
        ["steer", "--features", "0-8,5000"],
    ],
)
def test_a_command_that_fails_at_once_leaves_the_settings_as_they_were(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, out: Path, arguments: list[str]
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    before = settings_in(out)
    code, err = run(capsys, *arguments, "--out", out)
    assert code == 2, err
    assert settings_in(out) == before


def test_settings_stay_where_work_was_done_before_the_failure(
    capsys: pytest.CaptureFixture[str], out: Path, tmp_path: Path
) -> None:
    asking = ["--explainer", "highlighted", "--provider", f"files:{tmp_path / 'desk'}", "--label-model", "m"]
    assert run(capsys, "explain", *asking, "--out", out)[0] == 75  # requests are written: it waits for their answers
    assert json.loads(settings_in(out))["explain"]["explainer"] == "highlighted"


def test_the_mock_that_a_folder_remembers_makes_no_labels_in_a_real_models_name(
    capsys: pytest.CaptureFixture[str], out: Path
) -> None:
    assert run(capsys, "explain", "--explainer", "highlighted", *MODEL, "--out", out)[0] == 0
    code, err = run(capsys, "explain", "--label-model", "gpt-5-mini", "--out", out)
    assert code == 2 and "'gpt-5-mini'" in err and "--provider openai" in err
    models = catalog_rows(out, "SELECT DISTINCT model FROM explanations WHERE explainer = 'highlighted'")
    assert models == [("mock",)]


def test_the_catalog_shows_scored_labels_until_others_are_scored(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    ranks = catalog_rows(out, "SELECT feature_id, rank, score FROM catalog ORDER BY ALL")
    run(capsys, "explain", "--explainer", "highlighted", *MODEL, "--out", out)
    assert catalog_rows(out, SHOWN) == [("lexicon",)]
    assert catalog_rows(out, "SELECT feature_id, rank, score FROM catalog ORDER BY ALL") == ranks
    run(capsys, "score", "--out", out)
    assert catalog_rows(out, SHOWN) == [("highlighted",)]
    run(capsys, "explain", "--explainer", "lexicon", "--out", out)
    assert catalog_rows(out, SHOWN) == [("highlighted",)]


def test_explain_says_whose_labels_are_there_and_which_show(out: Path) -> None:
    from click.testing import CliRunner

    from autointerp.cli import cli

    for explainer in ("highlighted", "token_activation"):
        result = CliRunner().invoke(cli, ["explain", "--explainer", explainer, *MODEL, "--out", str(out)])
        assert result.exit_code == 0
    told = result.stdout
    assert "lexicon: 8 labels, 0 failed\ntoken_activation: 8 labels, 0 failed\n" in told
    assert "labels of before, kept: highlighted (mock): 8" in told
    assert "the catalog shows the labels of lexicon until these are scored: autointerp score" in told
    assert "explain: explainer token_activation; provider mock, model mock" in result.stderr


def test_reasons_of_failures_are_grouped_and_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, out: Path
) -> None:
    from autointerp.llm.provider import CallFailed
    from autointerp.llm.types import FailureKind, Request

    n = 0

    async def fail(self: MockProvider, request: Request, payload: dict) -> object:
        nonlocal n
        n += 1
        text = (
            f'no token "t{n}" in 1{n} lines'
            if n <= 5
            else "the moon is full"
            if n <= 7
            else f"{'abcdef'[n - 8]} is odd"
        )
        raise CallFailed(FailureKind.REJECTED, text)

    monkeypatch.setattr(MockProvider, "send", fail)
    code, err = run(capsys, "explain", "--explainer", "highlighted", *MODEL, "--out", out)
    assert code == 0
    line = next(line for line in err.splitlines() if line.startswith("explanations of"))
    assert line.startswith('explanations of 8 features failed: for instance rejected: no token "t')
    assert '" in 1' in line and "(5); rejected: the moon is full (2); rejected: a is odd (1)" in line


def test_a_retry_without_failures_changes_no_settings(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    before = settings_in(out)
    assert run(capsys, "retry", "--explainer", "highlighted", *MODEL, "--out", out)[0] == 0
    assert settings_in(out) == before  # nothing had failed, so nothing began
