"""The head: facts, warnings, and the geometry of the chart of scores."""

from dataclasses import replace

import duckdb
import pytest

from autointerp.catalog.pages import BIN_WIDTH, Counts, FailureRow, ScoreBin
from autointerp.catalog.run_facts import Conformance, RunFacts, ScoreFacts
from autointerp.report.distribution import UPPER, WIDTH, draw
from autointerp.report.summary import _facts, _warnings, read_metric, signed, summarise

COUNTS = Counts(
    n_features=100, n_labelled=99, n_scored=98, n_undefined=1, n_score_failed=0, n_dead=1, n_rare=0, n_dense=0,
    median=0.5, shuffled_median=0.01, n_shuffled=98, median_contexts=50.0, median_rank_interval=12.0,
    n_lexical=0, n_above_lexicon=0,
)  # fmt: skip
SCORES = ScoreFacts("r_balanced", 98, 0.5, 0.45, 0.55, 0.01, -0.02, 0.03)


def _say(
    run: RunFacts | None = None,
    scores: ScoreFacts = SCORES,
    counts: Counts = COUNTS,
    failed: list[FailureRow] | None = None,
) -> str:
    return "\n".join(_warnings(run or RunFacts(), scores, counts, failed or []))


def test_a_sound_run_has_no_warning() -> None:
    assert _say(RunFacts(conformance=Conformance(31.0, 32.0, 0.2, 20000))) == ""


def test_a_control_as_good_as_the_labels_is_said_to_fail() -> None:
    assert "The control fails" in _say(scores=replace(SCORES, shuffled_median=0.44, shuffled_median_hi=0.46))
    assert "The control fails" not in _say(scores=replace(SCORES, shuffled_median=0.4, shuffled_median_hi=0.44))


def test_a_control_off_chance_is_warned_of() -> None:
    off = replace(SCORES, shuffled_median=0.2, shuffled_median_lo=0.15, shuffled_median_hi=0.25)
    assert "median of 0.20 where 0.00 is expected" in _say(scores=off)
    # The same value is below chance for an area under a ROC curve, whose chance value is 0.5.
    assert "where 0.50 is expected" in _say(scores=replace(off, metric="auroc"))
    assert "expected" not in _say(scores=replace(off, metric="auroc", shuffled_median=0.52, shuffled_median_hi=0.44))


def test_scores_without_a_control_or_on_few_contexts_are_warned_of() -> None:
    none = replace(SCORES, shuffled_median=None, shuffled_median_lo=None, shuffled_median_hi=None)
    assert "No control was run" in _say(scores=none, counts=replace(COUNTS, shuffled_median=None, n_shuffled=0))
    assert "median of 10 contexts" in _say(counts=replace(COUNTS, median_contexts=10.0))


def test_labels_no_better_than_the_lexicon_are_counted() -> None:
    def said(n: int) -> str:
        return _say(counts=replace(COUNTS, n_lexical=98, n_above_lexicon=n))

    assert "Only 40 of 98 labels predict clearly better than the lexicon, which has" in said(40)
    assert "Only 1 of 98 labels predicts clearly better" in said(1)
    assert "None of 98 labels predicts clearly better" in said(0)


@pytest.mark.parametrize(
    ("gate", "word"),
    [
        (Conformance(50.0, 32.0, 0.2, 1), "50 active features a token where 32 were expected"),
        (Conformance(32.0, 32.0, 0.8, 1), "80% of the variance"),
        (Conformance(0.0, 32.0, 0.2, 1, "no feature fires"), "The conformance gate found: no feature fires."),
    ],
)
def test_a_poor_fit_of_the_sae_is_warned_of(gate: Conformance, word: str) -> None:
    assert word in _say(RunFacts(conformance=gate))


def test_the_loss_recovered_is_a_fact_where_it_was_measured() -> None:
    def fact(**loss: object) -> list[tuple[str, str]]:
        run = RunFacts(conformance=Conformance(31.0, 32.0, 0.2, 20000, **loss))
        return [(f.value, f.note) for f in _facts(run) if f.name == "Loss recovered"]

    assert fact() == []
    measured = {"loss_recovered": 0.984, "loss_recovered_mean": 0.97, "loss_plain": 3.053, "loss_sae": 3.13}
    assert fact(**measured) == [
        (
            "98.4%",
            "against zeros in the hidden state's place; 97.0% against its mean; 3.053 nats a token, 3.130 with the SAE",
        )
    ]
    assert fact(loss_recovered=0.5) == [("50.0%", "against zeros in the hidden state's place")]
    assert fact(loss_reason="no hook\x1b") == [("undefined", "no hook⟨U+001B⟩")]


def test_failures_are_counted_in_one_sentence() -> None:
    failed = [FailureRow("explanation", "failed", "malformed", 3), FailureRow("score", "undefined", "constant", 1)]
    assert "3 explanations failed (malformed), 1 score undefined (constant)" in _say(failed=failed)


def test_who_labelled_and_scored_is_among_the_facts(fresh: duckdb.DuckDBPyConnection) -> None:
    def facts() -> list[tuple[str, str, str]]:
        return [
            (one.name, one.value, one.note) for one in summarise(fresh, 24).facts if one.name in ("Labels", "Scores")
        ]

    assert facts() == [
        ("Labels", "contrast", "model gpt-oss-120b"), ("Scores", "simulation by logprob_free", "model gpt-oss-120b"),
    ]  # fmt: skip
    fresh.execute("UPDATE spend SET provider = CASE purpose WHEN 'explain' THEN 'openai' ELSE 'http' END")
    assert facts() == [
        ("Labels", "contrast", "model gpt-oss-120b, provider openai"),
        ("Scores", "simulation by logprob_free", "model gpt-oss-120b, provider http"),
    ]
    fresh.execute("UPDATE ranking SET explainer_key = 'lexicon', score_key = NULL; DELETE FROM scorings")
    assert facts() == [("Labels", "lexicon", "no model asked")]


def test_the_medians_of_detection_are_in_the_head(fresh: duckdb.DuckDBPyConnection) -> None:
    assert summarise(fresh, 24).detection is None
    known = '{"metric": "r_balanced", "detection": 0.71, "detection_lo": 0.65, "detection_hi": 0.8, "shuffled_detection": 0.5}'
    fresh.execute("UPDATE stages SET facts = ? WHERE stage = 'score'", [known])
    found = summarise(fresh, 24)
    assert found.detection is not None and found.shuffled_detection is not None
    assert (found.detection.value, found.detection.interval) == ("0.71", "0.65 to 0.80")
    assert (found.shuffled_detection.value, found.shuffled_detection.interval) == ("0.50", "")


def test_a_long_reason_is_cut() -> None:
    said = _say(failed=[FailureRow("score", "failed", "x" * 200, 1)])
    assert f"({'x' * 79}…)" in said


def test_without_any_score_the_order_is_said_to_mean_nothing() -> None:
    assert "not by quality" in _say(scores=ScoreFacts(), counts=replace(COUNTS, n_scored=0))
    assert _say(scores=ScoreFacts(), counts=replace(COUNTS, n_scored=0, n_features=0)) == ""


def test_medians_fall_back_to_those_of_the_catalog(small_catalog: duckdb.DuckDBPyConnection) -> None:
    found = summarise(small_catalog, 24)
    assert found.median is not None
    assert (found.median.value, found.median.interval) == ("0.57", "0.54 to 0.61")
    assert found.lead.startswith("24 features of demo/sae on demo/python-lm")
    assert [(t.name, t.value) for t in found.tallies][:3] == [("features", "24"), ("labelled", "22"), ("scored", "21")]


def test_paths_of_a_machine_are_shown_by_their_last_part(small_catalog: duckdb.DuckDBPyConnection) -> None:
    from autointerp.report.summary import _name

    assert [_name(text) for text in ("/home/me/sae-8k", "google/gemma-scope", r"C:\models\sae")] == [
        "sae-8k", "google/gemma-scope", "sae",
    ]  # fmt: skip


def test_signed_numbers_have_a_true_minus_and_no_negative_zero() -> None:
    assert [signed(value) for value in (0.456, -0.456, -0.001, 0.0)] == ["0.46", "−0.46", "0.00", "0.00"]


def test_metrics_know_their_chance_value() -> None:
    assert [read_metric(name).chance for name in ("r_balanced", "auroc", "balanced_accuracy")] == [0.0, 0.5, 0.5]


def test_the_chart_spans_zero_to_one_and_scales_each_side_to_itself() -> None:
    chart = draw([ScoreBin(-0.1, 0, 4), ScoreBin(0.0, 1, 2), ScoreBin(0.5, 10, 0)], 0.5, 0.0)
    # The axis runs from −0.2 to 1.0: 0.5 stands at 0.7 / 1.2 of its width.
    assert chart.median_x == pytest.approx(0.7 / 1.2 * WIDTH, abs=0.01)
    assert [tick.text for tick in chart.ticks] == ["−0.2", "0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert max(bar.height for bar in chart.real) == UPPER - 4
    assert [bar.y + bar.height for bar in chart.real] == pytest.approx([UPPER, UPPER])
    assert all(bar.y == UPPER for bar in chart.shuffled)
    assert (chart.n_real, chart.n_shuffled) == (11, 6)
    assert all(bar.width == pytest.approx(BIN_WIDTH / 1.2 * WIDTH - 1, abs=0.02) for bar in chart.real)
    assert chart.shuffled[0].words == "−0.10 to −0.05: 4 with shuffled labels"
