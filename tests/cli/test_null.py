"""Controls from the command line: random directions and p-values, ranking by any metric, gates in terminal and catalog."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from scipy.stats import spearmanr

from autointerp.catalog.digest import table_digests
from autointerp.catalog.store import Catalog
from autointerp.cli import cli
from tests.cli.test_bad_input import options, run


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, tiny_settings: dict[str, object]) -> Path:
    folder = tmp_path_factory.mktemp("controls") / "run"
    arguments = ["run", *options(tiny_settings, score__random_directions=12), "--out", str(folder)]
    found = CliRunner().invoke(cli, [str(one) for one in arguments], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return folder


def rows(out: Path, query: str) -> list[tuple]:
    with Catalog.open(out / "catalog.duckdb") as catalog:
        return catalog.rows(query)


def test_p_values_are_of_the_null_scores_that_are_kept(out: Path) -> None:
    found = rows(out, "SELECT score, p_random, q_random FROM catalog WHERE score IS NOT NULL")
    null = [
        value for (value,) in rows(out, "SELECT value FROM null_scores WHERE metric = 'r_corpus' AND value IS NOT NULL")
    ]
    assert len(found) >= 10 and len(null) >= 8
    for score, p, q in found:
        assert p == (1 + sum(value >= score for value in null)) / (1 + len(null)) and p <= q <= 1
    assert rows(out, "SELECT count(*) FROM scores WHERE control <> '' AND p_random IS NOT NULL") == [(0,)]
    keys = rows(out, "SELECT DISTINCT score_key FROM null_scores")
    assert keys == rows(out, "SELECT DISTINCT score_key FROM scorings")


def test_gates_are_in_the_catalog(out: Path) -> None:
    found = dict(rows(out, "SELECT control, n FROM controls WHERE metric = 'r_corpus'"))
    assert {"shuffled", "over_shuffled", "permuted_across", "permuted_within", "over_permuted_within", "breadth", "oracle",
            "random_directions", "over_random_directions"} == found.keys()  # fmt: skip
    assert "generic" not in found  # the lexicon simulator cannot read it
    assert found["permuted_across"] == rows(out, "SELECT count(score) FROM catalog")[0][0]


def test_again_it_costs_nothing(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    with Catalog.open(out / "catalog.duckdb") as catalog:
        before = table_digests(catalog)
    code, err = run(capsys, "null", "--out", out, "--directions", 12)
    assert code == 0 and "harvest" not in err and "/s)" not in err
    with Catalog.open(out / "catalog.duckdb") as catalog:
        assert table_digests(catalog) == before
    code, err = run(capsys, "null", "--out", out, "--directions", 13)
    assert code == 2 and "12 random directions, and 13 are asked for" in err


def test_too_few_directions_to_tell_a_label_from_them_are_no_finding(out: Path) -> None:
    told = CliRunner().invoke(cli, ["score", "--out", str(out)]).stdout
    [(count,)] = rows(out, "SELECT n FROM controls WHERE metric = 'r_corpus' AND control = 'random_directions'")
    line = next(
        line for line in told.splitlines() if line.startswith("labels not told from those of random directions")
    )
    assert count < 19 and f"; with {count} random directions q is {1 / (1 + count):.2f} or more" in line


def test_without_scores_there_is_nothing_to_compare(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object]
) -> None:
    assert run(capsys, "sample", *options(tiny_settings), "--out", tmp_path / "run")[0] == 0
    code, err = run(capsys, "null", "--out", tmp_path / "run")
    assert code == 2 and "run first: autointerp score" in err


def test_rank_by_any_metric(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    for given, scorer, metric in (
        ("simulation.f1_corpus", "simulation", "f1_corpus"),
        ("r_balanced", "simulation", "r_balanced"),
    ):
        assert run(capsys, "score", "--out", out, "--rank-by", given)[0] == 0
        lows = [lo for (lo,) in rows(out, "SELECT lo FROM catalog WHERE rank IS NOT NULL ORDER BY rank")]
        assert lows == sorted(lows, reverse=True) and len(lows) >= 10
        assert {value for (value,) in rows(out, "SELECT DISTINCT metric FROM catalog WHERE metric IS NOT NULL")} == {
            metric
        }
        key = rows(out, f"SELECT score_key FROM scorings WHERE scorer = '{scorer}'")
        assert rows(out, "SELECT score_key FROM ranking") == key
        assert rows(out, "SELECT count(p_random) FROM catalog")[0][0] >= 10
    kept = (out / "config.json").read_text()
    for given, message in (
        ("auprc_corpus", "no metric to rank labels by; expected one of: r_corpus, r_balanced, r2_uncentred"),
        ("quantisation_ceiling", "no metric to rank labels by"), ("lexical_gain_corpus", "no metric to rank labels by"),
        ("detection.", "names no metric"), ("detection.balanced_accuracy", "expected detection among them"),
    ):  # fmt: skip
        for command in ("score", "run", "null", "retry", "rederive"):
            code, err = run(capsys, command, "--out", out, "--rank-by", given)
            assert code == 2 and message in err and "quantisation_ceiling," not in err, err
            assert (out / "config.json").read_text() == kept and "score:" not in err
    assert run(capsys, "score", "--out", out, "--rank-by", "r_corpus")[0] == 0


def test_features_are_ranked_by_what_is_said_of_themselves(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    mock = ("--provider", "mock", "--label-model", "mock", "--set", "score.scorers=sensitivity")
    code, err = run(capsys, "score", "--out", out, "--explainer", "lexicon", *mock, "--rank-by", "sensitivity.fires")
    assert code == 0, err
    ranked = rows(out, "SELECT count(rank), count(rank) FILTER (score IS NULL OR lo IS NULL) FROM catalog")[0]
    assert ranked[0] >= 5 and ranked[1] == 0
    again = ("--set", "score.scorers=simulation", "--rank-by", "r_corpus")
    assert run(capsys, "score", "--out", out, "--explainer", "lexicon", *again)[0] == 0


def test_a_swapped_simulator_is_compared(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    """The same labels scored by another simulator, then by the first again: both orders are compared, and nothing is lost."""
    mock = ("--explainer", "lexicon", "--simulator", "logprob_free", "--provider", "mock", "--label-model", "mock")
    code, err = run(capsys, "score", "--out", out, *mock, "--set", "score.scorers=simulation", "--set", "score.silent=20",
                    "--set", "score.control_features=3")  # fmt: skip
    assert code == 0, err
    other = rows(out, "SELECT value, n, reason, passed FROM controls WHERE control = 'swap' AND metric = 'r_corpus'")
    assert len(other) == 1 and other[0][2].endswith("rank correlation with lexicon's scores") and other[0][3] is None
    values = rows(
        out,
        """SELECT a.value, b.value FROM scores a JOIN scores b USING (feature_id, metric, control)
        WHERE metric = 'r_corpus' AND control = '' AND a.score_key <> b.score_key AND a.simulator = 'lexicon'
        AND b.simulator = 'logprob_free' AND a.value IS NOT NULL AND b.value IS NOT NULL""",
    )
    assert other[0][1] == len(values) > 5
    assert other[0][0] == pytest.approx(spearmanr(*zip(*values, strict=True)).statistic)
    generic = rows(out, "SELECT DISTINCT explanation_id FROM scores WHERE control = 'generic'")
    assert generic == [("generic",)] and rows(out, "SELECT DISTINCT control FROM simulations ORDER BY 1") == [
        ("",), ("generic",), ("shuffled",)]  # fmt: skip
    # Three features in either control, those of the smaller one among those of the larger.
    both = rows(out, "SELECT count(DISTINCT feature_id) FROM simulations WHERE control IN ('generic', 'shuffled') "
                     "AND simulator = 'logprob_free'")  # fmt: skip
    assert both == [(3,)]
    assert rows(out, "SELECT count(p_random) FROM catalog") == [(0,)]  # nothing random was graded by this simulator
    assert run(capsys, "score", "--out", out, "--simulator", "lexicon", "--set", "score.silent=100")[0] == 0
    assert rows(out, "SELECT n FROM controls WHERE control = 'swap' AND metric = 'r_corpus'") == [(len(values),)]
