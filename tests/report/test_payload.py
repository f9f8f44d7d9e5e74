"""How rows become the report's data: rounding, sharing, blocks, and words for what is missing."""

import base64
import json
import zlib
from dataclasses import replace

import duckdb
import pytest

from autointerp.catalog.page_rows import ContextQuota, Token, Window
from autointerp.catalog.pages import FeatureRow, feature_rows
from autointerp.report import blocks, payload
from autointerp.report.figures import figure
from tests.report.reading import Report


def _row(connection: duckdb.DuckDBPyConnection, feature: int) -> FeatureRow:
    return next(row for row in feature_rows(connection) if row.feature_id == feature)


def test_figures_have_four_digits_and_what_is_no_number_is_none() -> None:
    assert figure(0.123456) == 0.1235
    assert figure(123456.0) == 123500.0
    assert [figure(value) for value in (None, float("nan"), float("inf"))] == [None, None, None]


def test_activations_are_percent_of_the_maximum_and_never_round_to_zero(small_report: Report) -> None:
    # 0.1 of 50 is 0.2 %, shown as 1: a token that fires must not look silent.
    assert [payload._percent(a, 50.0) for a in (0.0, 0.1, 20.0, 49.9, 50.0)] == [0, 1, 40, 100, 100]


def test_simulated_values_are_tenths_and_gaps_stay_gaps() -> None:
    assert payload.simulated([0.0, 0.04, 0.06, 7.25, 10.0]) == [0, 0, 1, 72, 100]
    assert payload.simulated([float("nan"), 12.0, -1.0]) == [None, 100, 0]


def test_windows_are_numbered_once_and_cut_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "WINDOW_BLOCK", 2)
    dictionary = blocks.Dictionary()
    held = [Window(10, "a", 0, [7, 8]), Window(20, "b", 64, [8, 9]), Window(30, "a", 64, [7, 7])]
    dictionary.add_windows([held[0], held[1], held[0]])
    assert dictionary.windows == {10: 0, 20: 1}
    first = list(dictionary.window_blocks())
    dictionary.add_windows([held[2]])
    assert list(dictionary.window_blocks()) == []
    rest = list(dictionary.window_blocks(last=True))
    assert [block.name for block in first + rest] == ["windows-0", "windows-1"]
    assert _read(first[0]) == {"documents": [0, 1], "starts": [0, 64], "tokens": [[0, 1], [1, 2]]}
    assert _read(rest[0]) == {"documents": [0], "starts": [64], "tokens": [[0, 0]]}
    known = {7: Token(7, "x", b"x"), 8: Token(8, "<eos>", b""), 9: Token(9, "?", b"\xe2")}
    assert _read(dictionary.block(known)) == {
        "tokens": ["x", "<eos>", "⟨E2⟩"], "ids": [7, 8, 9], "documents": ["a", "b"],
    }  # fmt: skip


def _read(block: blocks.Block) -> object:
    return json.loads(zlib.decompress(base64.b64decode(block.data)))


def test_a_token_that_the_vocabulary_lacks_is_shown_by_its_number() -> None:
    assert blocks.token_display(12, {}) == "⟨token 12⟩"


def test_a_missing_score_is_explained_in_words(small_catalog: duckdb.DuckDBPyConnection) -> None:
    scored, undefined = _row(small_catalog, 0), _row(small_catalog, 4)
    failed, dead = _row(small_catalog, 3), _row(small_catalog, 23)
    assert payload.problem(scored) is None
    assert payload.problem(undefined) == "undefined: the simulated activations are constant"
    assert payload.problem(failed) == "no label: malformed: the answer is not JSON"
    assert payload.problem(dead) == "dead: never fires"
    assert payload.problem(replace(dead, flag="rare")) == "not labelled: too rare"
    assert payload.problem(replace(dead, flag=None)) == "not labelled"
    assert payload.problem(replace(undefined, score_status=None)) == "not scored"
    assert payload.problem(replace(undefined, score_status="failed", score_reason=None)) == "failed: no reason recorded"
    assert payload.problem(replace(scored, score=float("nan"))) == "undefined: the score is not a finite number"


def test_the_default_quota_is_what_people_read() -> None:
    assert ContextQuota() == ContextQuota(top=8, band=2, random=4, silent=2, negatives=2)
