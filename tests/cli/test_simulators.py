"""The simulators that read log-probabilities, from the command line: the mock, a server, files and a local model."""

import json
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner

from autointerp.cli import cli
from autointerp.errors import UserError
from autointerp.llm.providers.mock import mock_numbers
from autointerp.llm.types import Message, Request
from tests.cli.test_bad_input import options, run
from tests.cli.test_run import catalog_rows
from tests.llm.server import Body, LlmServer, openai_reply
from tests.score.test_log_probabilities import save

READING = ("all_at_once", "one_at_a_time")
PROTOCOLS = ["simulation", "bills23_top_random", "bills23_random", "transluce24"]
FEW = {"score.per_band": 2, "score.silent": 4, "score.control_features": 0, "score.resamples": 100}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, tiny_settings: dict[str, object]) -> Path:
    out = tmp_path_factory.mktemp("simulators") / "run"
    settings = options(tiny_settings | FEW, sample__features="0-3")
    model = ["--explainer", "highlighted", "--provider", "mock", "--label-model", "mock"]
    for command in (["sample", *settings, "--out", str(out)], ["explain", *model, "--out", str(out)]):
        result = CliRunner().invoke(cli, command)
        assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def out(labelled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(labelled, tmp_path / "run"))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save(tmp_path_factory.mktemp("model") / "split", "llama", whole=False))


class ReadingServer(LlmServer):
    """Gives log-probabilities of answers and, as vLLM does, of the end of a prompt; the mock's numbers."""

    async def _chat_completion(self, request: web.Request) -> web.StreamResponse:
        return await self._handle(request, reading_reply)


def reading_reply(body: Body, text: str, finish: str) -> dict[str, Any]:
    messages = [Message(one["role"], one["content"]) for one in body["messages"]]
    if "prompt_logprobs" in body:
        asked = Request(messages[:-1], logprobs=body["prompt_logprobs"], continuation=messages[-1].content)
        return openai_reply(body, "x", "length") | {"prompt_logprobs": [None, *positions(asked)]}
    made = openai_reply(body, text, "length")
    (one,) = mock_numbers(Request(messages, logprobs=body["top_logprobs"])).logprobs
    top = [{"token": token, "logprob": value} for token, value in one.top.items()]
    made["choices"][0]["logprobs"] = {"content": [{"token": one.token, "logprob": one.logprob, "top_logprobs": top}]}
    return made


def positions(asked: Request) -> list[Mapping[str, Any]]:
    found = []
    for one in mock_numbers(asked).logprobs:
        there = {"0": {"logprob": one.logprob, "rank": 99, "decoded_token": one.token}}
        others = sorted(one.top.items(), key=lambda item: -item[1])
        likely = {
            str(i): {"logprob": value, "rank": i, "decoded_token": token} for i, (token, value) in enumerate(others, 1)
        }
        found.append(there | likely)
    prompt = {"0": {"logprob": -1.0, "rank": 1, "decoded_token": "prompt"}}
    return [prompt, *found]


def score(
    capsys: pytest.CaptureFixture[str], out: Path, *arguments: object, scorers: list[str] | None = None
) -> tuple[int, str]:
    chosen = ["--set", f"score.scorers={json.dumps(scorers or ['simulation'])}"]
    return run(capsys, "score", "--explainer", "highlighted", *chosen, *arguments, "--out", out)


def at(provider: str, *, model: str = "mock", base_url: str | None = None) -> list[str]:
    """Who simulates; the labels are the mock's."""
    where = [] if base_url is None else ["--set", f"score.base_url={base_url}"]
    labels = ["--provider", "mock", "--label-model", "mock"]
    return [*labels, "--set", f"score.provider={provider}", "--set", f"score.model={model}", *where]


def simulated(out: Path) -> list[tuple]:
    return catalog_rows(
        out, "SELECT scorer, simulator, window_id, feature_id, start, expected, mass, reason FROM simulations "
        "WHERE status = 'ok' ORDER BY ALL")  # fmt: skip


@pytest.mark.parametrize("name", READING)
def test_from_the_mock_with_every_protocol(capsys: pytest.CaptureFixture[str], out: Path, name: str) -> None:
    arguments = ["--simulator", name, *at("mock"), "--set", "score.calibration=4"]
    code, err = score(capsys, out, *arguments, scorers=PROTOCOLS)
    assert code == 0, err
    rows = simulated(out)
    assert not catalog_rows(out, "SELECT * FROM simulations WHERE status = 'failed'")
    assert {row[0] for row in rows} <= set(PROTOCOLS) and {"simulation", "transluce24"} <= {row[0] for row in rows}
    assert {row[1] for row in rows} == {name}
    assert all(len(row[5]) == len(row[6]) and min(row[5]) >= 0 and max(row[5]) <= 10 for row in rows)
    assert any(max(row[5]) > 3 for row in rows) and all(row[6][0] == pytest.approx(0.9) for row in rows)
    assert {row[4] is None for row in rows if row[0] == "simulation"} == {True}
    assert {row[4] is None for row in rows if row[0] != "simulation"} == {False}
    code, err = score(capsys, out, *arguments, scorers=PROTOCOLS)
    assert code == 0 and simulated(out) == rows


@pytest.mark.parametrize("name", READING)
def test_from_a_server(capsys: pytest.CaptureFixture[str], out: Path, name: str) -> None:
    """The same numbers as from the mock, since the server makes the same of the same questions; none is asked twice."""
    with ReadingServer() as server:
        code, err = score(
            capsys, out, "--simulator", name, *at("http", base_url=server.openai_url),
            scorers=["simulation", "bills23_top_random"],
        )  # fmt: skip
        assert code == 0, err
        assert set(server.requests.values()) == {1}
        assert not any("slots" in body for body in server.bodies)
        asked = server.total
        assert score(
            capsys, out, "--simulator", name, *at("http", base_url=server.openai_url),
            scorers=["simulation", "bills23_top_random"],
        )[0] == 0  # fmt: skip
        assert server.total == asked
    from_server = simulated(out)
    assert from_server and not catalog_rows(out, "SELECT * FROM simulations WHERE status = 'failed'")
    assert score(
        capsys, out, "--simulator", name, *at("mock"), scorers=["simulation", "bills23_top_random"]
    )[0] == 0  # fmt: skip
    from_mock = [row for row in simulated(out) if row not in from_server]
    assert not from_mock  # row by row the same


@pytest.mark.parametrize("name", READING)
def test_from_a_local_model(capsys: pytest.CaptureFixture[str], out: Path, local: str, name: str) -> None:
    code, err = score(
        capsys, out, "--simulator", name, *at("transformers:cpu", model=local), "--set", "score.silent=1",
        "--set", "score.per_band=1",
    )  # fmt: skip
    assert code == 0, err
    rows = simulated(out)
    assert rows and not catalog_rows(out, "SELECT * FROM simulations WHERE status = 'failed'")
    assert all(math.isfinite(value) and 0 <= value <= 10 for row in rows for value in row[5])
    if name == "all_at_once":  # the model is random
        assert any((row[7] or "").startswith("low mass: ") for row in rows)
        reasons = catalog_rows(out, "SELECT reason FROM scores WHERE metric = 'r_balanced' AND value IS NOT NULL")
        assert any("little probability on numbers in" in (reason or "") for (reason,) in reasons)


@pytest.mark.parametrize(
    ("name", "provider", "lacks"),
    [
        ("all_at_once", "files:desk", "prompt_logprobs"),
        ("one_at_a_time", "files:desk", "logprobs"),
        ("all_at_once", "anthropic", "prompt_logprobs"),
    ],
)
def test_a_provider_that_cannot_is_named_with_those_that_can(
    capsys: pytest.CaptureFixture[str], out: Path, tmp_path: Path, name: str, provider: str, lacks: str
) -> None:
    provider = provider.replace("desk", str(tmp_path / "desk"))
    code, err = score(capsys, out, "--simulator", name, *at(provider))
    last = err.strip().splitlines()[-1]
    assert (
        code == 2
        and f"needs {lacks}, which the provider" in last
        and "choose another provider: transformers, or" in last
    )
    assert not simulated(out)


def test_an_exact_reading_needs_an_engine_that_gives_it(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    code, err = score(capsys, out, "--simulator", "all_at_once", *at("mock"), "--set", "score.reading=exact")
    assert code == 2 and "needs exact_logprobs, which the provider 'mock' does not offer" in err
    assert "choose another provider: transformers, or leave exact_logprobs out" in err


@pytest.mark.parametrize(
    ("name", "provider"), [(name, provider) for name in READING for provider in ("mock", "openai", "http")]
)
def test_the_estimate_knows_what_is_going_to_be_asked(
    out: Path, name: str, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of OpenAI, which reads no given text, too: as many requests of one_at_a_time, and none of all_at_once."""
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    url = "http://127.0.0.1:1/v1" if provider == "http" else None
    arguments = ["--explainer", "highlighted", "--simulator", name, *at(provider, base_url=url)]
    result = CliRunner().invoke(
        cli, ["estimate", *arguments, "--set", 'score.scorers=["simulation"]', "--out", str(out)]
    )
    if (name, provider) == ("all_at_once", "openai"):
        assert isinstance(result.exception, UserError) and "needs prompt_logprobs" in str(result.exception)
        return
    assert result.exit_code == 0, result.output
    assert re.search(rf"score +{name} +", result.output), result.output
    if provider == "mock":
        before = answers(out)
        code = CliRunner().invoke(
            cli, ["score", *arguments, "--set", 'score.scorers=["simulation"]', "--out", str(out)]
        ).exit_code  # fmt: skip
        row = next(line for line in result.output.splitlines() if re.match(rf" *score +{name}", line))
        counted = [int(text.replace(",", "")) for text in re.findall(r"\d[\d,]*", row)]
        asked = answers(out) - before
        assert code == 0 and asked in counted, (asked, row)


def answers(out: Path) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in (out / "journal").glob("*.jsonl"))
