"""`autointerp eval reliability`, over the tiny model and the mock provider."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from autointerp.catalog.reading import EvidenceReader
from autointerp.catalog.store import Catalog
from autointerp.evaluate.reliability import DRAWS, half_of
from autointerp.score.pool import scored_contexts
from tests.cli.test_bad_input import options, run

CROSSED = ["--provider", "mock", "--label-model", "mock", "--explainer", "highlighted", "--by", "logprob_free@mock-a", "--by",
           "logprob_free@mock-b", "--set", "score.silent=8"]  # fmt: skip


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory, tiny_settings: dict[str, object]) -> Path:
    from autointerp.cli import cli

    out = tmp_path_factory.mktemp("reliability") / "run"
    result = CliRunner().invoke(
        cli, ["sample", *options(tiny_settings, sample__per_band=20, sample__pool=80), "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    return out


def journalled(folder: Path) -> int:
    return sum(path.read_text().count("\n") for path in (folder / "journal").glob("*.jsonl"))


def test_crossed_with_two_models_and_again(capsys: pytest.CaptureFixture[str], sampled: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in sampled.rglob("*") if path.is_file()}
    chosen = ["eval", "reliability", sampled, *CROSSED, "--features", 6, "--out", tmp_path / "study"]
    code, err = run(capsys, *chosen, "--to", tmp_path / "first")
    assert code == 0, err
    found = json.loads((tmp_path / "first" / "reliability.json").read_text())
    scores = np.array(found["scores"], dtype=float)
    assert scores.shape == (6, 2, 3, 2) and found["simulators"][1] == {"simulator": "logprob_free", "model": "mock-b"}
    whole = scores[np.isfinite(scores).all(axis=(1, 2, 3))]
    assert len(whole) >= 2
    for axis in (1, 2):  # other contexts, other labels
        assert np.ptp(whole, axis=axis).max() > 1e-6
    assert np.ptp(whole, axis=3).max() == 0  # the mock answers alike whatever its model is called, but both were asked
    asked = "".join(path.read_text() for path in (tmp_path / "study" / "journal").glob("*.jsonl"))
    counts = [asked.count(f'"model":"mock-{name}"') for name in "ab"]
    assert counts[0] == counts[1] >= 2 * 3 * len(whole)  # a request for each draw and label
    assert "draw of contexts" in (tmp_path / "first" / "reliability.md").read_text()
    assert {path: path.stat().st_mtime_ns for path in before} == before  # the run is only read

    answers = journalled(tmp_path / "study")
    assert answers > 0 and run(capsys, *chosen, "--to", tmp_path / "second")[0] == 0
    assert journalled(tmp_path / "study") == answers
    assert (tmp_path / "second" / "reliability.json").read_text() == (
        tmp_path / "first" / "reliability.json"
    ).read_text()


def test_the_lexicon_without_a_model(capsys: pytest.CaptureFixture[str], sampled: Path, tmp_path: Path) -> None:
    chosen = [
        "eval",
        "reliability",
        sampled,
        "--explainer",
        "lexicon",
        "--out",
        tmp_path / "study",
        "--to",
        tmp_path / "to",
    ]
    code, err = run(capsys, *chosen, "--samples", 2, "--set", "score.silent=8")
    assert code == 0, err
    found = json.loads((tmp_path / "to" / "reliability.json").read_text())["reliability"]
    assert found["components"]["explanation"]["share"] == pytest.approx(0)  # its labels do not vary
    assert found["components"]["feature x simulator"]["variance"] is None and 0 < found["icc"]["share"] <= 1


def test_the_two_draws_are_disjoint_and_of_one_size(sampled: Path) -> None:
    with Catalog.open(sampled / "catalog.duckdb") as catalog:
        for evidence in EvidenceReader(catalog, seed=0, silent=16).read([0, 1, 2], ("test",)):
            halves = [scored_contexts(half_of(evidence, draw, 5, 8)) for draw in range(DRAWS)]
            windows = [{one.window_id for one in half} for half in halves]
            assert windows[0] and not windows[0] & windows[1]
            bands = [sorted(one.band for one in half) for half in halves]
            assert bands[0] == bands[1] and max(bands[0].count(band) for band in set(bands[0]) - {0}) <= 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--by", "lexicon", "--by", "lexicon"], "expected different ones"),
        (["--by", "logprob_free", "--explainer", "lexicon"], "asks a model; name it: logprob_free@MODEL"),
        (["--by", "nobody"], "nobody"),
        (["--explainer", "lexicon", "--metric", "auroc"], "--metric auroc: expected one of the scorer simulation"),
    ],
)
def test_what_cannot_be_crossed(
    capsys: pytest.CaptureFixture[str], sampled: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    code, err = run(capsys, "eval", "reliability", sampled, *arguments, "--samples", 1, "--out", tmp_path / "study")
    assert code == 2 and said in err.splitlines()[-1], err
