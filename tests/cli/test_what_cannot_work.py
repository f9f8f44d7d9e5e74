"""What cannot work is found out early and said once; what has failed for good is left alone until a setting changes."""

import json
import shutil
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from aiohttp import web

from autointerp.catalog.store import Catalog
from autointerp.config_reading import load_config
from autointerp.estimate import estimate
from autointerp.llm.providers.mock import MockProvider
from autointerp.run_folder import saved_config
from tests.cli.test_bad_input import options, run
from tests.cli.test_every_scorer import answer_body
from tests.cli.test_run import catalog_rows
from tests.llm.server import LlmServer, openai_reply

FEW = {"score.per_band": 2, "score.silent": 4, "score.control_features": 0, "score.resamples": 100}
MOCK = ["--provider", "mock", "--label-model", "mock"]
LEXICON = ["--explainer", "lexicon", "--simulator", "lexicon"]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, tiny_settings: dict[str, object]) -> Path:
    """Labels of the lexicon, and of the mock beside them."""
    from click.testing import CliRunner

    from autointerp.cli import cli

    out = tmp_path_factory.mktemp("cannot") / "run"
    settings = options(tiny_settings | FEW, sample__features="0-4", sample__per_band=12, sample__pool=60)
    for command in (["sample", *settings, "--out", str(out)],
                    ["explain", "--explainer", "highlighted", *MOCK, "--out", str(out)]):  # fmt: skip
        result = CliRunner().invoke(cli, command)
        assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def out(labelled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(labelled, tmp_path / "run"))


class Refusing(LlmServer):
    """Answers like the mock. A question with `refused` in its body is a wrong request; vectors are another server's affair."""

    refused = ""

    async def _chat_completion(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if self.refused and self.refused in body:
            self.bodies.append(body)
            error = {"message": f"{self.refused} is not supported", "type": "invalid_request_error"}
            return web.json_response({"error": error}, status=400)
        return await super()._chat_completion(request)

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        return web.json_response({"detail": "Not Found"}, status=404)


@pytest.fixture
def server(llm_server: LlmServer) -> Any:
    with Refusing() as server:
        server.write = answer_body
        yield server


def scoring(server: LlmServer, *scorers: str) -> list[str]:
    return [*LEXICON, "--provider", "http", "--base-url", server.openai_url, "--label-model", "m", "--set",
            f"score.scorers={json.dumps(scorers)}", "--concurrency", "4"]  # fmt: skip


def is_finished(out: Path) -> bool:
    with Catalog.open(out / "catalog.duckdb") as catalog:
        return bool(catalog.stage_fingerprint("score"))


def last(err: str) -> str:
    return err.strip().splitlines()[-1]


@pytest.mark.parametrize("says_so", [True, False])
def test_a_scorer_whose_server_gives_no_log_probabilities(
    capsys: pytest.CaptureFixture[str], out: Path, server: Refusing, says_so: bool
) -> None:
    """Whether it refuses the question or ignores what it asks for."""
    server.refused = "prompt_logprobs" if says_so else ""
    code, err = run(capsys, "score", *scoring(server, "simulation", "detection", "surprisal"), "--out", out)
    assert code == 2
    assert last(err).startswith(
        "autointerp: the provider 'http' (model m) gives no log-probabilities of given texts (prompt_logprobs), which scorer "
        "surprisal needs ("
    )
    assert "leave surprisal out of score.scorers" in last(err) and "run the same command" not in err
    assert sum("log-probabilities" in line for line in err.splitlines()) == 1
    asked = sum("prompt_logprobs" in body for body in server.bodies)
    assert 1 <= asked <= 4  # as many as were under way
    assert not catalog_rows(out, "SELECT 1 FROM scores WHERE scorer = 'surprisal'")
    assert not catalog_rows(out, "SELECT 1 FROM judgements WHERE scorer = 'surprisal'")

    before = len(server.bodies)
    code, err = run(capsys, "score", *scoring(server, "simulation", "detection"), "--out", out)
    assert code == 0, err
    assert not any("prompt_logprobs" in body for body in server.bodies[before:])
    hashes = [server.hash_of(body) for body in server.bodies if "prompt_logprobs" not in body]
    assert len(hashes) == len(set(hashes))  # what was answered before was kept
    assert is_finished(out)


def test_a_simulator_that_its_server_cannot_serve_names_others(
    capsys: pytest.CaptureFixture[str], out: Path, server: Refusing
) -> None:
    server.refused = "prompt_logprobs"
    chosen = [*scoring(server, "simulation"), "--simulator", "all_at_once"]
    code, err = run(capsys, "score", *chosen, "--out", out)
    assert code == 2 and "which simulator all_at_once needs" in last(err)
    assert "choose another simulator (--simulator logprob_free or one_at_a_time)" in last(err)
    assert not catalog_rows(out, "SELECT 1 FROM simulations WHERE simulator = 'all_at_once'")


def test_one_accident_is_no_refusal(capsys: pytest.CaptureFixture[str], out: Path, server: Refusing) -> None:
    from tests.llm import server as serve

    server.gives_prompt_logprobs = True
    server.script(serve.status(500, {"message": "prompt_logprobs is not supported"}))
    code, err = run(capsys, "score", *scoring(server, "simulation", "surprisal"), "--out", out)
    assert code == 0, err
    assert catalog_rows(out, "SELECT DISTINCT status FROM judgements WHERE scorer = 'surprisal'") == [("ok",)]


def test_a_server_without_vectors_is_told_on(capsys: pytest.CaptureFixture[str], out: Path, server: Refusing) -> None:
    chosen = [*scoring(server, "simulation", "embedding"), "--embedder", "e"]
    code, err = run(capsys, "score", *chosen, "--out", out)
    assert code == 2 and "(model e) makes no vectors (embeddings), which scorer embedding needs" in last(err)
    assert "--embedder" in last(err) and "leave embedding out of score.scorers" in last(err)
    assert len(server.bodies) <= 4 and not catalog_rows(out, "SELECT 1 FROM judgements")


def test_labels_that_the_simulator_cannot_read_are_refused_before_any_work(
    capsys: pytest.CaptureFixture[str], out: Path, tmp_path: Path
) -> None:
    before = (out / "config.json").read_text()
    code, err = run(capsys, "score", "--explainer", "highlighted", *MOCK, "--simulator", "lexicon", "--out", out)
    assert code == 2 and "the simulator lexicon cannot read the labels of highlighted" in last(err)
    assert "logprob_free" in last(err) and not catalog_rows(out, "SELECT 1 FROM scores")
    assert (out / "config.json").read_text() == before
    study = tmp_path / "study"
    chosen = ["--explainer", "highlighted", *MOCK, "--by", "logprob_free@mock", "--by", "lexicon", "--out", study]
    code, err = run(capsys, "eval", "reliability", out, *chosen)
    assert code == 2 and "the simulator lexicon cannot read the labels of highlighted" in last(err)
    assert not list(study.glob("journal/*"))  # no label was asked for


def test_labels_that_are_not_there_are_named_with_those_that_are(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    asked = ["--explainer", "dual", "--provider", "openai", "--label-model", "gpt-5-mini"]
    code, err = run(capsys, "score", *asked, "--out", out)
    n = catalog_rows(out, "SELECT count(*) FROM explanations WHERE explainer = 'lexicon'")[0][0]
    assert (
        code == 2
        and "no labels by the explainer dual (provider openai, model gpt-5-mini) with these settings" in last(err)
    )
    assert f"(there are: highlighted (model mock): {n}; lexicon: {n})" in last(err)
    assert f"autointerp explain --out {out} --explainer dual --provider openai --label-model gpt-5-mini" in last(err)


def failing(monkeypatch: pytest.MonkeyPatch, kind: str) -> list[int]:
    """The mock fails at about half of detection's questions in this way; returns a list with the number of questions."""
    from autointerp.llm import CallFailed, FailureKind, Reply

    send, asked = MockProvider.send, [0]

    async def sometimes(self: MockProvider, request: Any, payload: Any) -> Reply:
        asked[0] += 1
        if '"question":"active"' not in (text := request.messages[-1].content) or crc32(text.encode()) % 2:
            return await send(self, request, payload)
        if kind == "refused":
            return Reply("no", "refusal")
        raise CallFailed(FailureKind(kind), "HTTP 400: this text is too long")

    monkeypatch.setattr(MockProvider, "send", sometimes)
    return asked


@pytest.mark.parametrize(("kind", "helps"), [("rejected", False), ("refused", False), ("timeout", True)])
def test_what_no_rerun_mends_leaves_the_stage_finished(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, out: Path, kind: str, helps: bool
) -> None:
    chosen = ["score", *LEXICON, *MOCK, "--set", "score.scorers=simulation,detection", "--set", "score.texts_per_request=3",
              "--out", out]  # fmt: skip
    failed = "SELECT count(*) FROM judgements WHERE status = 'failed'"
    with monkeypatch.context() as patch:
        asked = failing(patch, kind)
        code, err = run(capsys, *chosen)
        assert code == 0 and f"failed: {kind}: " in err, err
        assert ("run the same command again" in err) is helps
        n_failed = catalog_rows(out, failed)[0][0]
        assert n_failed and is_finished(out) is not helps
        before = asked[0]
        assert run(capsys, *chosen)[0] == 0
        assert (asked[0] > before) is helps
    with Catalog.open(out / "catalog.duckdb") as catalog:  # what is estimated is what the same command does
        assert bool(estimate(load_config(None, {}, base=saved_config(out)), catalog, out).rows) is helps
    code, err = run(capsys, *chosen)
    assert code == 0 and (catalog_rows(out, failed)[0][0] == 0) is helps
    assert is_finished(out)
    if not helps:  # another setting is another key; and whoever says so gets other answers for this one
        code, err = run(capsys, *chosen, "--set", "score.texts_per_request=25")
        assert code == 0 and catalog_rows(
            out, f"{failed} AND score_key IN (SELECT score_key FROM scorings)"
        ) == [(0,)]  # fmt: skip
        assert run(capsys, *chosen, "--set", "score.texts_per_request=3")[0] == 0
        assert catalog_rows(out, failed) == [(n_failed,)]
        code, err = run(capsys, "retry", *chosen[1:], "--kind", kind)
        assert code == 0 and catalog_rows(out, failed) == [(0,)], err
        assert is_finished(out)


def test_a_question_that_waits_keeps_no_other_grade_back(
    capsys: pytest.CaptureFixture[str], out: Path, tmp_path: Path
) -> None:
    desk = tmp_path / "desk"
    chosen = ["score", *LEXICON, "--provider", f"files:{desk}", "--label-model", "m", "--set",
              'score.scorers=["simulation","detection","specificity"]', "--out", out]  # fmt: skip
    code, err = run(capsys, *chosen)
    assert code == 75, err
    scorers = "SELECT DISTINCT scorer FROM scores ORDER BY 1"
    assert catalog_rows(out, scorers) == [("simulation",)]  # it asks nobody
    requests = [json.loads(line) for line in (desk / "requests.jsonl").read_text().splitlines()]
    chat = [one for one in requests if '"question":"active"' in one["body"]["messages"][-1]["content"]]
    assert chat and len(chat) < len(requests)
    replies = [
        {"custom_id": one["custom_id"], "response": {"status_code": 200, "body": openai_reply(
            one["body"], answer_body(one["body"]), "stop")}}
        for one in chat
    ]  # fmt: skip
    (desk / "responses.jsonl").write_text("".join(json.dumps(reply) + "\n" for reply in replies))
    assert run(capsys, *chosen)[0] == 75
    assert catalog_rows(out, scorers) == [("detection",), ("simulation",)]
