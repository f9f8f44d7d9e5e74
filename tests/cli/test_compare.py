"""`autointerp compare`, on runs over the tiny model."""

import json
import shutil
from pathlib import Path

import duckdb
import pytest

from autointerp.catalog.store import Catalog
from autointerp.evaluate.comparison import compare
from autointerp.metric_names import parse_metric
from tests.cli.test_bad_input import options, run

MOCK = ["--provider", "mock", "--label-model", "mock"]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, tiny_settings: dict[str, object]) -> Path:
    """A run with the lexicon's labels, and others by a model, both scored; the latter by detection, too."""
    from click.testing import CliRunner

    from autointerp.cli import cli

    out = str(tmp_path_factory.mktemp("compare") / "run")
    fewer = options(tiny_settings, sample__features="0-9")
    for command in (
        ["sample", *fewer, "--out", out], ["explain", "--out", out], ["score", "--out", out],
        ["explain", "--out", out, *MOCK], ["score", "--out", out],
    ):  # fmt: skip
        result = CliRunner().invoke(cli, list(map(str, command)))
        assert result.exit_code == 0, result.output
    return Path(out)


def test_two_explainers_of_a_run(capsys: pytest.CaptureFixture[str], scored: Path, tmp_path: Path) -> None:
    code, _ = run(
        capsys, "compare", f"{scored}:lexicon", f"{scored}:highlighted", "--metric", "r_balanced", "--to", tmp_path
    )
    assert code == 0
    found = json.loads((tmp_path / "compare.json").read_text())
    assert found["metric"] == "r_balanced" and len(found["features"]) >= 5
    assert {one["contexts"] for one in found["features"]} == {"same"}
    for one in found["features"]:  # nothing failed, so the contexts in common are all
        assert one["difference"]["value"] == pytest.approx(one["first"] - one["second"])
    assert found["over"]["mean"]["value"] == pytest.approx(
        sum(one["difference"]["value"] for one in found["features"]) / len(found["features"])
    )
    assert "| feature |" in (tmp_path / "compare.md").read_text()


def test_the_other_way_round_is_the_negative(scored: Path) -> None:
    first = compare(f"{scored}:lexicon", f"{scored}:highlighted", metric=parse_metric("r_balanced"))
    second = compare(f"{scored}:highlighted", f"{scored}:lexicon", metric=parse_metric("r_balanced"))
    for one, other in zip(first.features, second.features, strict=True):
        assert one.difference.value == pytest.approx(-(other.difference.value or 0))
        assert one.difference.p == pytest.approx(other.difference.p) and one.q == pytest.approx(other.q)


def test_a_copy_is_the_same(scored: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(scored, tmp_path / "copy"))
    found = compare(f"{scored}:lexicon", f"{copy}:lexicon")
    assert {one.contexts for one in found.features} == {"same"}
    assert {one.difference.value for one in found.features} == {0.0}
    assert found.ranks is not None and found.ranks.kendall.value == pytest.approx(1)


def test_verdicts_and_stored_scores(scored: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(scored, tmp_path / "copy"))
    found = compare(str(scored), str(copy), metric=parse_metric("detection.balanced_accuracy"))
    assert found.metric == "balanced_accuracy" and {one.contexts for one in found.features} == {"same"}
    stored = compare(str(scored), str(copy), metric=parse_metric("auprc_corpus"))  # no function of sums
    assert {one.contexts for one in stored.features} == {"other"} and any(
        "stored scores" in note for note in stored.notes
    )


def test_simulations_that_do_not_make_up_the_score_are_not_paired(scored: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(scored, tmp_path / "copy"))
    connection = duckdb.connect(str(copy / "catalog.duckdb"))
    connection.execute("UPDATE scores SET value = value / 2 WHERE metric = 'r_balanced'")
    connection.close()
    found = compare(f"{scored}:lexicon", f"{copy}:lexicon", metric=parse_metric("r_balanced"))
    assert {one.contexts for one in found.features if abs(one.first) > 1e-4} == {"other"}


def test_another_corpus_or_seed_is_refused(
    capsys: pytest.CaptureFixture[str], scored: Path, tmp_path: Path, tiny_settings: dict[str, object]
) -> None:
    other = tmp_path / "other"
    settings = options(tiny_settings, sample__features="0-9", corpus__max_tokens=4000)
    assert run(capsys, "sample", *settings, "--out", other)[0] == 0
    assert run(capsys, "explain", "--out", other)[0] == 0 and run(capsys, "score", "--out", other)[0] == 0
    code, err = run(capsys, "compare", f"{scored}:lexicon", other)
    assert code == 2 and "the corpora differ" in err and "--unpaired" in err
    code, _ = run(capsys, "compare", f"{scored}:lexicon", other, "--unpaired")
    assert code == 0
    seeded = Path(shutil.copytree(scored, tmp_path / "seeded"))
    with Catalog.open(seeded / "catalog.duckdb", write=True) as catalog:
        catalog.rows("UPDATE stages SET config = replace(config, '\"seed\": 0', '\"seed\": 1') WHERE stage = 'sample'")
    code, err = run(capsys, "compare", f"{scored}:lexicon", f"{seeded}:lexicon")
    assert code == 2 and "the seeds differ (0 and 1)" in err


@pytest.mark.parametrize(
    ("side", "said"),
    [
        ("{run}x", "no such run folder"),
        ("{run}:nobody", "no scores by simulation of such labels; there are: "),
        ("{run}@nobody", "there are: "),
    ],
)
def test_sides_that_are_not_there(capsys: pytest.CaptureFixture[str], scored: Path, side: str, said: str) -> None:
    code, err = run(capsys, "compare", side.format(run=scored), scored)
    assert code == 2 and said in err and err.count("\n") == 1


def test_a_metric_that_is_not_there(capsys: pytest.CaptureFixture[str], scored: Path) -> None:
    code, err = run(capsys, "compare", scored, f"{scored}:lexicon", "--metric", "auroc")
    assert code == 2 and "no score auroc; there are: " in err
