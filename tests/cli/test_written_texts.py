"""Runs with the scorers whose texts a model writes: graded, derived anew without the subject model, tried anew."""

import json
from pathlib import Path

import pytest

from autointerp.errors import UserError
from autointerp.llm import Journal
from autointerp.llm.providers import mock
from autointerp.score import stage
from tests.cli.test_bad_input import options, run
from tests.cli.test_run import catalog_rows

SCORERS = ["simulation", "generation", "sensitivity", "responsiveness"]
MODEL = ["--explainer", "lexicon", "--simulator", "lexicon", "--provider", "mock", "--label-model", "mock"]
SCORES = (
    "SELECT scorer, feature_id, control, metric, value, lo, hi, n_ok, n_failed, status, reason FROM scores ORDER BY ALL"
)
TEXTS = "SELECT scorer, feature_id, control, number, wanted, text, peak, status, reason FROM written_texts ORDER BY ALL"


def samples(out: Path) -> list[int]:
    with Journal(out / "journal", read_only=True) as journal:
        return sorted(entry.sample for entry in journal.entries())


@pytest.fixture
def graded(capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object]) -> Path:
    out = tmp_path / "run"
    settings = options(tiny_settings, sample__features="0-8", score__control_features=2, score__scorers=SCORERS)
    code, err = run(capsys, "run", *settings, *MODEL, "--out", out)
    assert code == 0, err
    return out


def test_what_is_derived_anew_is_the_same_without_the_subject_model(
    graded: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, texts = catalog_rows(graded, SCORES), catalog_rows(graded, TEXTS)
    assert {row[0] for row in texts} == {"generation", "sensitivity"} and {row[0] for row in scores} == set(SCORERS)
    assert {row[2] for row in texts if row[0] == "generation"} >= {"", "shuffled"}
    assert {row[2] for row in texts if row[0] == "sensitivity"} == {""}
    assert all(row[-2] == "ok" and row[6] is not None for row in texts)

    def missing(*_: object) -> None:
        raise UserError("the weights are elsewhere")

    monkeypatch.setattr(stage, "open_bench", missing)
    code, err = run(capsys, "rederive", "--out", graded)
    assert code == 0, err
    assert (catalog_rows(graded, SCORES), catalog_rows(graded, TEXTS)) == (scores, texts)
    code, err = run(capsys, "score", *MODEL, "--out", graded, "--set", "score.resamples=200")
    assert code == 2 and err.strip().endswith("the weights are elsewhere")  # nothing is paid for first


def test_an_answer_with_faults_is_tried_anew_and_the_others_stay(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    tiny_settings: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = mock.mock_texts
    mends = False

    def careless(request: mock.Request, seed: int) -> str:
        answer = json.loads(honest(request, seed))
        if "silent" in answer and not mends:
            answer["silent"][1:] = answer["silent"][:1] * 2
        return json.dumps(answer)

    monkeypatch.setattr(mock, "mock_texts", careless)
    out = tmp_path / "run"
    settings = options(tiny_settings, sample__features="0-4", score__control_features=0, score__scorers=SCORERS[:3])
    code, err = run(capsys, "run", *settings, *MODEL, "--out", out)
    assert code == 0, err
    assert "malformed: the same text as another one" in err
    features = len(catalog_rows(out, "SELECT DISTINCT feature_id FROM written_texts WHERE scorer = 'generation'"))
    counts = "SELECT DISTINCT n_ok, n_failed FROM scores WHERE scorer = 'generation' AND metric = 'false_alarms'"
    assert features and catalog_rows(out, counts) == [(1, 9)]
    assert samples(out) == [0] * 2 * features + [1] * features  # generation and sensitivity; generation once more
    mends = True
    code, err = run(capsys, "retry", "--out", out)
    assert code == 0, err
    assert catalog_rows(out, counts) == [(10, 0)]
    assert samples(out)[3 * features :] == [1000] * features  # sensitivity is left alone
