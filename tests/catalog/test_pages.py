"""The queries behind pages, against plain Python over the same tables."""

import json
import math
from collections.abc import Iterator
from statistics import median

import duckdb
import pytest

from autointerp.catalog import pages
from autointerp.catalog.controls import switched_off
from autointerp.catalog.feature_pages import feature_pages, vocabulary, windows
from autointerp.catalog.main_metrics import main_metrics, main_of
from autointerp.catalog.page_rows import ContextQuota, ContextRow, FeaturePage
from autointerp.catalog.run_facts import Conformance, RunFacts, run_facts
from tests.report.synthetic import build_catalog, empty_catalog, insert

N = 16


@pytest.fixture(scope="module")
def catalog() -> Iterator[duckdb.DuckDBPyConnection]:
    with build_catalog(N, 200) as connection:
        yield connection


@pytest.fixture
def empty() -> Iterator[duckdb.DuckDBPyConnection]:
    with empty_catalog() as connection:
        yield connection


def _page(connection: duckdb.DuckDBPyConnection, feature: int, quota: ContextQuota | None = None) -> FeaturePage:
    row = next(row for row in pages.feature_rows(connection) if row.feature_id == feature)
    return feature_pages(connection, [row], quota)[0]


def _of(page: FeaturePage, kind: str) -> list[ContextRow]:
    return [context for context in page.contexts if context.kind == kind]


def test_rows_come_best_first_and_those_without_a_score_last(catalog: duckdb.DuckDBPyConnection) -> None:
    rows = pages.feature_rows(catalog)
    ranked = [row for row in rows if row.rank is not None]
    assert [row.rank for row in ranked] == list(range(1, N - 2))  # 3 failed, 4 undefined, N-1 dead
    assert [row.lo for row in ranked] == sorted((row.lo for row in ranked if row.lo is not None), reverse=True)
    assert [row.feature_id for row in rows[len(ranked) :]] == [3, 4, N - 1]
    assert all(row.score is None and row.lo is None for row in rows[len(ranked) :])
    assert pages.feature_rows(catalog, limit=3) == rows[:3]


def test_a_ranking_by_scores_of_the_feature_itself_is_shown() -> None:
    """They stand under no explanation."""
    with build_catalog(6, 120) as connection:
        before = [(row.feature_id, row.score) for row in pages.feature_rows(connection)]
        connection.execute("""UPDATE scores SET explanation_id = '' WHERE control = ''
            AND (score_key, metric) IN (SELECT score_key, metric FROM ranking)""")
        assert [(row.feature_id, row.score) for row in pages.feature_rows(connection)] == before


def test_an_undefined_score_keeps_its_reason(catalog: duckdb.DuckDBPyConnection) -> None:
    row = next(row for row in pages.feature_rows(catalog) if row.feature_id == 4)
    assert (row.score, row.score_status) == (None, "undefined")
    assert row.score_reason == "the simulated activations are constant"


def test_counts_agree_with_the_rows(catalog: duckdb.DuckDBPyConnection) -> None:
    rows, found = pages.feature_rows(catalog), pages.counts(catalog)
    scores = [row.score for row in rows if row.score is not None]
    assert (found.n_features, found.n_labelled, found.n_scored, found.n_undefined) == (N, N - 2, N - 3, 1)
    assert found.n_dead == 1
    assert found.n_rare == sum(row.flag == "rare" for row in rows)
    assert found.median == pytest.approx(median(scores))
    assert found.shuffled_median == pytest.approx(median(row.shuffled for row in rows if row.shuffled is not None))
    places = [row.rank_hi - row.rank_lo + 1 for row in rows if row.rank_hi is not None and row.rank_lo is not None]
    assert found.median_rank_interval == median(places)
    assert found.n_above_lexicon == sum((row.lexical_gain_lo or 0) > 0 for row in rows)


def test_the_distribution_bins_real_and_shuffled_scores() -> None:
    # Bins are 0.05 wide from 0: -0.02 falls in [-0.05, 0), 0.05 in [0.05, 0.1), 0.30 in [0.3, 0.35) although
    # 0.3 / 0.05 is 5.999… in binary; 1 is counted in the last bin below it.
    with build_catalog(9, 120) as connection:
        connection.execute("DELETE FROM scores")
        values = {0: 0.05, 1: 0.30, 2: 1.0, 5: 0.34, 6: -0.02}
        base = {"score_key": "contrast", "scorer": "simulation", "simulator": "logprob_free", "metric": "r_balanced",
                "n_ok": 1, "n_failed": 0}  # fmt: skip
        own = [base | {"feature_id": f, "explanation_id": f"llm-{f}", "control": "", "value": v, "status": "ok"}
               for f, v in values.items()]  # fmt: skip
        control = own[0] | {"control": "shuffled", "explanation_id": "llm-1", "value": -0.02}
        insert(connection, "scores", [*own, control])
        found = [(round(b.start, 6), b.real, b.shuffled) for b in pages.score_distribution(connection)]
    assert found == [(-0.05, 1, 1), (0.05, 1, 0), (0.3, 2, 0), (0.95, 1, 0)]


def test_failures_are_counted_by_kind(catalog: duckdb.DuckDBPyConnection) -> None:
    assert {(row.what, row.status, row.reason, row.n) for row in pages.failures(catalog)} == {
        ("explanation", "failed", "malformed", 1),
        ("simulation", "failed", "refused", 1),
        ("score", "undefined", "the simulated activations are constant", 1),
    }


def test_controls_of_an_earlier_scoring_are_not_shown() -> None:
    with build_catalog(6, 120) as connection:
        connection.execute("CREATE TEMP TABLE before AS SELECT feature_id, shuffled FROM catalog")
        for controls, shown in ((["shuffled"], True), (["generic"], False), ([], False)):
            config = json.dumps({"controls": controls})
            connection.execute("UPDATE stages SET config = ? WHERE stage = 'score'", [config])
            assert switched_off(connection) == {"shuffled", "generic", "empty"} - set(controls)
            assert any(row.shuffled is not None for row in pages.feature_rows(connection)) is shown
            assert any(score.control for score in _page(connection, 0).scores) is shown


def test_main_metrics_come_first_what_ranks_and_then_by_scorer(catalog: duckdb.DuckDBPyConnection) -> None:
    assert main_metrics(catalog) == {("simulation", "r_balanced"): True, ("simulation", "r_corpus"): False}
    assert main_of(["recall", "balanced_accuracy"]) == "balanced_accuracy" and main_of(["b", "a"]) == "b"


def test_run_facts_are_read_from_the_stages(catalog: duckdb.DuckDBPyConnection) -> None:
    run = run_facts(catalog)
    assert (run.subject, run.sae, run.hookpoint) == ("demo/python-lm", "demo/sae", "layers.2")
    assert (run.window, run.seed) == (64, 0)
    assert run.conformance == Conformance(31.6, 32.0, 0.21, 20000)


def test_every_fact_may_be_absent(empty: duckdb.DuckDBPyConnection) -> None:
    assert run_facts(empty) == RunFacts()
    assert pages.feature_rows(empty) == []
    assert pages.score_distribution(empty) == []
    assert pages.counts(empty).n_features == 0
    assert pages.counts(empty).median is None
    assert feature_pages(empty, []) == []


def test_facts_of_the_wrong_type_count_as_absent(empty: duckdb.DuckDBPyConnection) -> None:
    facts = {"subject": 7, "tokens": "many", "windows": True, "conformance": [1], "corpus": "", "documents": 12}
    stage = {"stage": "sample", "fingerprint": "f", "config": "[]", "version": "0.1.0", "facts": json.dumps(facts)}
    insert(empty, "stages", [stage])
    assert run_facts(empty) == RunFacts(documents=12, version="0.1.0")


def test_the_loss_recovered_is_read_from_the_facts(empty: duckdb.DuckDBPyConnection) -> None:
    loss = {
        "recovered": 0.9,
        "recovered_mean": None,
        "plain": 2.0,
        "sae": 2.1,
        "zero": 3.0,
        "reason": "so",
        "tokens": 5,
    }
    stage = {"stage": "sample", "fingerprint": "f", "config": "{}", "version": "0.1.0",
             "facts": json.dumps({"conformance": {"l0": 3.0, "loss": loss}})}  # fmt: skip
    insert(empty, "stages", [stage])
    expected = Conformance(l0=3.0, loss_recovered=0.9, loss_plain=2.0, loss_sae=2.1, loss_reason="so")
    assert run_facts(empty).conformance == expected


def test_facts_overlay_the_configuration(empty: duckdb.DuckDBPyConnection) -> None:
    stage = {"stage": "sample", "fingerprint": "f", "version": "0.1.0",
             "config": '{"seed": 3, "window": 128}', "facts": '{"window": 64}'}  # fmt: skip
    insert(empty, "stages", [stage])
    assert (run_facts(empty).seed, run_facts(empty).window) == (3, 64)


def test_top_contexts_are_the_strongest_of_all_splits(catalog: duckdb.DuckDBPyConnection) -> None:
    query = "SELECT peak FROM contexts WHERE feature_id = 0 AND kind = 'top' ORDER BY peak DESC"
    peaks = [row[0] for row in catalog.execute(query).fetchall()]
    assert len(peaks) > 8
    top = _of(_page(catalog, 0), "top")
    assert [context.peak for context in top] == peaks[:8]
    assert all(max(context.activations) == context.peak for context in top)
    assert {context.split for context in top} >= {"explain", "test"}


def test_quotas_hold_for_every_kind(catalog: duckdb.DuckDBPyConnection) -> None:
    page = _page(catalog, 0, ContextQuota(top=3, band=1, random=2, silent=1))
    assert [len(_of(page, kind)) for kind in ("top", "band", "random", "silent")] == [3, 5, 2, 1]
    assert [context.band for context in _of(page, "band")] == [5, 4, 3, 2, 1]
    assert _page(catalog, 0, ContextQuota(0, 0, 0, 0)).contexts == []


def test_bands_show_simulated_windows_first_with_their_simulation(catalog: duckdb.DuckDBPyConnection) -> None:
    for context in _of(_page(catalog, 0), "band"):
        assert (context.simulation, context.split) == ("ok", "test")
        query = "SELECT expected FROM simulations WHERE feature_id = 0 AND window_id = ? AND control = ''"
        stored = catalog.execute(query, [context.window_id]).fetchall()
        assert stored == [(context.expected,)]


def test_a_failed_simulation_is_shown_as_failed(catalog: duckdb.DuckDBPyConnection) -> None:
    failed = [c for c in _page(catalog, 5, ContextQuota(20, 5, 10, 9)).contexts if c.simulation == "failed"]
    assert failed
    assert all(c.expected is None and c.simulation_reason == "refused: no answer" for c in failed)


def test_silent_contexts_are_those_with_the_largest_prediction(catalog: duckdb.DuckDBPyConnection) -> None:
    query = "SELECT max(list_max(expected)) FROM simulations WHERE feature_id = 0 AND band = 0 AND control = ''"
    largest = catalog.execute(query).fetchall()[0][0]
    silent = _of(_page(catalog, 0), "silent")
    assert len(silent) == 2
    assert max(silent[0].expected or []) == largest
    assert (silent[0].positions, silent[0].activations, silent[0].peak) == ([], [], 0.0)


def test_simulations_of_a_control_or_of_another_score_are_not_shown() -> None:
    with build_catalog(6, 120) as connection:
        before = _page(connection, 0)
        connection.execute("""INSERT INTO simulations SELECT * REPLACE ('shuffled' AS control, [9.0] AS expected)
                              FROM simulations""")
        connection.execute("""INSERT INTO simulations SELECT * REPLACE ('another' AS score_key, [8.0] AS expected)
                              FROM simulations WHERE control = ''""")
        assert _page(connection, 0) == before


def test_simulations_of_a_cut_stand_at_its_tokens_and_make_no_window_silent() -> None:
    """Of protocols that cut windows only the tokens from `start` on were simulated, and band 0 is said of all."""
    with build_catalog(N, 200) as connection:
        before = {context.window_id: context for context in _of(_page(connection, 0), "band") if context.expected}
        assert before
        connection.execute("UPDATE simulations SET start = 3, expected = expected[4:], band = 0")
        page = _page(connection, 0, ContextQuota(20, 50, 10, 9))
        assert not _of(page, "silent")
        after = {context.window_id: context for context in _of(page, "band")}
        for window, context in before.items():
            expected = after[window].expected
            assert expected and context.expected and all(math.isnan(value) for value in expected[:3])
            assert expected[3:] == context.expected[3:]
        failed = [
            one for one in _page(connection, 5, ContextQuota(20, 50, 10, 9)).contexts if one.simulation == "failed"
        ]
        assert failed and all(one.expected is None for one in failed)


def test_evidence_is_that_of_the_label_in_the_catalog(catalog: duckdb.DuckDBPyConnection) -> None:
    query = "SELECT window_id FROM explanation_evidence WHERE explanation_id = 'llm-0'"
    named = {row[0] for row in catalog.execute(query).fetchall()}
    shown = _page(catalog, 0, ContextQuota(20, 5, 10, 9)).contexts
    assert {context.window_id for context in shown if context.evidence} == named & {c.window_id for c in shown}
    assert any(context.evidence for context in shown)


def test_pages_come_in_the_order_of_the_rows_and_do_not_depend_on_the_batch(catalog: duckdb.DuckDBPyConnection) -> None:
    rows = pages.feature_rows(catalog)
    together = feature_pages(catalog, rows)
    assert [page.feature_id for page in together] == [row.feature_id for row in rows]
    assert together == [feature_pages(catalog, [row])[0] for row in rows]


def test_a_dead_feature_has_an_empty_page(catalog: duckdb.DuckDBPyConnection) -> None:
    page = _page(catalog, N - 1)
    assert (page.contexts, page.histogram, page.labels, page.scores) == ([], [], [], [])


def test_the_histogram_counts_every_firing_window_once(catalog: duckdb.DuckDBPyConnection) -> None:
    row = next(row for row in pages.feature_rows(catalog) if row.feature_id == 0)
    page = _page(catalog, 0)
    assert sum(b.n_windows for b in page.histogram) == row.n_windows
    assert max(b.bin for b in page.histogram) == math.floor(4 * math.log2(row.max_activation))


def test_output_tokens_scores_and_labels_are_all_there(catalog: duckdb.DuckDBPyConnection) -> None:
    page = _page(catalog, 0)
    promoted = [t.logit for t in page.output_tokens if t.side == "promoted"]
    assert promoted == sorted(promoted, reverse=True)
    assert len(promoted) == 5
    assert {label.explainer for label in page.labels} == {"contrast", "lexicon"}
    assert {(s.explanation_id, s.metric, s.control) for s in page.scores} == {
        ("llm-0", "r_balanced", ""), ("llm-0", "r_corpus", ""), ("llm-0", "lexical_gain_balanced", ""),
        ("llm-other", "r_balanced", "shuffled"), ("lex-0", "r_balanced", ""),
    }  # fmt: skip


def test_scores_of_the_label_by_earlier_settings_are_not_shown() -> None:
    with build_catalog(6, 120) as connection:
        before = _page(connection, 0).scores
        connection.execute("""INSERT INTO scores SELECT * REPLACE ('earlier' AS score_key, 0.99 AS value)
                              FROM scores WHERE score_key = 'contrast'""")
        assert _page(connection, 0).scores == before


def test_windows_and_vocabulary_return_what_is_asked_for_and_known(catalog: duckdb.DuckDBPyConnection) -> None:
    ids = [row[0] for row in catalog.execute("SELECT window_id FROM windows ORDER BY window_id LIMIT 2").fetchall()]
    found = windows(catalog, [ids[1], ids[0], ids[0], 5])
    assert list(found) == ids
    assert len(found[ids[0]].tokens) == 64
    assert found[ids[0]].doc_id.startswith("stdlib/")
    known = vocabulary(catalog, [1, 0, 10**6])
    assert list(known) == [0, 1]
    assert known[0].bytes == known[0].text.encode()
