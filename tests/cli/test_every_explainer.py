"""Every explainer that asks a model, from the command line: through files, from a server, and from a real API where a key is."""

import json
import os
import shutil
from pathlib import Path

import pytest

from autointerp.explain import explainers
from autointerp.explain.answers import SCHEMA
from autointerp.llm.providers import mock
from tests.cli.test_bad_input import options, run
from tests.cli.test_explainers import varied_answer
from tests.cli.test_run import catalog_rows
from tests.llm.server import LlmServer, openai_reply

ASKING = [name for name in explainers.names() if explainers.get(name).needs_model]
FEW = ["--set", "explain.candidates=2", "--set", "explain.steps=1", "--set", "explain.investigate_steps=2"]
# Reasons that are no fault: the tiny SAE is random, and some of its features fire in every window.
UNSUITABLE = ("no_evidence: its strongest token", "no_evidence: the explain split has no hard negative")
LIVE = "AUTOINTERP_LIVE_MODEL"


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory, tiny_settings: dict[str, object]) -> Path:
    from click.testing import CliRunner

    from autointerp.cli import cli

    out = tmp_path_factory.mktemp("every") / "run"
    settings = options(tiny_settings, sample__features="0-4", negatives__per_kind=6)
    for command in (["sample", *settings, "--out", str(out)], ["negatives", "--out", str(out)]):
        result = CliRunner().invoke(cli, command)
        assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def out(sampled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sampled, tmp_path / "run"))


def labels(out: Path, name: str) -> list[tuple[str, str]]:
    """Status and title of each label, those that are unsuitable left out; a real failure fails the test."""
    rows = catalog_rows(
        out, f"SELECT status, title, reason FROM explanations WHERE explainer = '{name}' ORDER BY feature_id"
    )
    failures = [reason for status, _, reason in rows if status == "failed"]
    assert all(reason.startswith(UNSUITABLE) for reason in failures), failures
    return [(status, title) for status, title, _ in rows if status == "ok"]


def answer(body: dict) -> str:
    """One with tools and without a schema: a label at once, without a call."""
    if "response_format" in body:
        return varied_answer(body)
    return mock.default_answer(SCHEMA, 1)


@pytest.mark.parametrize("name", ASKING)
def test_through_files(capsys: pytest.CaptureFixture[str], out: Path, tmp_path: Path, name: str) -> None:
    desk, replies, rounds = tmp_path / "desk", [], 0
    command = ["explain", "--explainer", name, *FEW, "--provider", f"files:{desk}", "--label-model", "m", "--out", out]
    while (code := run(capsys, *command)[0]) == 75 and rounds < 15:
        rounds += 1
        for line in map(json.loads, (desk / "requests.jsonl").read_text().splitlines()):
            body = openai_reply(line["body"], answer(line["body"]), "stop")
            replies.append({"custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}})
        (desk / "responses.jsonl").write_text("".join(json.dumps(reply) + "\n" for reply in replies))
    assert code == 0
    assert labels(out, name) or name == "single_token"
    assert len({reply["custom_id"] for reply in replies}) == len(replies)  # nothing is asked twice


@pytest.mark.parametrize("name", ASKING)
def test_from_a_server(capsys: pytest.CaptureFixture[str], out: Path, name: str) -> None:
    with LlmServer() as server:
        server.write = answer
        code, err = run(
            capsys, "explain", "--explainer", name, *FEW, "--provider", "http", "--base-url", server.openai_url,
            "--label-model", "m", "--out", out,
        )  # fmt: skip
        assert code == 0, err
        assert labels(out, name) or name == "single_token"
        if name != "best_of_k":  # that asks the same question for every candidate
            assert all(count == 1 for count in server.requests.values())


@pytest.mark.skipif(
    not (os.environ.get(LIVE) and os.environ.get("OPENAI_API_KEY")),
    reason=f"asks a real API, for a few cents: set OPENAI_API_KEY and {LIVE}, such as {LIVE}=gpt-5-nano",
)
@pytest.mark.parametrize("name", ASKING)
def test_from_a_real_api(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    """On four features of the demo, scored."""
    out = tmp_path / "demo"
    sample = ["--features", "81,145,300,700", "--max-tokens", "200000", "--out", out]
    assert run(capsys, "sample", *sample)[0] == 0
    code, err = run(
        capsys, "run", "--explainer", name, *FEW, "--label-model", os.environ[LIVE], "--budget", "0.50", "--out", out
    )
    assert code == 0, err
    assert labels(out, name) or name in ("single_token", "contrastive")
