"""Every scorer and simulator that asks a model, from the command line: the mock, files, a server, a model on this machine.

A further one joins by being registered. A provider that lacks what it needs is left out for it.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from autointerp.llm.provider import open_provider
from autointerp.llm.providers.mock import MockProvider
from autointerp.llm.types import Message, Request
from autointerp.score import scorers, simulators
from tests.cli.test_bad_input import options, run
from tests.cli.test_run import catalog_rows
from tests.llm.local_models import save_model
from tests.llm.server import LlmServer, openai_reply

# Simulators work for the scorer "simulation".
PARTS = [*(name for name, part in scorers.items() if part.wants.model),
         *(f"simulation:{name}" for name, part in simulators.items() if part.needs_model)]  # fmt: skip
each_part = pytest.mark.parametrize("part", PARTS)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, tiny_settings: dict[str, object]) -> Path:
    """Labels of the lexicon, which asks no model."""
    from click.testing import CliRunner

    from autointerp.cli import cli

    out = tmp_path_factory.mktemp("every") / "run"
    settings = options(
        tiny_settings,
        sample__features="0-2",
        sample__per_band=14,
        sample__top=10,
        negatives__per_kind=6,
        score__per_band=4,
        score__silent=8,
        score__resamples=300,
        score__controls=["shuffled"],
    )
    for command in (
        ["sample", *settings, "--out", str(out)],
        ["negatives", "--out", str(out)],
        ["explain", "--out", str(out)],
    ):
        result = CliRunner().invoke(cli, command)
        assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def out(labelled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(labelled, tmp_path / "run"))


def needs_of(part: str) -> Sequence[str]:
    scorer, _, simulator = part.partition(":")
    return simulators.get(simulator).needs if simulator else scorers.get(scorer).wants.capabilities


def command(part: str, provider: str, out: Path, *more: object) -> list[object]:
    """Score by the part alone; skips where the provider lacks what it needs."""
    scorer, _, simulator = part.partition(":")
    needs = needs_of(part)
    can = open_provider(provider, model="mock").capabilities
    if missing := [need for need in needs if not getattr(can, need)]:
        pytest.skip(f"{provider.partition(':')[0]} has no {', '.join(missing)}, which {part} needs")
    names = json.dumps(list(dict.fromkeys(["simulation", scorer])))
    chosen = ["--explainer", "lexicon", "--set", f"score.scorers={names}", "--simulator", simulator or "lexicon"]
    return ["score", *chosen, "--provider", provider, *more, "--out", out]


def check(out: Path, part: str) -> None:
    """It has scores, each with a value or a reason; what they come from is there; nothing failed."""
    scorer = part.partition(":")[0]
    wants = scorers.get(scorer).wants
    rows = catalog_rows(
        out, f"SELECT metric, value, status, reason, n_failed, control FROM scores WHERE scorer = '{scorer}'"
    )
    assert any(value is not None for _, value, *_ in rows)
    assert all(value is not None or reason for _, value, _, reason, *_ in rows)
    assert {status for _, _, status, *_ in rows} <= {"ok", "undefined"} and not any(row[4] for row in rows)
    # What it says labels can be ranked by is there: but for a baseline, which these labels of the lexicon have not.
    declared = {one for one in scorers.get(scorer).ranks if not one.startswith("lexical_gain")}
    assert declared <= {metric for metric, *_ in rows}
    controls = {row[5] for row in rows}
    assert {"", "shuffled"} <= controls if wants.label else controls == {""}
    kept = " UNION ALL ".join(
        f"SELECT status, reason, explanation_id FROM {table} WHERE scorer = '{scorer}'"
        for table in ("simulations", "judgements", "written_texts")
    )
    items = catalog_rows(out, kept)
    assert items and {status for status, *_ in items} == {"ok"}  # some with a remark
    assert all(bool(explanation) == wants.label for *_, explanation in items)
    assert catalog_rows(out, f"SELECT count(*) FROM scorings WHERE scorer = '{scorer}'") == [(1,)]


def answer_to(request: Request) -> str:
    """The mock's, wherever an event loop runs: it does not wait."""
    by = MockProvider()
    try:
        by.send(request, by.payload("mock", request)).send(None)
    except StopIteration as end:
        return str(end.value.text)
    raise AssertionError("the mock waits for something")


def answer_body(body: Any) -> str:
    messages = [Message(one["role"], one["content"]) for one in body["messages"]]
    wanted = body.get("response_format", {}).get("json_schema", {})
    return answer_to(Request(messages, json_schema=wanted.get("schema"), schema_name=wanted.get("name", "answer")))


@each_part
def test_with_the_mock(capsys: pytest.CaptureFixture[str], out: Path, part: str) -> None:
    asked = command(part, "mock", out, "--label-model", "mock")
    assert run(capsys, "estimate", *asked[1:])[0] == 0
    code, err = run(capsys, *asked)
    assert code == 0, err
    check(out, part)
    before = catalog_rows(out, "SELECT * FROM scores ORDER BY ALL")
    assert run(capsys, *asked)[0] == 0 and catalog_rows(out, "SELECT * FROM scores ORDER BY ALL") == before


@each_part
def test_through_files(capsys: pytest.CaptureFixture[str], out: Path, tmp_path: Path, part: str) -> None:
    desk, replies, rounds = tmp_path / "desk", [], 0
    asked = command(part, f"files:{desk}", out, "--label-model", "m")
    while (code := run(capsys, *asked)[0]) == 75 and rounds < 5:
        rounds += 1
        for line in map(json.loads, (desk / "requests.jsonl").read_text().splitlines()):
            body = openai_reply(line["body"], answer_body(line["body"]), "stop")
            replies.append({"custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}})
        (desk / "responses.jsonl").write_text("".join(json.dumps(reply) + "\n" for reply in replies))
    assert code == 0 and rounds
    assert len({reply["custom_id"] for reply in replies}) == len(replies)  # nothing is asked twice
    check(out, part)


@each_part
def test_from_a_server(capsys: pytest.CaptureFixture[str], out: Path, part: str) -> None:
    if {"logprobs", "prompt_logprobs"} & set(needs_of(part)):
        pytest.skip(f"the server of the tests gives no log-probabilities, which {part} needs")
    with LlmServer() as server:
        server.write = answer_body
        asked = command(part, "http", out, "--base-url", server.openai_url, "--label-model", "m")
        code, err = run(capsys, *asked)
        assert code == 0, err
        assert server.requests and all(count == 1 for count in server.requests.values())
    check(out, part)


@pytest.fixture(scope="module")
def local_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("every") / "llama", window=32768)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model on this machine reads, and weighs each token of the answer; a script chooses what a random model would not."""
    pytest.importorskip("llguidance", reason="llguidance is not installed (the extra local)")
    from autointerp.llm.local import writing

    class Spoken:
        """Tokens of the answer to each question, made when its first is chosen."""

        def __init__(self) -> None:
            self.encode: Callable[[str], list[int]] = lambda text: []
            self.answers: dict[str, list[int]] = {}

        def next(self, row: Any) -> int:
            request = row.job.request
            question = request.messages[-1].content
            if question not in self.answers:
                answer = json.loads(answer_to(request))
                self.answers[question] = self.encode(json.dumps(answer, separators=(",", ":"), ensure_ascii=False))
            return self.answers[question][len(row.tokens)]

    spoken, write = Spoken(), writing.write

    def prepared(loaded: Any, *given: Any) -> None:
        spoken.encode = loaded.prompts.encode_continuation
        write(loaded, *given)

    def choose(rows: Sequence[Any], logits: Any) -> list[int]:
        return [spoken.next(row) for row in rows]

    monkeypatch.setattr(writing, "_choose", choose)
    monkeypatch.setattr("autointerp.llm.local.engine.write", prepared)


@each_part
def test_on_a_local_model(
    capsys: pytest.CaptureFixture[str], out: Path, scripted: None, local_model: Path, part: str
) -> None:
    if part == "simulation:one_at_a_time":
        pytest.skip(
            "a request a token takes a minute; tests/score/test_log_probabilities.py has a local model read some"
        )
    code, err = run(capsys, *command(part, "transformers:cpu", out, "--label-model", local_model))
    assert code == 0, err
    check(out, part)
    query = "SELECT count(*), count(probability) FROM judgements WHERE scorer = "
    if part in ("detection", "fuzzing", "delphi24_detection", "delphi24_fuzz"):  # each verdict has a probability
        [(count, known)] = catalog_rows(out, f"{query} '{part}'")
        assert known == count > 0
        areas = catalog_rows(out, f"SELECT value, reason FROM scores WHERE scorer = '{part}' AND metric = 'auroc'")
        assert any(value is not None for value, _ in areas)
        assert all(reason == "no silent context was judged" for value, reason in areas if value is None)
