"""The whole job on the tiny model, by the command line: offline, with models over both protocols, stopped and gone on with."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autointerp.catalog.digest import table_digests
from autointerp.catalog.store import Catalog
from autointerp.llm.providers.mock import default_answer, mock_simulation
from tests.cli.test_bad_input import options, run
from tests.llm.server import LlmServer, answer, status


def write_answer(body: dict) -> str:
    """What the server's model says: aligned simulations, else whatever fits the schema."""
    question = body["messages"][-1]["content"]
    text = question if isinstance(question, str) else "".join(part["text"] for part in question)
    if (simulated := mock_simulation(text)) is not None:
        return simulated
    wanted = body.get("response_format") or body["output_config"]["format"]
    schema = wanted["json_schema"]["schema"] if "json_schema" in wanted else wanted["schema"]
    return default_answer(schema, 7)


@pytest.fixture
def server(llm_server: LlmServer) -> LlmServer:
    llm_server.write = write_answer
    return llm_server


def catalog_rows(out: Path, query: str) -> list[tuple]:
    with Catalog.open(out / "catalog.duckdb") as catalog:
        return catalog.rows(query)


def test_offline(capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object]) -> None:
    out = tmp_path / "run"
    code, err = run(capsys, "run", *options(tiny_settings), "--out", out)
    assert code == 0, err
    rows = catalog_rows(
        out, "SELECT rank, lo, score, hi, shuffled, title, description, rank_lo, rank_hi FROM catalog WHERE rank > 0"
    )
    assert len(rows) >= 10 and [row[0] for row in rows] == list(range(1, len(rows) + 1))
    assert [row[1] for row in rows] == sorted((row[1] for row in rows), reverse=True)
    assert all(row[1] <= row[2] <= row[3] and row[7] <= row[0] <= row[8] for row in rows)
    assert all(row[5] and row[6] for row in rows)
    unranked = catalog_rows(out, "SELECT flag, explanation_status, score, score_reason FROM catalog WHERE rank IS NULL")
    assert ("dead", None, None, None) in unranked
    assert all(score is None or reason for flag, status_, score, reason in unranked if status_ == "ok")
    assert "<!doctype html" in (out / "report.html").read_text(encoding="utf-8")[:200].lower()
    # Only the explain split was shown, and of the others the rerank split's contexts serve to learn the scale.
    splits = catalog_rows(out, "SELECT DISTINCT w.split FROM explanation_evidence e JOIN windows w USING (window_id)")
    assert splits == [("explain",)]
    assert catalog_rows(
        out, "SELECT DISTINCT w.split FROM simulations s JOIN windows w USING (window_id) ORDER BY 1"
    ) == [("rerank",), ("test",)]
    assert not catalog_rows(
        out,
        "SELECT 1 FROM simulations s JOIN contexts c USING (feature_id, window_id) WHERE c.kind = 'band' AND c.duplicate",
    )


def test_a_rerun_does_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object]
) -> None:
    out = tmp_path / "run"
    assert run(capsys, "run", *options(tiny_settings), "--out", out)[0] == 0
    before = {
        path: path.stat().st_mtime_ns
        for path in (out / "report.html", out / "plan" / "COMPLETE.json", out / "config.json")
    }
    digests = table_digests_of(out)
    code, err = run(capsys, "run", "--out", out)
    assert code == 0 and "harvest" not in err and " labels" not in err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert table_digests_of(out) == digests


def table_digests_of(out: Path) -> dict[str, str]:
    with Catalog.open(out / "catalog.duckdb") as catalog:
        return table_digests(catalog)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_with_a_model_every_answer_is_asked_for_once(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    tiny_settings: dict[str, object],
    server: LlmServer,
    provider: str,
) -> None:
    out = tmp_path / "run"
    arguments = [
        "run", *options(tiny_settings, sample__features="0-8", score__control_features=2), "--explainer", "token_activation",
        "--provider", provider, "--label-model", "test-model", "--out", out,
        "--base-url", server.openai_url if provider == "openai" else server.anthropic_url,
    ]  # fmt: skip
    code, err = run(capsys, *arguments)
    assert code == 0, err
    assert server.bodies and set(server.requests.values()) == {1}
    asked = len(server.bodies)
    labels = catalog_rows(
        out, "SELECT count(*) FROM explanations WHERE explainer = 'token_activation' AND status = 'ok'"
    )[0][0]
    assert labels >= 5
    gains = catalog_rows(out, "SELECT count(*) FROM scores WHERE metric = 'lexical_gain_balanced'")[0][0]
    assert gains == labels
    spend = dict(catalog_rows(out, "SELECT purpose, requests FROM spend"))
    assert sum(spend.values()) == asked and spend["explain"] == labels
    assert spend["detect"] == spend["simulate"] >= labels  # the same texts in the same requests
    if provider == "anthropic":
        marked = [body["messages"][-1]["content"][0]["text"] for body in server.bodies if "|" in str(body["messages"][-1])
                  and isinstance(body["messages"][-1]["content"], list)]  # fmt: skip
        assert len(marked) == 2 * spend["detect"] and len(set(marked)) <= spend["detect"]  # of the controls, too
    assert catalog_rows(out, "SELECT DISTINCT status, answer IS NULL FROM judgements") == [("ok", False)]
    assert catalog_rows(out, "SELECT DISTINCT w.split FROM judgements JOIN windows w USING (window_id)") == [("test",)]
    # A score can be computed again from its judgements.
    again = catalog_rows(
        out,
        """
        WITH rates AS (
            SELECT feature_id, j.control, j.kind, band, avg(answer::INT) AS rate
            FROM judgements j JOIN simulations USING (feature_id, control, window_id) GROUP BY ALL
        ), sides AS (
            SELECT feature_id, control, avg(rate) FILTER (kind = 'band') AS recall, avg(rate) FILTER (kind = 'silent') AS alarms
            FROM rates GROUP BY ALL
        )
        SELECT count(*), max(abs((recall + 1 - alarms) / 2 - value)) FROM sides JOIN scores USING (feature_id, control)
        WHERE scorer = 'detection' AND metric = 'balanced_accuracy'""",
    )
    assert again[0][0] == labels + 4 and again[0][1] < 1e-9
    assert catalog_rows(out, "SELECT count(DISTINCT feature_id) FROM scores WHERE control = 'shuffled'") == [(2,)]
    # The catalog is derived data: without it, the same command makes the same one from the journal, asking nothing.
    digests = table_digests_of(out)
    for name in ("catalog.duckdb", "report.html", "report.stamp"):
        (out / name).unlink()
    assert run(capsys, *arguments)[0] == 0
    assert len(server.bodies) == asked
    assert table_digests_of(out) == digests


def test_a_failed_request_is_a_failure_with_a_reason_and_what_helps(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object], server: LlmServer
) -> None:
    out = tmp_path / "run"
    arguments = [
        "run", *options(tiny_settings, sample__features="0-8", score__control_features=0), "--explainer", "token_activation",
        "--provider", "openai", "--label-model", "test-model", "--out", out, "--base-url", server.openai_url,
    ]  # fmt: skip
    # The first eight or nine requests are one for each feature: one is rejected, the others answered without JSON. What is
    # malformed is asked for once more, and one of those is malformed again.
    server.script(status(400, {"message": "no such thing"}), *[answer("no JSON at all")] * 9)
    code, err = run(capsys, *arguments)
    assert (
        code == 0 and "failed: rejected" in err and "if the server has changed: autointerp retry --kind rejected" in err
    )
    assert "failed: malformed" in err and "for other answers: autointerp retry" in err
    failed = catalog_rows(out, "SELECT feature_id, reason FROM explanations WHERE status = 'failed'")
    reasons = " ".join(reason for _, reason in failed)
    assert len(failed) >= 2 and "rejected: HTTP 400: no such thing" in reasons and "malformed" in reasons
    unscored = catalog_rows(out, f"SELECT score, explanation_status FROM catalog WHERE feature_id = {failed[0][0]}")
    assert unscored == [(None, "failed")]
    asked = len(server.bodies)
    assert run(capsys, *arguments)[0] == 0 and len(server.bodies) == asked  # the same would come of it
    assert run(capsys, "retry", "--out", out)[0] == 0 and len(server.bodies) > asked
    assert not catalog_rows(out, "SELECT reason FROM explanations WHERE status = 'failed'")


def test_killed_at_random_moments_the_catalog_is_the_same(
    tmp_path: Path, tiny_settings: dict[str, object], server: LlmServer
) -> None:
    """SIGKILL, then the same command again: equal catalogs, and no answer that the journal holds is asked for again."""
    settings = options(tiny_settings, sample__features="0-8", score__control_features=2)
    model = ["--explainer", "token_activation", "--provider", "openai", "--label-model", "m", "--base-url", server.openai_url,
             "--concurrency", "2"]  # fmt: skip

    def command(out: Path) -> list[str]:
        return [sys.executable, "-m", "autointerp", "run", *settings, *model, "--out", str(out)]

    server.delay = 0.02
    began = time.monotonic()
    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    span = time.monotonic() - began
    asked = len(server.bodies)
    draw, kills = random.Random(1), 0
    for moment in sorted(draw.uniform(0.3, 0.95) * span for _ in range(4)):
        process = subprocess.Popen(command(tmp_path / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    subprocess.run(command(tmp_path / "killed"), check=True, capture_output=True)
    assert kills >= 1
    assert table_digests_of(tmp_path / "whole") == table_digests_of(tmp_path / "killed")
    # Each request came once for each folder; in excess only what was in flight, at most two, at each kill.
    assert len(server.bodies) <= 2 * asked + 2 * kills
    journalled = [json.loads(line)["key"] for path in (tmp_path / "killed" / "journal").glob("*.jsonl")
                  for line in path.read_text().splitlines() if line.endswith("}")]  # fmt: skip
    assert len(journalled) == len(set(journalled)) == asked
