"""Explainers of the output side, and the choice between labels, by the command line with the mock provider."""

from pathlib import Path

import pytest

from autointerp.catalog.store import Catalog
from tests.cli.test_bad_input import options, run
from tests.cli.test_run import catalog_rows, table_digests_of
from tests.report.reading import read_report


def whole_run(
    capsys: pytest.CaptureFixture[str], out: Path, settings: dict[str, object], explainer: str, **changed: object
) -> None:
    chosen = options(settings, sample__features="0-8", score__control_features=2, **changed)
    code, err = run(
        capsys, "run", *chosen, "--explainer", explainer, "--provider", "mock", "--label-model", "mock", "--out", out
    )
    assert code == 0, err


def test_output(capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object]) -> None:
    whole_run(capsys, tmp_path / "run", tiny_settings, "output")
    rows = catalog_rows(
        tmp_path / "run", "SELECT status, kind, title FROM explanations WHERE explainer = 'output' ORDER BY feature_id"
    )
    assert len(rows) >= 5 and all(status == "ok" and kind in ("output", "mixed", "unclear") for status, kind, _ in rows)


def test_dual(capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object]) -> None:
    out = tmp_path / "run"
    whole_run(capsys, out, tiny_settings, "dual")
    rows = catalog_rows(
        out,
        "SELECT feature_id, title, output_title, output_description, sides_agree, confidence FROM catalog "
        "WHERE explanation_status = 'ok'",
    )
    assert len(rows) >= 5 and all(title != said and text for _, title, said, text, *_ in rows)
    assert {agree for *_, agree, _ in rows} >= {True, False}
    report = read_report(out / "report.html")
    for feature, _, title, description, agrees, confidence in rows:
        detail = report.detail(feature)
        assert detail["output"] == {"title": title, "description": description, "agrees": agrees}
        assert detail["confidence"] == confidence and all(isinstance(tag, str) for tag in detail["safety"])


def test_best_of_k(capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object]) -> None:
    out = tmp_path / "run"
    settings = {"explain__candidates": 3, "sample__per_band": 10, "sample__top": 10}
    whole_run(capsys, out, tiny_settings, "best_of_k", **settings)
    labels = dict(
        catalog_rows(out, "SELECT explanation_id, (title, reason) FROM explanations WHERE explainer = 'best_of_k'")
    )
    rows = catalog_rows(out, "SELECT explanation_id, number, title, score, chosen, reason FROM candidates ORDER BY ALL")
    assert len(labels) >= 5 and len(rows) == 3 * len(labels)
    for name, (title, reason) in labels.items():
        own = [row for row in rows if row[0] == name]
        assert [number for _, number, *_ in own] == [1, 2, 3]
        (chosen,) = (row for row in own if row[4])
        scores = [score for *_, score, _, _ in own if score is not None]
        assert chosen[2] == title and chosen[3] == (max(scores) if scores else None)
        assert (reason is None) == bool(scores)
    assert any(score is not None for *_, score, _, _ in rows)
    # What was chosen on is neither shown to the labels' author nor what they are graded on.
    for table in ("explanation_evidence e", "simulations e"):
        assert not catalog_rows(out, f"SELECT 1 FROM {table} JOIN windows USING (window_id) WHERE split = 'rerank'")
    assert {purpose for (purpose,) in catalog_rows(out, "SELECT purpose FROM spend")} == {
        "explain",
        "rerank",
        "simulate",
        "detect",
    }
    # The catalog is derived data, candidates and all.
    digests = table_digests_of(out)
    (out / "catalog.duckdb").unlink()
    whole_run(capsys, out, tiny_settings, "best_of_k", **settings)
    assert table_digests_of(out) == digests


def test_refine(capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object]) -> None:
    out = tmp_path / "run"
    settings = {
        "explain__steps": 2, "explain__patience": 2, "explain__inner": "highlighted", "negatives__per_kind": 4,
        "sample__per_band": 10, "sample__top": 10,
    }  # fmt: skip
    whole_run(capsys, out, tiny_settings, "refine", **settings)
    labels = dict(catalog_rows(
        out, "SELECT explanation_id, (title, reason, selection) FROM explanations WHERE explainer = 'refine' AND status = 'ok'"
    ))  # fmt: skip
    rows = catalog_rows(out, "SELECT explanation_id, number, parent, title, score, chosen FROM candidates ORDER BY ALL")
    assert len(labels) >= 5 and {name for name, *_ in rows} == set(labels)
    lengths = set()
    for name, (title, _, selection) in labels.items():
        own = [row[1:] for row in rows if row[0] == name]
        lengths.add(len(own))
        assert [number for number, *_ in own] == list(range(1, len(own) + 1)) and selection is not None
        assert own[0][1] is None and all(1 <= parent < number for number, parent, *_ in own[1:])
        (chosen,) = (row for row in own if row[4])
        scores = [score for *_, score, _ in own if score is not None]
        assert chosen[2] == title and chosen[3] == (max(scores) if scores else None)
    assert max(lengths) == 3  # no more than the steps
    # What was chosen on is not shown to the labels' author, and neither is it what they are graded on.
    for table in ("explanation_evidence e", "simulations e"):
        assert not catalog_rows(out, f"SELECT 1 FROM {table} JOIN windows USING (window_id) WHERE split = 'rerank'")
    assert {purpose for (purpose,) in catalog_rows(out, "SELECT purpose FROM spend")} >= {
        "explain", "rerank", "probe", "simulate",
    }  # fmt: skip
    digests = table_digests_of(out)
    (out / "catalog.duckdb").unlink()
    whole_run(capsys, out, tiny_settings, "refine", **settings)
    assert table_digests_of(out) == digests


@pytest.mark.parametrize("name", ["best_of_k", "refine"])
def test_an_inner_explainer_that_asks_no_model_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object], name: str
) -> None:
    code, err = run(
        capsys, "run", *options(tiny_settings, explain__inner="lexicon"), "--explainer", name, "--provider", "mock",
        "--label-model", "mock", "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 2 and "explain.inner = 'lexicon'" in err and "highlighted" in err


def test_an_explainer_that_asks_for_the_test_split_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from autointerp.config import Config
    from autointerp.errors import UserError
    from autointerp.explain.best_of_k import BestOfK
    from autointerp.explain.stage import explainer_for

    monkeypatch.setattr(BestOfK, "splits", ("explain", "test"))
    with pytest.raises(UserError, match="asks for the test split"):
        explainer_for(Config(), "best_of_k")


def test_logits_come_with_the_tokens(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_settings: dict[str, object]
) -> None:
    from autointerp.catalog.reading import EvidenceReader

    assert run(capsys, "sample", *options(tiny_settings), "--out", tmp_path / "run")[0] == 0
    with Catalog.open(tmp_path / "run" / "catalog.duckdb") as catalog:
        (found,) = EvidenceReader(catalog, seed=0, silent=2).read([4], ("explain",))
        stored = catalog.rows("SELECT token, logit FROM output_tokens WHERE feature_id = 4 ORDER BY side, rank")
    both = [*zip(found.promoted, found.promoted_logits, strict=True)]
    both += zip(found.suppressed, found.suppressed_logits, strict=True)
    assert both == stored and len(stored) == 20
    assert min(found.promoted_logits) > 0 > max(found.suppressed_logits)
