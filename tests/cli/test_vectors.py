"""The scorers embedding and surprisal from the command line: mock, server, files and local models; what they cost; retries."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from autointerp.llm.embeddings import packed
from autointerp.llm.journal import Journal
from autointerp.llm.providers import mock
from tests.cli.test_bad_input import options, run
from tests.cli.test_run import catalog_rows
from tests.llm.local_models import save_embedder, save_model
from tests.llm.server import LlmServer, embeddings_reply

LABELS = ["--provider", "mock", "--label-model", "mock"]
ONLY_VECTORS = ["--explainer", "lexicon", "--set", 'score.scorers=["simulation","embedding"]']
ONLY_LOSSES = ["--explainer", "lexicon", "--set", 'score.scorers=["simulation","surprisal"]']


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, tiny_settings: dict[str, object]) -> Path:
    from click.testing import CliRunner

    from autointerp.cli import cli

    out = tmp_path_factory.mktemp("vectors") / "run"
    settings = options(tiny_settings, sample__features="0-5", negatives__per_kind=4)
    explain = ["explain", "--out", str(out), "--explainer", "token_activation", *LABELS]
    for command in (["sample", *settings, "--out", str(out)], ["negatives", "--out", str(out)], explain):
        result = CliRunner().invoke(cli, command)
        assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def out(labelled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(labelled, tmp_path / "run"))


def scores(out: Path, scorer: str) -> dict[tuple[int, str, str], tuple[float | None, int, int]]:
    rows = catalog_rows(
        out, f"SELECT feature_id, control, metric, value, n_ok, n_failed FROM scores WHERE scorer = '{scorer}'"
    )
    return {(feature, control, metric): (value, ok, failed) for feature, control, metric, value, ok, failed in rows}


def defined(found: dict[tuple[int, str, str], tuple[float | None, int, int]]) -> int:
    assert all(failed == 0 for _, _, failed in found.values())
    assert all(0 <= value <= 1 for value, _, _ in found.values() if value is not None)
    return sum(value is not None and metric == "auroc" for (_, _, metric), (value, _, _) in found.items())


def spent(out: Path) -> Counter[str]:
    """Replies by purpose."""
    with Journal(out / "journal", read_only=True) as journal:
        return Counter(purpose for one in journal.spend() for purpose in [one.purpose] * one.replies)


class TestMock:
    def test_both_beside_the_others_and_what_the_estimate_said(
        self, capsys: pytest.CaptureFixture[str], out: Path
    ) -> None:
        both = [
            "--set",
            'score.scorers=["simulation","embedding","surprisal"]',
            "--embedder",
            "mock-e",
            "--embed-provider",
            "mock",
        ]
        assert run(capsys, "estimate", "--out", out, *both, "--sample", 1000)[0] == 0
        from autointerp.catalog.store import Catalog
        from autointerp.config_reading import load_config
        from autointerp.estimate import estimate
        from autointerp.run_folder import saved_config

        config = load_config(None, {
            "score.scorers": ["simulation", "embedding", "surprisal"], "score.embedder": "mock-e", "score.embed_provider": "mock",
        }, base=saved_config(out))  # fmt: skip
        with Catalog.open(out / "catalog.duckdb") as catalog:
            expected = estimate(config, catalog, out, sample=1000)
        code, err = run(capsys, "score", "--out", out, *both)
        assert code == 0, err
        n_labels = len(
            catalog_rows(out, "SELECT 1 FROM explanations WHERE status = 'ok' AND explainer = 'token_activation'")
        )
        assert n_labels > 2
        for scorer in ("embedding", "surprisal"):
            assert defined(scores(out, scorer)) > n_labels  # labels and controls
        assert {metric for _, _, metric in scores(out, "embedding")} > {"auroc", "auroc_near"}
        for purpose, part in (("embed", "embedding"), ("surprisal", "surprisal")):
            assert sum(row.requests for row in expected.rows if row.part == part) == spent(out)[purpose]
        marked = catalog_rows(out, "SELECT scorer, model FROM scorings WHERE scorer <> 'simulation' ORDER BY scorer")
        assert marked == [("embedding", "mock-e"), ("surprisal", "mock")]
        values = catalog_rows(
            out, "SELECT count(*), count(value), count(answer) FROM judgements WHERE scorer = 'embedding'"
        )
        assert values[0][0] == values[0][1] > 0 and values[0][2] == 0

    def test_a_rerun_asks_nothing_and_another_embedder_is_another_score(
        self, capsys: pytest.CaptureFixture[str], out: Path
    ) -> None:
        command = ["score", "--out", out, *ONLY_VECTORS, "--embed-provider", "mock"]
        assert run(capsys, *command, "--embedder", "mock-e")[0] == 0
        before = spent(out)["embed"]
        assert run(capsys, *command, "--embedder", "mock-e")[0] == 0
        assert run(capsys, "rederive", "--out", out)[0] == 0
        assert spent(out)["embed"] == before
        keys = catalog_rows(out, "SELECT scorer, score_key FROM scorings ORDER BY scorer")
        assert run(capsys, *command, "--embedder", "mock-other")[0] == 0
        assert spent(out)["embed"] == 2 * before
        again = catalog_rows(out, "SELECT scorer, score_key FROM scorings ORDER BY scorer")
        assert [one == two for one, two in zip(keys, again, strict=True)] == [False, True]  # not the simulation's
        prefixed = ["--embedder", "mock-e", "--set", "score.embed_label_prefix='query: '"]
        assert run(capsys, *command, *prefixed)[0] == 0
        n_labels = len(catalog_rows(out, "SELECT DISTINCT description FROM explanations WHERE explainer = 'lexicon' "
                                         "AND status = 'ok'"))  # fmt: skip
        assert spent(out)["embed"] == 2 * before + n_labels + 1  # and the generic one of the controls

    @pytest.mark.parametrize(
        ("given", "reason"),
        [
            (["--embed-provider", "mock"], "scorer embedding asks a model, and none is given; name one that makes vectors"),
            (["--embedder", "e", "--embed-provider", "anthropic"], "embeddings, which the provider 'anthropic' does not offer"),
            (["--embedder", "e", "--embed-provider", "nonsense"], "no provider is named 'nonsense'"),
            (["--embedder", "e", "--embed-base-url", "127.0.0.1:8000", "--embed-provider", "http"], "expected a whole URL"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_said_in_one_line(
        self, capsys: pytest.CaptureFixture[str], out: Path, given: list[str], reason: str
    ) -> None:
        code, err = run(capsys, "score", "--out", out, *ONLY_VECTORS, *given)
        assert code == 2 and reason in err

    def test_what_a_model_cannot_do_is_said(self, capsys: pytest.CaptureFixture[str], out: Path) -> None:
        code, err = run(capsys, "score", "--out", out, *ONLY_LOSSES, "--set", "score.provider=anthropic")
        assert code == 2 and "prompt_logprobs, which the provider 'anthropic' does not offer" in err


class TestServer:
    def test_vectors_come_in_lists_and_one_wrong_text_is_one_failure(
        self, capsys: pytest.CaptureFixture[str], out: Path, llm_server: LlmServer
    ) -> None:
        command = ["score", "--out", out, *ONLY_VECTORS, "--embedder", "e", "--embed-provider", "http",
                   "--embed-base-url", llm_server.openai_url]  # fmt: skip
        made: Counter[str] = Counter()

        def embed(text: str) -> list[float]:
            made[text] += 1
            return [1.0, float(len(text) % 7), float(len(text) % 5)]

        llm_server.embed = embed
        wrong: list[str] = []
        llm_server.refuse = lambda text: bool(wrong or wrong.append(text) or True) and text == wrong[0]
        code, err = run(capsys, *command)
        assert code == 0, err
        failed = sum(n for _, _, n in scores(out, "embedding").values())
        assert failed > 0 and "maximum context length" in str(
            catalog_rows(out, "SELECT DISTINCT reason FROM judgements WHERE status = 'failed'")
        )
        assert len(llm_server.lists) < len(llm_server.texts)
        assert set(made.values()) == {1} and len(made) == len(llm_server.texts) - 1
        llm_server.refuse = None
        assert run(capsys, "retry", "--out", out)[0] == 0
        assert defined(scores(out, "embedding")) > 2
        assert set(made.values()) == {1} and len(made) == len(llm_server.texts)  # no text is paid for again

    def test_losses_from_a_server_that_gives_them(
        self, capsys: pytest.CaptureFixture[str], out: Path, llm_server: LlmServer
    ) -> None:
        llm_server.gives_prompt_logprobs = True
        command = ["score", "--out", out, *ONLY_LOSSES, "--set", "score.provider=http", "--set", "score.model=m",
                   "--set", f"score.base_url={llm_server.openai_url}"]  # fmt: skip
        code, err = run(capsys, *command)
        assert code == 0, err
        assert defined(scores(out, "surprisal")) > 2
        assert set(llm_server.requests.values()) == {1}

    def test_a_server_without_them_fails_each_and_says_why(
        self, capsys: pytest.CaptureFixture[str], out: Path, llm_server: LlmServer
    ) -> None:
        command = ["score", "--out", out, *ONLY_LOSSES, "--set", "score.provider=http", "--set", "score.model=m",
                   "--set", f"score.base_url={llm_server.openai_url}"]  # fmt: skip
        code, err = run(capsys, *command)
        assert code == 2 and "gives no log-probabilities of the prompt" in err


def test_vectors_through_files(capsys: pytest.CaptureFixture[str], out: Path, tmp_path: Path) -> None:
    desk = tmp_path / "desk"
    command = ["score", "--out", out, *ONLY_VECTORS, "--embedder", "e", "--embed-provider", f"files:{desk}"]
    code, err = run(capsys, *command)
    assert code == 75 and "requests wait" in err
    lines = [json.loads(line) for line in (desk / "requests.jsonl").read_text().splitlines()]
    assert len({line["body"]["input"] for line in lines}) == len(lines)
    replies = []
    for number, line in enumerate(lines):
        text = line["body"]["input"]
        body = embeddings_reply(
            {"model": "e", "input": [text], "encoding_format": "float"}, lambda text: [1.0, len(text)]
        )
        whole = {"response": {"status_code": 200, "body": body}}
        replies.append({"custom_id": line["custom_id"]} | (whole if number % 2 else {"text": packed([1.0, len(text)])}))
    (desk / "responses.jsonl").write_text("".join(json.dumps(reply) + "\n" for reply in replies))
    assert run(capsys, *command)[0] == 0
    assert defined(scores(out, "embedding")) > 2


def test_losses_of_a_model_on_this_machine(capsys: pytest.CaptureFixture[str], out: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = save_model(tmp_path / "llm", window=2048, template=None)
    command = ["score", "--out", out, *ONLY_LOSSES, "--set", "score.provider=transformers:cpu", "--set", f"score.model={model}",
               "--set", "score.per_band=2", "--set", "score.silent=5"]  # fmt: skip
    code, err = run(capsys, *command)
    assert code == 0, err
    assert defined(scores(out, "surprisal")) > 2
    # One of the values by hand: both prompts in the plain form, the text's own tokens after them, one forward pass each.
    from autointerp.catalog.reading import read_vocabulary
    from autointerp.catalog.store import Catalog
    from autointerp.llm.local.prompts import Prompts
    from autointerp.prompts_loader import render
    from autointerp.score.surprisal import GENERIC

    ((window, value, description),) = catalog_rows(
        out, "SELECT window_id, value, description FROM judgements JOIN explanations USING (explanation_id) "
             "WHERE scorer = 'surprisal' AND control = '' ORDER BY window_id LIMIT 1",
    )  # fmt: skip
    with Catalog.open(out / "catalog.duckdb") as catalog:
        tokens = catalog.value("SELECT tokens FROM windows WHERE window_id = ?", [window])
        text = read_vocabulary(catalog).join(tokens).strip()
    prompts, network = Prompts(AutoTokenizer.from_pretrained(model)), AutoModelForCausalLM.from_pretrained(model)

    def loss(explanation: str) -> float:
        import torch

        before = prompts.encode(render("surprisal", explanation=explanation).messages)
        own = prompts.encode_continuation(text)
        with torch.inference_mode():
            logits = network(torch.tensor([[*before, *own]])).logits[0, len(before) - 1 : -1]
        return float(torch.nn.functional.cross_entropy(logits, torch.tensor(own)))

    assert value == pytest.approx(loss(GENERIC) - loss(description), abs=1e-4)


def test_vectors_of_a_model_on_this_machine(capsys: pytest.CaptureFixture[str], out: Path, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="the extra `embed` is not installed")
    embedder = save_embedder(tmp_path / "embedder", window=512)
    code, err = run(
        capsys,
        "score",
        "--out",
        out,
        *ONLY_VECTORS,
        "--embedder",
        embedder,
        "--embed-provider",
        "sentence-transformers:cpu",
    )
    assert code == 0, err
    assert defined(scores(out, "embedding")) > 2


def test_the_mock_knows_what_a_vector_and_a_loss_are() -> None:
    assert mock.mock_logprobs("one two", 3) == mock.mock_logprobs("one two", 3) != mock.mock_logprobs("one two", 4)
    assert "".join(token.token for token in mock.mock_logprobs(" a, b\n", 1)) == " a, b\n"
