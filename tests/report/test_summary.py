"""The head: facts, warnings, and the geometry of the chart of scores."""

import json
from dataclasses import replace

import duckdb
import pytest

from autointerp.catalog.authors import Author
from autointerp.catalog.pages import BIN_WIDTH, Counts, FailureRow, ScoreBin
from autointerp.catalog.run_facts import Conformance, RunFacts
from autointerp.report.distribution import UPPER, WIDTH, draw
from autointerp.report.scores import Estimate
from autointerp.report.summary import _authors, _facts, _warnings, summarise
from autointerp.report.words import interval, signed
from autointerp.score.scoreboard import Line
from autointerp.score.spread import Spread

COUNTS = Counts(
    n_features=100, n_labelled=99, n_scored=98, n_undefined=1, n_score_failed=0, n_dead=1, n_rare=0, n_dense=0,
    median=0.5, shuffled_median=0.01, n_shuffled=98, median_contexts=50.0, median_rank_interval=12.0,
    n_lexical=0, n_above_lexicon=0,
)  # fmt: skip
LINE = Line("simulation", "r_corpus", True, Spread(98, 0.5, 0.45, 0.55), 0, 0, 0.0, Spread(98, 0.01, -0.02, 0.03), True)


def _say(
    run: RunFacts | None = None,
    line: Line = LINE,
    counts: Counts = COUNTS,
    failed: list[FailureRow] | None = None,
) -> str:
    return "\n".join(_warnings(run or RunFacts(), [line], counts, failed or []))


def test_a_sound_run_has_no_warning() -> None:
    assert _say(RunFacts(conformance=Conformance(31.0, 32.0, 0.2, 20000))) == ""


def test_whether_a_control_fails_is_for_the_gates_alone_to_say() -> None:
    """Medians that overlap are no finding: the gates compare feature by feature."""
    assert _say(line=replace(LINE, shuffled=Spread(98, 0.47, 0.4, 0.6))) == ""


def test_scores_without_a_control_or_on_few_contexts_are_warned_of() -> None:
    assert "Shuffled labels were not scored" in _say(line=replace(LINE, shuffled=None))
    assert _say(line=replace(LINE, shuffled=None, of_label=False)) == ""  # there is no label to shuffle
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


def test_scorers_that_asked_the_same_model_share_a_line() -> None:
    asked = [Author(name, "m", "mock") for name in "abcde"]
    facts = [(fact.value, fact.note) for fact in _authors("Scores", [*asked, Author("f", None, None)])]
    assert facts == [("a, b, c and 2 more", "model m, provider mock"), ("f", "no model asked")]


def test_the_scores_are_in_the_head(fresh: duckdb.DuckDBPyConnection) -> None:
    """Against medians worked out here; a control that was switched off is not measured, though its scores are there."""
    line, second = summarise(fresh, 8).scores
    query = "SELECT value FROM scores WHERE score_key = 'contrast' AND metric = 'r_balanced' AND control = 'shuffled'"
    values = [value for (value,) in fresh.execute(query).fetchall()]
    assert (second.metric, second.ranks, second.shuffled) == ("r_corpus", False, None)
    assert (line.scorer, line.metric, line.ranks, line.chance) == ("simulation", "r_balanced", True, "0.00")
    assert (line.n, line.n_undefined, line.n_failed, line.n_shuffled) == ("5", "1", "0", "5")
    assert line.shuffled == Estimate(signed(sorted(values)[2]), "")  # five features have no interval
    settings = json.dumps({"controls": ["generic"]})
    fresh.execute("UPDATE stages SET config = ? WHERE stage = 'score'", [settings])
    line = summarise(fresh, 8).scores[0]
    assert line.shuffled is None and line.without == "not measured"


def test_a_long_reason_is_cut() -> None:
    said = _say(failed=[FailureRow("score", "failed", "x" * 200, 1)])
    assert f"({'x' * 79}…)" in said


def test_without_any_score_the_order_is_said_to_mean_nothing() -> None:
    assert "not by quality" in _say(counts=replace(COUNTS, n_scored=0))
    assert _say(counts=replace(COUNTS, n_scored=0, n_features=0)) == ""


def test_the_lead_and_the_tallies(small_catalog: duckdb.DuckDBPyConnection) -> None:
    found = summarise(small_catalog, 24)
    assert found.lead.startswith("24 features of demo/sae on demo/python-lm")
    assert [(t.name, t.value) for t in found.tallies][:3] == [("features", "24"), ("labelled", "22"), ("scored", "21")]


def test_paths_of_a_machine_are_shown_by_their_last_part(small_catalog: duckdb.DuckDBPyConnection) -> None:
    from autointerp.report.summary import _name

    assert [_name(text) for text in ("/home/me/sae-8k", "google/gemma-scope", r"C:\models\sae")] == [
        "sae-8k", "google/gemma-scope", "sae",
    ]  # fmt: skip


def test_signed_numbers_have_a_true_minus_and_no_negative_zero() -> None:
    assert [signed(value) for value in (0.456, -0.456, -0.001, 0.0)] == ["0.46", "−0.46", "0.00", "0.00"]


def test_an_interval_has_both_ends_or_is_empty() -> None:
    assert [interval(-0.001, 0.5), interval(None, 0.5), interval(0.1, None, 3)] == ["0.00 to 0.50", "", ""]


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
