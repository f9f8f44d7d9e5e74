"""Concepts planted in text, and what the metrics make of wrong labels of them."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from autointerp.cli import cli
from autointerp.evaluate import sanity
from autointerp.evaluate.concepts import FAMILIES, WINDOW, Corpus, Unit, read_corpus, units
from autointerp.evaluate.coverage import Noise, noisy, population, recovery
from autointerp.evaluate.metric_tables import sanity_table
from autointerp.evaluate.sanity import DESIGNS, Falls, bands_of, check, evidence_of, planted
from autointerp.score import metrics
from autointerp.score.pool import context_weights


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """600 windows of invented words of Zipf's frequencies, with numbers, in 60 documents."""
    rng = np.random.default_rng(0)
    names = [f"w{rank}" for rank in range(300)] + [str(number) for number in range(1, 100)]
    share = np.concatenate([1 / np.arange(2, 302), np.full(99, 0.02)])
    texts = (" ".join(rng.choice(names, 10 * WINDOW + 7, p=share / share.sum())) for _ in range(60))
    return read_corpus(texts, 600)


def test_a_corpus_is_cut_into_whole_windows() -> None:
    found = read_corpus([" ".join("ab" * 40), "c " * 64 + "d"], 2, 64)  # 80 letters: one window; 65 words: one window
    assert found.words.shape == (2, 64) and found.document.tolist() == [0, 1]
    assert [found.names[word] for word in found.words[0, :3]] == ["a", "b", "a"]
    assert set(found.words[1].tolist()) == {found.names.index("c")}
    with pytest.raises(ValueError, match="2 windows of 64 words; 3 are wanted"):
        read_corpus(["a " * 64, "b " * 64], 3, 64)


def test_wrong_labels_lack_a_part_or_claim_something_unrelated(corpus: Corpus) -> None:
    found = list(units(corpus, 3, seed=1))
    assert [unit.family for unit in found] == [family for family in FAMILIES for _ in range(3)]
    for unit in found:
        truth, missing, extra = int(unit.truth.sum()), int(unit.missing.sum()), int(unit.extra.sum())
        assert not (unit.missing & ~unit.truth).any() and 0 < missing < truth, unit.name
        assert not (unit.truth & ~unit.extra).any() and extra > 1.2 * truth, unit.name
    again = list(units(corpus, 3, seed=1))
    assert all((one.extra == other.extra).all() for one, other in zip(found, again, strict=True))
    assert [unit.name for unit in units(corpus, 3, seed=2)] != [unit.name for unit in found]


def test_what_the_families_mean(corpus: Corpus) -> None:
    by_family = {unit.family: unit for unit in units(corpus, 1, seed=0)}
    words = np.array(corpus.names)[corpus.words]
    word = by_family["word"]
    assert set(words[word.truth]) == {word.name.strip("'")}
    first, second = (name.strip("'") for name in by_family["either"].name.split(" or "))
    assert set(words[by_family["either"].truth]) == {first, second} and set(words[by_family["either"].missing]) == {
        first
    }
    context = by_family["context"]
    word_, other = (name.strip("'") for name in context.name.split(" after "))
    row, place = np.argwhere(context.truth)[0]
    assert words[row, place] == word_ and other in words[row, max(0, place - 8) : place]
    low, high = (int(part) for part in by_family["number"].name.removeprefix("numbers from ").split(" to "))
    assert {int(one) for one in words[by_family["number"].truth]} <= set(range(low, high + 1))
    assert 0.1 <= by_family["dense"].density <= 0.45
    assert set(np.flatnonzero(by_family["position"].truth.any(axis=1)) % 10) == {0}  # documents have ten windows


def _unit(truth: list[int], missing: list[int], extra: list[int], windows: int = 40) -> Unit:
    """Active at the first word of the given windows."""
    masks = [np.zeros((windows, WINDOW), bool) for _ in range(3)]
    for mask, rows in zip(masks, (truth, missing, extra), strict=True):
        mask[rows, 0] = True
    return Unit("by hand", "word", *masks)


def _corpus(windows: int = 40) -> Corpus:
    return Corpus(np.zeros((windows, WINDOW), np.int32), np.arange(windows, dtype=np.int32), ["w"])


def test_falls_by_hand() -> None:
    """Four active windows of 40. The label that lacks two of them has TPR 1/2; the one with four too many a precision of 1/2."""
    one = planted(_unit([0, 1, 2, 3], [0, 1], [0, 1, 2, 3, 4, 5, 6, 7]), _corpus(), seed=0)
    found = sanity.everything(one)
    assert found["f1"] == pytest.approx([1.0, 2 / 3, 2 / 3])
    assert found["balanced accuracy"] == pytest.approx([1.0, 0.75, 1 - 4 / (40 * WINDOW - 4) / 2])
    assert found["r"][0] == pytest.approx(metrics.pearson(one.activations.ravel(), 1.0 * one.unit.truth.ravel()).value)
    falls = {fall.metric: (fall.missing, fall.extra) for fall in check([one], DESIGNS[:1])}
    assert falls["f1"] == (True, True)
    assert falls["balanced accuracy"] == (True, False)  # four false alarms in 5,076 words hardly show


def test_an_extra_claim_that_no_sampled_window_shows_does_not_lower_a_score() -> None:
    """The strongest windows are the ten true ones; the extra claim is of one window in 2,000."""
    unit = _unit(list(range(10)), list(range(5)), [*range(10), 1999], windows=2000)
    falls = {fall.metric: fall for fall in check([planted(unit, _corpus(2000), seed=3)], [DESIGNS[2]])}
    assert falls["r"].missing and not falls["r"].extra


def test_bands_are_quantiles_of_the_active_windows() -> None:
    activations = np.zeros((12, WINDOW))
    activations[:10, 3] = [5, 1, 4, 2, 3, 10, 6, 9, 7, 8]
    assert bands_of(activations).tolist() == [3, 1, 2, 1, 2, 5, 3, 5, 4, 4, 0, 0]


def test_a_sample_of_all_windows_has_the_scores_of_the_population(corpus: Corpus) -> None:
    unit = next(iter(units(corpus, 1, seed=0)))
    one = planted(unit, corpus, seed=0)
    expected = noisy(one, Noise("some", 0.3, 1.0, 0.2))
    evidence = evidence_of(one, 10_000, 10_000, one.generator("all"))
    assert len(evidence.contexts) == 600
    true = np.concatenate([context.activations for context in evidence.contexts]).astype(np.float64)
    predicted = np.concatenate([expected[context.window_id] for context in evidence.contexts])
    strata = np.array([context.band for context in evidence.contexts])
    whole = population(one, expected)
    assert whole is not None
    for mode, name in (("balanced", "r_balanced"), ("corpus", "r_corpus")):
        weights = context_weights(evidence, strata, mode).values  # type: ignore[arg-type]
        assert weights is not None
        r = metrics.pearson(true, predicted, np.repeat(weights, WINDOW)).value
        assert r == pytest.approx(whole[name], abs=1e-6)


def test_intervals_hold_the_truth_and_estimates_are_unbiased(corpus: Corpus) -> None:
    """Up to 10 features (one that fires in every window is left out), 30 draws each: of 300 intervals 15 ± 4 miss."""
    chosen = [unit for unit in units(corpus, 2, seed=4) if unit.family != "dense"]
    found = recovery(corpus, chosen, Noise("some", 0.3, 1.5, 0.3), trials=30, per_band=5, silent=25, seed=0)
    for one in found:
        assert one.trials >= 240 and one.without <= 15
        assert 0.89 <= one.covered <= 0.995
        assert abs(one.bias) < 0.03 and one.covered + one.too_high + one.too_low == pytest.approx(1.0)


def test_the_table_says_who_is_fit() -> None:
    found = [Falls("all", "r", "word", 1e-3, True, hit < 9) for hit in range(10)] + [
        Falls("all", "x", "word", 0.5, False, True)
    ]
    table = sanity_table(found)
    assert next(name for name in table.header if "density" in name) == "extra claim, density 0 to 0.0003"
    rows = {row[1]: row for row in table.rows}
    assert rows["r"][2] == "1.00 (0.72 … 1.00)"  # Wilson, 10 of 10: 10/(10 + 1.96²) = 0.722
    assert rows["r"][4] == "yes" and rows["r"][7] == "0.90 of 10" and rows["x"][4] == "no"


def test_the_command_prints_both_tables_and_writes_them(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        cli,
        [
            "eval",
            "metrics",
            "--windows",
            "500",
            "--length",
            "64",
            "--units",
            "1",
            "--trials",
            "2",
            "--to",
            str(tmp_path),
        ],
    )
    assert done.exit_code == 0, done.output
    assert "r_corpus" in done.output and "careless" in done.output and done.output.splitlines()[-2].endswith(" s")
    written = (tmp_path / "metrics.md").read_text(encoding="utf-8")
    assert written.startswith("## does the score fall?") and "| r_balanced | careful |" in written


def test_a_corpus_that_is_too_small_is_said(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["eval", "metrics", "--windows", "900000"])
    assert done.exit_code != 0 and "900,000 are wanted" in str(done.output) + str(done.exception)
