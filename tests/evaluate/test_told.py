"""What `eval explainers` says beside its tables: who labelled, and why something failed."""

from pathlib import Path

import pytest

from autointerp.config_reading import load_config
from autointerp.evaluate import evaluate, load_suite
from autointerp.evaluate.tables import heading, notes
from autointerp.reasons import alike, in_short


def told(explainer: str, folder: Path) -> tuple[str, list[str]]:
    given = {"explain.explainer": explainer, "explain.provider": "mock", "explain.model": "mock"}
    suite = [feature for feature in load_suite(None) if feature.family == "numeric"][:4]
    findings = evaluate(load_config(None, given), folder, suite)
    return heading(findings), notes(findings)


def test_failures_have_their_reasons(tmp_path: Path) -> None:
    _, said = told("single_token", tmp_path)
    lines = [note for note in said if "labels failed: " in note]
    assert len(lines) == 1 and "no_evidence: its strongest token, " in lines[0]


def test_an_investigation_without_a_subject_model_is_named_as_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    title, said = told("investigate", tmp_path)
    assert title.startswith("explainer investigate (as refine, without a subject model), simulator ")
    assert not any("failed" in note for note in said)


def test_reasons_that_differ_by_words_in_quotes_and_figures_are_one() -> None:
    reasons = ['no "a" in 3 lines', 'no "b\\"c" in 1,250 lines', "the moon", "the moon", "the moon", "x", "y", "z"]
    sorts = alike(reasons)
    assert [(one.reason, one.various, one.n) for one in sorts][:2] == [
        ("the moon", False, 3),
        ('no "a" in 3 lines', True, 2),
    ]
    assert in_short(sorts) == 'the moon (3); for instance no "a" in 3 lines (2); x (1); and 2 other reasons'
    assert in_short(sorts[:1]) == "the moon"
