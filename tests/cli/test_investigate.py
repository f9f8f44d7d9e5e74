"""The explainer `investigate` from the command line on the tiny run: with the mock, through files, and without the subject."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from autointerp.errors import UserError
from autointerp.explain import at_hand, explainers
from autointerp.explain.bench import Bench, BrokenBenchError, Continuations, Neighbour
from autointerp.llm import Journal
from autointerp.llm.providers import mock
from tests.cli.test_bad_input import options, run
from tests.cli.test_run import catalog_rows
from tests.explain.benches import FakeRefine

MOCK = ["--explainer", "investigate", "--provider", "mock", "--label-model", "mock"]
LABEL = {"title": "by hand", "description": "Found out by hand.", "kind": "token", "scope": "", "confidence": "high",
         "domains": [], "safety": ["none"], "parts": []}  # fmt: skip


class ByteBench:
    """A token for every byte; those of vowels are active."""

    def __init__(self) -> None:
        self.calls = 0

    def activations(self, feature_id: int, text: str) -> list[tuple[int, float]]:
        self.calls += 1
        return [(byte, 5.0 if chr(byte) in "aeiou" else 0.0) for byte in text.encode()]

    def nearest(self, feature_id: int, count: int) -> Sequence[Neighbour]:
        self.calls += 1
        return [Neighbour(number, 0.5, None) for number in range(count)]

    def steered(self, feature_id: int, prompt: str, strength: float, tokens: int) -> Continuations:
        self.calls += 1
        return Continuations(prompt, prompt * 2)


def gone(config: object, catalog: object) -> Bench:
    raise UserError("the model's folder is gone")


@pytest.fixture(autouse=True)
def refine(monkeypatch: pytest.MonkeyPatch) -> None:
    explainers.names()
    monkeypatch.setitem(explainers._parts, "refine", FakeRefine())


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ByteBench:
    made = ByteBench()
    monkeypatch.setattr(at_hand, "open_bench", lambda config, catalog: made)
    return made


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory, tiny_settings: dict[str, object]) -> Path:
    from click.testing import CliRunner

    from autointerp.cli import cli

    out = tmp_path_factory.mktemp("investigate") / "run"
    command = ["sample", *options(tiny_settings, sample__features="0-5"), "--out", str(out)]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def out(sampled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sampled, tmp_path / "run"))


LABELS = "SELECT feature_id, title, status, reason FROM explanations WHERE explainer = 'investigate' ORDER BY 1"
STEPS = (
    "SELECT e.feature_id, s.* EXCLUDE (explanation_id) FROM investigation_steps s JOIN explanations e USING (explanation_id) "
    "ORDER BY 1, 2"
)


def test_a_whole_run_with_the_mock(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, out: Path, bench: ByteBench
) -> None:
    settings = [*MOCK, "--set", "score.control_features=0", "--out", out]
    code, err = run(capsys, "run", *settings)
    assert code == 0, err
    labels, steps = catalog_rows(out, LABELS), catalog_rows(out, STEPS)
    good = [feature for feature, _, status, _ in labels if status == "ok"]
    assert len(good) >= 3 and all(title.startswith("mock") for _, title, status, _ in labels if status == "ok")
    tools = ["activations", "exemplars", "nearest_features", "top_logits", "steer"]
    assert [(feature, number, tool) for feature, number, tool, _, _ in steps] == [
        (feature, number, tool) for feature in good for number, tool in enumerate(tools, start=1)
    ]
    assert all(json.loads(arguments) is not None and json.loads(result) for *_, arguments, result in steps)
    assert not [reason for *_, status, reason in labels if status == "ok" and reason]
    splits = catalog_rows(out, "SELECT DISTINCT w.split FROM explanation_evidence e JOIN windows w USING (window_id)")
    assert splits == [("explain",)]
    with Journal(out / "journal", read_only=True) as journal:
        asked = [entry for entry in journal.entries() if entry.purpose == "explain"]
    # A turn with calls, one with a text that is no label, and the label.
    assert len(asked) == 3 * len(good) and sum(bool(entry.calls) for entry in asked) == len(good)
    # A second time nothing is asked and nothing computed; derived anew neither, not even without the subject.
    computed = bench.calls
    assert run(capsys, "run", *settings)[0] == 0 and bench.calls == computed
    monkeypatch.setattr(at_hand, "open_bench", gone)
    code, err = run(capsys, "rederive", "--out", out)
    assert code == 0, err
    assert (catalog_rows(out, LABELS), catalog_rows(out, STEPS)) == (labels, steps)


def test_through_files_every_turn_is_a_round(
    capsys: pytest.CaptureFixture[str], out: Path, bench: ByteBench, tmp_path: Path
) -> None:
    exchange = tmp_path / "exchange"
    settings = ["--explainer", "investigate", "--provider", f"files:{exchange}", "--label-model", "m", "--out", out]

    def waiting() -> list[dict[str, Any]]:
        code, err = run(capsys, "explain", *settings)
        assert code == 75 and "requests wait in" in err
        return [json.loads(line) for line in (exchange / "requests.jsonl").read_text().splitlines()]

    def answer(name: str, lines: list[dict[str, Any]]) -> None:
        (exchange / f"responses-{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    first = waiting()
    assert len(first) >= 3 and all(len(line["body"]["tools"]) == 5 for line in first)
    texts = {"texts": ["a cat", "xyz"]}
    calls = [{"name": "activations", "arguments": texts}, {"name": "activations", "arguments": "no JSON"}]
    answer("1", [{"custom_id": line["custom_id"], "calls": calls} for line in first])
    second = waiting()
    assert [message["role"] for message in second[0]["body"]["messages"]] == [
        "system",
        "user",
        "assistant",
        "tool",
        "tool",
    ]
    assert '"peak":' in second[0]["body"]["messages"][3]["content"]
    assert "not JSON" in second[0]["body"]["messages"][4]["content"]
    computed = bench.calls
    answer("2", [{"custom_id": line["custom_id"], "text": "I am not sure."} for line in second])
    third = waiting()
    assert all(line["body"]["tool_choice"] == "none" and "response_format" in line["body"] for line in third)
    assert bench.calls == 2 * computed  # another process: what was found out is computed once more
    answer("3", [{"custom_id": line["custom_id"], "text": json.dumps(LABEL)} for line in third])
    code, err = run(capsys, "explain", *settings)
    assert code == 0, err
    assert len(catalog_rows(out, STEPS)) == 2 * len(first)
    assert [row[1] for row in catalog_rows(out, LABELS) if row[2] == "ok"] == ["by hand"] * len(first)


def test_a_device_that_fails_ends_the_run_in_one_line_and_what_was_finished_is_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, out: Path, bench: ByteBench
) -> None:
    activations = bench.activations

    def failing(feature: int, text: str) -> Any:
        if feature >= 2:
            raise BrokenBenchError("the device has failed (CUDA error: unspecified launch failure)")
        return activations(feature, text)

    monkeypatch.setattr(bench, "activations", failing)
    command = ["explain", *MOCK, "--set", "explain.concurrency=1", "--out", out]
    code, err = run(capsys, *command)
    assert code == 2 and "Traceback" not in err
    assert err.strip().splitlines()[-1] == "autointerp: the device has failed (CUDA error: unspecified launch failure)"
    labels = catalog_rows(out, LABELS)
    assert [row[0] for row in labels] == [0, 1] and not any(row[1] == "refined" for row in labels)
    monkeypatch.setattr(bench, "activations", activations)
    assert run(capsys, *command)[0] == 0 and len(catalog_rows(out, LABELS)) > 2


def test_without_the_subject_model_refine_writes_the_labels_and_it_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, out: Path
) -> None:
    monkeypatch.setattr(at_hand, "open_bench", gone)
    code, err = run(capsys, "explain", *MOCK, "--out", out)
    assert code == 0
    assert err.count("the subject model is not at hand (the model's folder is gone); refine writes the labels") == 1
    labels = [row for row in catalog_rows(out, LABELS) if row[2] == "ok"]
    assert labels and all(row[1] == "refined" and "not at hand: the model's folder is gone" in row[3] for row in labels)
    assert catalog_rows(out, STEPS) == []


def test_a_provider_without_tools_is_refused_before_the_run(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    model = ["--explainer", "investigate", "--provider", "transformers", "--label-model", "m"]
    code, err = run(capsys, "run", *model, "--out", out)
    assert code == 2 and "explainer investigate needs" in err and "'transformers' does not offer" in err


def test_the_estimate_needs_no_subject_model_and_says_what_it_rests_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, out: Path
) -> None:
    monkeypatch.setattr(at_hand, "open_bench", lambda *given: pytest.fail("the subject model was opened"))
    sent: list[Any] = []
    send = mock.MockProvider.send

    async def spy(self: mock.MockProvider, request: Any, payload: Any) -> Any:
        sent.append(request)
        return await send(self, request, payload)

    monkeypatch.setattr(mock.MockProvider, "send", spy)
    from click.testing import CliRunner

    from autointerp.cli import cli

    shown = CliRunner().invoke(cli, ["estimate", *MOCK, "--out", str(out)])
    assert shown.exit_code == 0, shown.output
    assert "how many steps investigate takes is the model's choice" in " ".join(shown.output.split())
    assert "refine" not in shown.output
    explaining = [request for request in sent if request.purpose == "explain"]
    assert len(explaining) % 3 == 0 and any(not request.may_call for request in explaining)
