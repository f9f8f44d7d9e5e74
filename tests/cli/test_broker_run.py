"""Whole runs through the broker: killed, interrupted, over budget, by files, retried, derived anew; and no key anywhere."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autointerp import progress as terminal_progress
from autointerp.explain import asking
from autointerp.explain.answers import LabelAnswer
from autointerp.explain.token_activation import TokenActivation
from autointerp.llm import FailureKind, Journal, RequestFailed, rounds
from tests.cli.test_bad_input import options, run
from tests.cli.test_run import catalog_rows, table_digests_of, write_answer
from tests.llm import server as serve
from tests.llm.server import LlmServer

KILLS = int(os.environ.get("AUTOINTERP_KILLS", "8"))  # 50 takes two minutes
LABELLED = 8  # of the first nine features one is dead


@pytest.fixture
def server(llm_server: LlmServer) -> LlmServer:
    llm_server.write = write_answer
    return llm_server


@pytest.fixture
def sampled(capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object]) -> Path:
    """A folder in which everything up to the samples is there."""
    out = tmp_path / "run"
    code, err = run(capsys, "sample", *settings(tiny_settings), "--out", out)
    assert code == 0, err
    return out


def settings(tiny_settings: dict[str, object]) -> list[str]:
    return options(tiny_settings, sample__features="0-8", score__control_features=2)


def model(server: LlmServer, provider: str = "http") -> list[str]:
    return ["--explainer", "token_activation", "--provider", provider, "--label-model", "m", "--base-url", server.openai_url,
            "--concurrency", "2"]  # fmt: skip


def command(out: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "autointerp", "run", *arguments, "--out", str(out)]


def keys(out: Path) -> list[str]:
    with Journal(out / "journal", read_only=True) as journal:
        return [entry.key for entry in journal.entries()]


def test_killed_again_and_again_the_catalog_is_the_same(sampled: Path, tmp_path: Path, server: LlmServer) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    shutil.copytree(sampled, whole)
    shutil.copytree(sampled, killed)
    server.delay = 0.1
    subprocess.run(command(whole, *model(server)), check=True, capture_output=True)
    asked = len(server.bodies)
    server.forget()
    draw, kills = random.Random(1), 0
    while kills < KILLS:
        process = subprocess.Popen(
            command(killed, *model(server)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        before, target, deadline = len(server.bodies), draw.randint(0, max(1, asked // KILLS)), time.monotonic() + 60
        while process.poll() is None and len(server.bodies) - before < target and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.15))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        if process.wait() == 0:  # it was done before it could be killed: from the answers again
            for name in ("catalog.duckdb", "report.html", "report.stamp"):
                shutil.copy(sampled / name, killed / name) if name == "catalog.duckdb" else (killed / name).unlink()
            server.delay = 0.0
        kills += 1
    subprocess.run(command(killed, *model(server)), check=True, capture_output=True)
    assert table_digests_of(whole) == table_digests_of(killed)
    found = keys(killed)
    assert len(found) == len(set(found)) == asked
    # Every delivered answer was used, but for those in flight at a kill: at most two each.
    assert len(server.bodies) <= asked + 2 * kills


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_a_signal_what_is_in_flight_is_kept(
    sampled: Path, server: LlmServer, number: signal.Signals
) -> None:
    server.delay = 0.4
    process = subprocess.Popen(command(sampled, *model(server)), stderr=subprocess.PIPE, text=True)
    while len(server.bodies) < 5:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert re.search("waiting for [012] answers? under way", err)  # between two replies there can be fewer than two
    assert "run the same command again" in err and "Traceback" not in err
    delivered = server.delivered.total()
    assert len(server.bodies) == delivered == len(keys(sampled))
    assert catalog_rows(sampled, "SELECT count(*) FROM explanations WHERE explainer = 'token_activation'")[0][0] >= 3
    server.delay = 0.0
    subprocess.run(command(sampled, *model(server)), check=True, capture_output=True)
    assert len(server.bodies) == len(keys(sampled)) == len(set(keys(sampled)))  # nothing was asked twice


def test_a_second_signal_does_not_wait(sampled: Path, server: LlmServer) -> None:
    server.usual = serve.hang()
    process = subprocess.Popen(command(sampled, *model(server)), stderr=subprocess.PIPE, text=True)
    while len(server.bodies) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in err, err


def test_two_processes_on_one_folder(sampled: Path, server: LlmServer) -> None:
    server.delay = 0.5
    first = subprocess.Popen(command(sampled, *model(server)), stderr=subprocess.DEVNULL)
    while not server.bodies:
        assert first.poll() is None
        time.sleep(0.01)
    second = subprocess.run(command(sampled, *model(server)), capture_output=True, text=True)
    first.kill()
    first.wait()
    assert second.returncode == 2 and f"process {first.pid}" in second.stderr and "in use" in second.stderr


def test_a_budget_stops_before_it_is_passed_and_more_money_goes_on(
    capsys: pytest.CaptureFixture[str], sampled: Path, tmp_path: Path, server: LlmServer
) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text('[[price]]\nmodel = "m"\ninput = 1.0\noutput = 1.0\n')
    code, err = run(capsys, "explain", *model(server), "--out", sampled, "--budget", "0.05")
    assert code == 2 and "--budget needs the price of the model 'm'" in err and not server.bodies
    code, err = run(capsys, "explain", *model(server), "--out", sampled, "--budget", "0.03", "--prices", prices)
    assert code == 2 and "the budget of $0.030 is used up" in err and "--budget" in err
    with Journal(sampled / "journal", read_only=True) as journal:
        spent, asked = journal.money, len(server.bodies)
    assert 0 < spent <= 0.03 and 0 < asked < LABELLED
    failed = catalog_rows(sampled, "SELECT reason FROM explanations WHERE status = 'failed'")
    assert failed and all(reason.startswith("over_budget: ") for (reason,) in failed)
    code, err = run(capsys, "explain", "--out", sampled, "--budget", "5")
    assert code == 0, err
    assert len(server.bodies) == LABELLED and len(keys(sampled)) == LABELLED
    code, err = run(capsys, "score", "--out", sampled)
    money = catalog_rows(sampled, "SELECT sum(money) FROM spend")[0][0]
    with Journal(sampled / "journal", read_only=True) as journal:
        assert code == 0 and money == pytest.approx(journal.money) and money > spent


def test_by_files_in_rounds(capsys: pytest.CaptureFixture[str], sampled: Path, tmp_path: Path) -> None:
    exchange = tmp_path / "exchange"
    arguments = [
        "run",
        "--explainer",
        "token_activation",
        "--provider",
        f"files:{exchange}",
        "--label-model",
        "m",
        "--out",
        sampled,
    ]
    rounds = 0
    while True:
        code, err = run(capsys, *arguments)
        if code == 0:
            break
        rounds += 1
        assert code == 75 and "responses.jsonl" in err and rounds < 10, err
        requests = [json.loads(line) for line in (exchange / "requests.jsonl").read_text().splitlines()]
        answered = requests if rounds != 1 else requests[:4]  # the first time only a part
        replies = [
            {"custom_id": r["custom_id"],
             "response": {"status_code": 200, "body": serve.openai_reply(r["body"], write_answer(r["body"]), "stop")}}
            for r in answered
        ]  # fmt: skip
        (exchange / "responses.jsonl").write_text("".join(json.dumps(reply) + "\n" for reply in reversed(replies)))
    assert 3 <= rounds <= 5
    assert catalog_rows(
        sampled, "SELECT count(*) FROM explanations WHERE explainer = 'token_activation' AND status = 'ok'"
    ) == [(LABELLED,)]
    assert len(keys(sampled)) == len(set(keys(sampled)))


def test_retry_brings_fresh_answers_and_keeps_the_usable_ones(
    capsys: pytest.CaptureFixture[str], sampled: Path, server: LlmServer
) -> None:
    server.script(*[serve.answer("no JSON")] * (2 * LABELLED))
    run(capsys, "explain", *model(server), "--out", sampled)
    assert len(server.bodies) == 2 * LABELLED  # each was asked for once more, and malformed again
    code, _ = run(capsys, "explain", "--out", sampled)
    assert len(server.bodies) == 2 * LABELLED  # the journal has the answers, useless as they are
    code, err = run(capsys, "retry", "--out", sampled, "--kind", "timeout")
    assert code == 0 and len(server.bodies) == 2 * LABELLED, err
    code, err = run(capsys, "retry", "--out", sampled)
    assert code == 0, err
    assert catalog_rows(sampled, "SELECT DISTINCT status FROM explanations WHERE explainer = 'token_activation'") == [
        ("ok",)
    ]
    scored = catalog_rows(sampled, "SELECT count(*) FROM scores WHERE metric = 'r_balanced' AND control = ''")
    assert scored == [(LABELLED,)]
    asked = len(server.bodies)
    assert asked == len(set(keys(sampled)))
    digests = table_digests_of(sampled)
    code, err = run(capsys, "rederive", "--out", sampled)  # finds the second draws, too
    assert code == 0 and len(server.bodies) == asked, err
    assert table_digests_of(sampled) == digests


def test_retry_leaves_alone_what_was_never_tried(
    capsys: pytest.CaptureFixture[str], sampled: Path, server: LlmServer
) -> None:
    assert run(capsys, "explain", *model(server), "--out", sampled, "--features", "0-4")[0] == 0
    chosen = ["--set", "score.scorers=simulation", "--set", "score.control_features=0", "--features", "0,1"]
    server.write = lambda body: "I'd rather not."
    run(capsys, "score", "--out", sampled, *chosen)
    graded = "SELECT DISTINCT feature_id FROM simulations JOIN scorings USING (score_key) WHERE status = 'ok'"
    assert not catalog_rows(sampled, graded)
    server.write = write_answer
    with_lexicon = "SELECT count(*) FROM explanations WHERE explainer = 'lexicon'"
    before = catalog_rows(sampled, with_lexicon)
    assert run(capsys, "retry", "--out", sampled)[0] == 0
    assert catalog_rows(sampled, graded + " ORDER BY 1") == [(0,), (1,)]
    assert run(capsys, "score", "--out", sampled)[0] == 0
    assert [feature for (feature,) in catalog_rows(sampled, graded)] != [0, 1]
    assert catalog_rows(sampled, with_lexicon) == before  # of features without a label none is needed


def test_what_detection_failed_at_is_tried_again(
    capsys: pytest.CaptureFixture[str], sampled: Path, server: LlmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_verdicts(body: dict) -> str:
        return "I'd rather not." if '"question":"active"' in body["messages"][-1]["content"] else write_answer(body)

    server.write = without_verdicts
    code, err = run(capsys, "run", *model(server), "--out", sampled)
    assert code == 0 and "judgements of 8 features failed: malformed" in err, err
    assert catalog_rows(sampled, "SELECT DISTINCT status, answer IS NULL FROM judgements") == [("failed", True)]
    assert catalog_rows(sampled, "SELECT DISTINCT status FROM simulations") == [("ok",)]
    failed = catalog_rows(sampled, "SELECT DISTINCT status FROM scores WHERE metric = 'balanced_accuracy'")
    assert failed == [("failed",)]
    simulated = catalog_rows(sampled, "SELECT * FROM scores WHERE scorer = 'simulation' ORDER BY ALL")
    server.write = write_answer
    before = len(server.bodies)
    code, err = run(capsys, "retry", "--out", sampled, "--kind", "malformed")
    assert code == 0, err
    assert catalog_rows(sampled, "SELECT DISTINCT status, answer IS NULL FROM judgements") == [("ok", False)]
    assert catalog_rows(sampled, "SELECT * FROM scores WHERE scorer = 'simulation' ORDER BY ALL") == simulated
    # What simulates was usable. The shuffled labels are the same here, the generic one of two features is another.
    assert len(server.bodies) - before == LABELLED + 2
    asked = len(server.bodies)
    assert run(capsys, "score", "--out", sampled)[0] == 0 and len(server.bodies) == asked
    code, err = run(capsys, "score", "--out", sampled, "--set", "score.scorers=['simulation']")
    assert code == 0 and len(server.bodies) == asked, err
    assert catalog_rows(sampled, "SELECT scorer FROM scorings") == [("simulation",)]
    assert catalog_rows(sampled, "SELECT count(balanced_accuracy), count(score) > 0 FROM catalog") == [(0, True)]
    # What a scorer found stays when another one comes or goes.
    assert run(capsys, "score", "--out", sampled, "--set", "score.scorers=['detection', 'simulation']")[0] == 0
    assert len(server.bodies) == asked
    assert catalog_rows(sampled, "SELECT count(balanced_accuracy) > 0 FROM catalog") == [(True,)]
    assert catalog_rows(sampled, "SELECT * FROM scores WHERE scorer = 'simulation' ORDER BY ALL") == simulated
    # Where only the statistics are others, all is graded anew from the answers that are there, second draws included.
    columns = "scorer, feature_id, control, metric, value, lo, hi, n_ok, n_failed FROM scores"
    scored = catalog_rows(sampled, f"SELECT DISTINCT {columns} ORDER BY ALL")
    monkeypatch.setattr("autointerp.score.keys.STATISTICS_VERSION", "another")
    assert run(capsys, "score", "--out", sampled)[0] == 0 and len(server.bodies) == asked
    current = f"SELECT {columns} WHERE score_key IN (SELECT score_key FROM scorings) ORDER BY ALL"
    assert catalog_rows(sampled, current) == scored


def test_rederive_after_a_parser_was_mended(
    capsys: pytest.CaptureFixture[str], sampled: Path, server: LlmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(answer: object, kind: object) -> None:
        raise RequestFailed(FailureKind.MALFORMED, "a fault of the parser")

    with monkeypatch.context() as patch:
        patch.setattr(asking, "parse_answer", broken)
        run(capsys, "explain", *model(server), "--out", sampled)
    assert catalog_rows(sampled, "SELECT count(*) FROM explanations WHERE status = 'failed'") == [(LABELLED,)]
    asked = len(server.bodies)
    monkeypatch.delenv("OPENAI_API_KEY")
    code, err = run(capsys, "rederive", "--out", sampled)
    assert len(server.bodies) == asked and "asks" not in err
    assert catalog_rows(sampled, "SELECT count(*) FROM explanations WHERE status = 'ok' AND model = 'm'") == [
        (LABELLED,)
    ]
    code, err = run(capsys, "score", "--out", sampled)
    assert code == 0, err
    old = catalog_rows(sampled, "SELECT max(value) FROM scores WHERE metric = 'r_balanced'")

    def other(answer: object, kind: object) -> object:
        return LabelAnswer(title="another", description="another label", kind="token")

    monkeypatch.setattr(asking, "parse_answer", other)
    code, err = run(capsys, "rederive", "--out", sampled)
    assert code == 2 and "no feature has a defined score" in err  # scores of labels that have changed are gone
    left = "SELECT DISTINCT control FROM scores WHERE metric = 'r_balanced'"
    assert old and catalog_rows(sampled, left) == [("generic",)]  # that label is nobody's


def test_rederive_needs_something_that_a_model_answered(capsys: pytest.CaptureFixture[str], sampled: Path) -> None:
    code, err = run(capsys, "rederive", "--out", sampled)
    assert code == 2 and "nothing to rederive" in err


def test_no_key_in_any_byte_that_a_run_writes(
    sampled: Path, tmp_path: Path, server: LlmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "planted-5d1a7c3390be4f26"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    echo = {"message": f"you sent Bearer {key}"}
    server.script(serve.status(500, echo), serve.status(429, echo), serve.reset(), serve.malformed())
    told = []
    for provider, extra in (("openai", []), ("http", []), ("openai", ["--label-model", "other"])):
        if extra:
            server.usual = serve.status(401, echo)
        done = subprocess.run(command(sampled, *model(server, provider), *extra), capture_output=True)
        told += [done.stdout, done.stderr]
    assert done.returncode == 2 and b"refused the key" in done.stderr
    assert all(key in sent for sent in server.keys)
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10 and not any(key.encode() in text for text in [*told, *written])


def test_what_the_provider_lacks_is_said_before_the_harvest(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    tiny_settings: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TokenActivation, "needs", ("exact_logprobs",))
    code, err = run(capsys, "run", *settings(tiny_settings), "--explainer", "token_activation", "--provider", "mock",
                    "--label-model", "mock", "--out", tmp_path / "run")  # fmt: skip
    assert (
        code == 2 and "needs exact_logprobs, which the provider 'mock' does not offer" in err and "harvest" not in err
    )


def test_the_kinds_of_failures_are_those_that_there_are() -> None:
    from autointerp.cli.again import _KINDS

    assert set(_KINDS) == {str(kind) for kind in FailureKind}


def test_what_is_waited_for_is_said(
    capsys: pytest.CaptureFixture[str], sampled: Path, server: LlmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "_BEAT_S", 0.1)
    monkeypatch.setattr(terminal_progress, "_SECONDS_BETWEEN_LINES", 0.1)
    server.script(serve.rate_limited(retry_after="1"))
    code, err = run(capsys, "explain", *model(server), "--concurrency", "1", "--out", sampled)
    assert code == 0 and ": 0 / 8 features" in err, err
    assert "the last attempt failed: HTTP 429: slow down" in err
    assert "attempt failed" not in err.splitlines()[-1]  # it was mended
