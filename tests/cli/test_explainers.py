"""Every explainer that asks a model, from the command line on the tiny run: the mock, files, a server, a real API where a key is.

A further one joins by being registered.
"""

import json
import os
import shutil
from pathlib import Path

import pytest

from autointerp.explain import explainers
from autointerp.explain.answers import SCHEMA
from autointerp.explain.contrastive import NEGATIVES
from autointerp.explain.single_token import SingleToken
from autointerp.hashing import stable_hash
from autointerp.llm.providers import mock
from autointerp.llm.types import Request
from tests.cli.test_bad_input import options, run
from tests.cli.test_run import catalog_rows
from tests.llm.server import LlmServer, openai_reply

MODEL = ["--provider", "mock", "--label-model", "mock"]
ASKING = [name for name in explainers.names() if explainers.get(name).needs_model]
FEW = ["--set", "explain.candidates=2", "--set", "explain.steps=1", "--set", "explain.investigate_steps=2"]
# Reasons that are no fault: the tiny SAE is random, and some of its features fire in every window.
UNSUITABLE = ("no_evidence: its strongest token", "no_evidence: the explain split has no hard negative")
LIVE = "AUTOINTERP_LIVE_MODEL"


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory, tiny_settings: dict[str, object]) -> Path:
    from click.testing import CliRunner

    from autointerp.cli import cli

    out = tmp_path_factory.mktemp("explainers") / "run"
    settings = options(tiny_settings, sample__features="0-6", negatives__per_kind=6)
    for command in (["sample", *settings, "--out", str(out)], ["negatives", "--out", str(out)]):
        result = CliRunner().invoke(cli, command)
        assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def out(sampled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sampled, tmp_path / "run"))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """The requests that reach the mock provider."""
    requests: list[Request] = []
    send = mock.MockProvider.send

    async def spy(self: mock.MockProvider, request: Request, payload: dict) -> object:
        requests.append(request)
        return await send(self, request, payload)

    monkeypatch.setattr(mock.MockProvider, "send", spy)
    return requests


@pytest.mark.parametrize("name", ["max_act_logits", "contrastive", "single_token"])
def test_whole_runs_from_the_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, out: Path, sent: list[Request], name: str
) -> None:
    if name == "single_token":  # the tiny SAE is random: hardly a token carries a fifth of a feature
        explainers.get(name)
        monkeypatch.setitem(explainers._parts, name, SingleToken(least_share=0.12))
    settings = ["--set", "score.control_features=0", "--explainer", name, *MODEL, "--out", out]
    code, err = run(capsys, "run", *settings)
    assert code == 0, err
    rows = catalog_rows(
        out, f"SELECT status, reason, title, selection, template_hash FROM explanations WHERE explainer = '{name}'"
    )
    labels = [row for row in rows if row[0] == "ok"]
    failures = [row[1] for row in rows if row[0] == "failed"]
    assert len(rows) >= 5 and all("mock" in row[2] for row in labels)
    assert {row[4] for row in labels} <= {explainers.get(name).template_hash}
    # Some of its features fire in every window.
    allowed = {"single_token": "its strongest token, ", "contrastive": "the explain split has no hard negative"}
    assert all(name in allowed and reason.startswith(f"no_evidence: {allowed[name]}") for reason in failures)
    assert labels and (name == "single_token" or len(labels) > len(failures))
    # The estimate and the run ask the same.
    assert len({request.messages for request in sent if request.purpose == "explain"}) == len(labels)
    query = (
        "SELECT count(DISTINCT explanation_id) FROM scores JOIN explanations USING (explanation_id) WHERE explainer = "
    )
    assert catalog_rows(out, f"{query} '{name}'") == [(len(labels),)] and (out / "report.html").exists()
    evidence = catalog_rows(out, "SELECT DISTINCT w.split FROM explanation_evidence e JOIN windows w USING (window_id)")
    assert evidence == [("explain",)]
    for row in labels:  # what is recorded is what was shown, not what the configuration says
        selection = json.loads(row[3])
        assert selection["negatives"] == (NEGATIVES if name == "contrastive" else 0)
        assert selection["window"] == (24 if name == "max_act_logits" else 32)
    # A second time nothing is asked.
    sent.clear()
    assert run(capsys, "run", *settings)[0] == 0
    assert sent == []


def test_single_token_makes_no_claim_about_the_tiny_features(
    capsys: pytest.CaptureFixture[str], out: Path, sent: list[Request]
) -> None:
    code, err = run(capsys, "explain", "--explainer", "single_token", *MODEL, "--out", out)
    assert code == 0 and sent == [] and "this is no feature of a single token" in err
    rows = catalog_rows(out, "SELECT status, reason FROM explanations WHERE explainer = 'single_token'")
    assert {status for status, _ in rows} == {"failed"}
    assert all(reason.startswith("no_evidence: its strongest token, ") and "below 90%" in reason for _, reason in rows)


def test_a_run_that_looked_for_no_hard_negatives_says_so_where_they_are_wanted(
    capsys: pytest.CaptureFixture[str], out: Path
) -> None:
    said = "no hard negatives were looked for; random silent texts stand in, and tell less. To find some: autointerp negatives"
    assert said not in run(capsys, "explain", "--explainer", "contrastive", *MODEL, "--out", out)[1]
    none = ["--set", "negatives.per_kind=0"]
    assert said not in run(capsys, "explain", "--explainer", "highlighted", *MODEL, *none, "--out", out)[1]
    err = run(capsys, "explain", "--explainer", "contrastive", *MODEL, *none, "--out", out)[1]
    assert err.count(said) == 1


def test_labels_with_hard_negatives_without_and_with_others_are_other_labels(
    capsys: pytest.CaptureFixture[str], out: Path, sent: list[Request]
) -> None:
    command = ["explain", "--explainer", "contrastive", *MODEL, "--out", out]
    assert run(capsys, *command, "--set", "negatives.per_kind=0")[0] == 0
    assert sent and not any('"why":"near"' in one.messages[1].content for one in sent)  # though the catalog has some
    assert run(capsys, *command, "--set", "negatives.per_kind=6")[0] == 0
    assert any('"why":"near"' in one.messages[1].content for one in sent)
    keys = catalog_rows(out, "SELECT DISTINCT explainer_key FROM explanations WHERE explainer = 'contrastive'")
    assert len(keys) == 2
    code, err = run(capsys, *command, "--set", "negatives.tries=3")
    assert (
        code == 2 and "hard negatives were not looked for with these settings; run first: autointerp negatives" in err
    )


def test_contrastive_is_given_hard_negatives_though_none_are_configured(
    capsys: pytest.CaptureFixture[str], out: Path, sent: list[Request]
) -> None:
    assert run(capsys, "explain", "--explainer", "contrastive", *MODEL, "--out", out)[0] == 0
    prompts = [request.messages[1].content for request in sent]
    assert any('"why":"near"' in prompt for prompt in prompts) and any('"why":"token"' in prompt for prompt in prompts)
    sent.clear()
    assert run(capsys, "explain", "--explainer", "highlighted", *MODEL, "--out", out)[0] == 0
    assert sent and not any('"why"' in request.messages[1].content for request in sent)


def test_refine_through_files_takes_as_many_rounds_as_it_has_questions_in_a_row(
    capsys: pytest.CaptureFixture[str], out: Path, tmp_path: Path
) -> None:
    """Its coroutine is dropped at every question and begins again from the journal."""
    desk, rounds, replies = tmp_path / "desk", 0, []
    settings = ["--set", "explain.steps=2", "--set", "explain.patience=2", "--set", "sample.features=0-6"]
    command = ["explain", "--explainer", "refine", *settings, "--label-model", "m", "--out", out]
    while (code := run(capsys, *command, "--provider", f"files:{desk}")[0]) and rounds < 20:
        rounds += 1
        for line in map(json.loads, (desk / "requests.jsonl").read_text().splitlines()):
            body = openai_reply(line["body"], varied_answer(line["body"]), "stop")
            replies.append(
                {"custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}
            )
        (desk / "responses.jsonl").write_text("".join(json.dumps(reply) + "\n" for reply in replies))
    assert code == 0
    # The first label and its comparison, then for each step the search for errors, the label, the comparison.
    assert rounds == 2 + 2 * 3
    keys = [reply["custom_id"] for reply in replies]
    assert len(keys) == len(set(keys))  # nothing was asked twice
    query = (
        "SELECT feature_id, number, parent, c.title, score, chosen FROM candidates c JOIN explanations USING (explanation_id) "
        "WHERE explainer = 'refine' ORDER BY ALL"
    )
    rows = catalog_rows(out, query)
    assert {number for _, number, *_ in rows} == {1, 2, 3} and any(parent == 2 for _, _, parent, *_ in rows)
    again = run(capsys, *command, "--provider", f"files:{desk}")
    assert again[0] == 0 and catalog_rows(out, query) == rows


def varied_answer(body: dict) -> str:
    """An aligned simulation, else a label by the question."""
    question = body["messages"][-1]["content"]
    schema = body["response_format"]["json_schema"]["schema"]
    return mock.mock_simulation(question) or mock.default_answer(schema, stable_hash(question))


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


@pytest.mark.parametrize("name", [name for name in ASKING if name != "refine"])  # that has a test of its own
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
