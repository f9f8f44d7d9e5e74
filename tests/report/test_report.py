"""The written file: whole, self-contained, the same every time, honest about what is missing, safe against its data."""

import base64
import hashlib
import re
from importlib.resources import files
from pathlib import Path

import duckdb
import pytest

from autointerp.catalog.page_rows import ContextQuota
from autointerp.errors import UserError
from autointerp.report import ReportFacts, write_report
from autointerp.report.write import SCRIPTS
from autointerp.score.verdicts import NO_PROBABILITIES
from tests.report.reading import Report, read_report
from tests.report.synthetic import HOSTILE, build_catalog, empty_catalog, insert, plant_hostile_text


def _report(connection: duckdb.DuckDBPyConnection, folder: Path, title: str = "A catalog", **options: object) -> Report:
    write_report(connection, folder / "report.html", title=title, **options)  # type: ignore[arg-type]
    return read_report(folder / "report.html")


def test_facts_say_what_was_written(small_catalog: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.html"
    seen: list[tuple[int, int]] = []
    facts = write_report(small_catalog, path, title="T", progress=lambda done, total: seen.append((done, total)))
    assert facts == ReportFacts(path, 24, path.stat().st_size)
    assert seen == [(24, 24)]
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_the_same_catalog_gives_the_same_bytes(small_report_path: Path, tmp_path: Path) -> None:
    with build_catalog() as again:
        write_report(again, tmp_path / "report.html", title="A small catalog")
    assert (tmp_path / "report.html").read_bytes() == small_report_path.read_bytes()


def test_a_read_only_file_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "catalog.duckdb"
    build_catalog(6, 120, str(path)).close()
    with duckdb.connect(str(path), read_only=True) as connection:
        assert write_report(connection, tmp_path / "report.html", title="T").n_features == 6


def test_nothing_is_fetched_and_no_data_becomes_markup(small_report: Report) -> None:
    assert not {"link", "img", "iframe", "object", "embed", "base"} & set(small_report.tags)
    for attributes in small_report.attributes:
        assert not {"src", "srcset", "style"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "#").startswith("#")  # type: ignore[union-attr]
    assert not re.search(r"url\(|@import|https?:", small_report.style)
    program = "".join(files("autointerp.report").joinpath("assets", f"{name}.js").read_text() for name in SCRIPTS)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|fetch\(", program)
    assert set(re.findall(r"https?://[^\"' ]+", program)) == {"http://www.w3.org/2000/svg"}  # a name, never an address


def test_the_policy_admits_exactly_this_script_and_this_style(small_report: Report) -> None:
    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    policy = next(a["content"] for a in small_report.attributes if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == digest(small_report.scripts[""])
    assert rules["style-src"] == digest(small_report.style)
    assert rules["require-trusted-types-for"] == "'script'"


def test_the_index_holds_every_feature_in_the_order_of_the_catalog(small_report: Report) -> None:
    index = small_report.index
    assert sorted(index["id"]) == list(range(24))
    assert [rank for rank in index["rank"] if rank is not None] == list(range(1, 22))
    assert index["rank"][21:] == [None] * 3
    assert {len(column) for column in index.values()} == {24}


def test_an_undefined_score_is_a_reason_and_never_a_zero(small_report: Report) -> None:
    for feature, words in ((4, "undefined: the simulated"), (3, "no label: malformed"), (23, "dead: never fires")):
        row = small_report.row(feature)
        assert [row[name] for name in ("score", "lo", "hi", "rank", "shuffled", "gain")] == [None] * 6
        assert row["problem"].startswith(words)
    undefined = [
        line for block in small_report.detail(4)["scores"] for by in block["scorers"] for line in by["metrics"]
    ]
    assert [(score["value"], score["problem"]) for score in undefined] == [
        (None, "undefined: the simulated activations are constant")
    ]


def test_failures_are_counted_in_the_head(small_report: Report) -> None:
    assert "1 explanation failed (malformed)" in small_report.words
    assert "1 simulation failed (refused)" in small_report.words
    assert "1 score undefined (the simulated activations are constant)" in small_report.words


def test_a_feature_page_gives_back_the_catalogs_tokens_and_activations(
    small_report: Report, small_catalog: duckdb.DuckDBPyConnection
) -> None:
    detail = small_report.detail(0)
    strongest = detail["contexts"][0]
    query = """SELECT c.peak, c.positions, c.activations, w.tokens, f.max_activation FROM contexts c
               JOIN windows w USING (window_id) JOIN features f USING (feature_id)
               WHERE feature_id = 0 AND kind = 'top' ORDER BY peak DESC LIMIT 1"""
    peak, positions, activations, tokens, maximum = small_catalog.execute(query).fetchall()[0]
    assert strongest["kind"] == "top"
    assert strongest["positions"] == positions
    assert strongest["percent"] == [max(1, round(100 * a / maximum)) for a in activations]
    assert strongest["peak"] == pytest.approx(peak, rel=1e-3)
    assert small_report.window(strongest["window"]) == tokens
    assert {c["kind"] for c in detail["contexts"]} == {"top", "band", "random", "silent"}
    simulated = [c for c in detail["contexts"] if c["simulated"]]
    assert simulated
    assert all(len(c["simulated"]) == 64 and c["split"] == "test" for c in simulated)


def test_the_label_of_the_catalog_and_the_metric_that_ranks_come_first(small_report: Report) -> None:
    detail = small_report.detail(0)
    labels = [(label["explainer"], label["shown"]) for label in detail["labels"]]
    assert labels == [("contrast", True), ("lexicon", False)]
    assert _shown(detail["scores"]) == [
        ("contrast", True, "simulation", ["r_balanced", "r_corpus", "lexical_gain_balanced"]),
        ("lexicon", False, "simulation", ["r_balanced"]),
    ]
    first = detail["scores"][0]["scorers"][0]["metrics"][0]
    assert (first["value"], first["chance"], first["others"]) == (small_report.row(0)["score"], 0.0, {})
    assert first["shuffled"] == small_report.row(0)["shuffled"] is not None


def _shown(scores: list[dict]) -> list[tuple]:
    """Of each label its scorers, with their metrics."""
    return [
        (block["label"], block["shown"], by["scorer"], [line["metric"] for line in by["metrics"]])
        for block in scores for by in block["scorers"]
    ]  # fmt: skip


def _detected(connection: duckdb.DuckDBPyConnection) -> None:
    """Balanced accuracies for labels and control, of two gradings of the lexicon's labels the later one too."""
    connection.execute(
        "INSERT INTO scorings BY NAME SELECT 'detection' AS scorer, 'asked' AS score_key, '' AS simulator"
    )
    for label, key, control in (
        ("llm", "contrast", ""),
        ("llm-x", "contrast", "shuffled"),
        ("lex", "old", ""),
        ("lex", "new", ""),
    ):
        connection.execute(
            "INSERT INTO scores BY NAME SELECT feature_id, ? AS score_key, ? || '-' || feature_id AS explanation_id, "
            "? AS control, 'detection' AS scorer, '' AS simulator, 'balanced_accuracy' AS metric, ? AS value, 0.4 AS lo, "
            "0.8 AS hi, 30 AS n_ok, 0 AS n_failed, 'ok' AS status FROM features",
            [key, label, control, 0.75 if key == "new" else 0.6],
        )


def test_detection_has_a_column_and_its_scores_are_a_block_of_their_own(
    fresh: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    assert set(_report(fresh, tmp_path / "without").index["detection"]) == {None}
    _detected(fresh)
    report = _report(fresh, tmp_path)
    place = report.index["id"].index(0)
    assert [report.index[name][place] for name in ("detection", "detectionLo", "detectionHi")] == [0.6, 0.4, 0.8]
    scores = report.detail(0)["scores"]
    assert [one[:3] for one in _shown(scores)] == [
        ("contrast", True, "simulation"), ("contrast", True, "detection"),
        ("lexicon", False, "simulation"), ("lexicon", False, "detection"),
    ]  # fmt: skip
    [own], [other] = (block["scorers"][1]["metrics"] for block in scores)
    assert (own["value"], own["chance"], own["shuffled"]) == (0.6, 0.5, 0.6)
    assert (other["value"], other["shuffled"]) == (0.75, None)


def test_what_nobody_asked_for_has_no_row_and_chance_may_be_a_scorers_own(
    fresh: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    """The intruder looks at no label: what it says stands beside the feature's label."""
    _detected(fresh)
    fresh.execute("INSERT INTO scorings BY NAME SELECT 'intruder' AS scorer, 'i' AS score_key, '' AS simulator")
    base = {"feature_id": 0, "control": "", "simulator": "", "n_ok": 20, "n_failed": 0, "status": "ok"}
    insert(fresh, "scores", [
        base | {"score_key": "asked", "explanation_id": "llm-0", "scorer": "detection", "metric": "auroc", "status": "undefined",
                "reason": NO_PROBABILITIES, "value": None},
        base | {"score_key": "asked", "explanation_id": "llm-0", "scorer": "detection", "metric": "balanced_accuracy",
                "control": "always_yes", "reason": None, "value": 0.5},
        base | {"score_key": "asked", "explanation_id": "generic", "scorer": "detection", "metric": "balanced_accuracy",
                "control": "generic", "reason": None, "value": 0.55},
        *(base | {"score_key": "i", "explanation_id": "", "scorer": "intruder", "metric": metric, "reason": None, "value": value}
          for metric, value in (("accuracy", 0.4), ("chance", 0.2))),
    ])  # fmt: skip
    report = _report(fresh, tmp_path)
    own = report.detail(0)["scores"][0]
    assert [(by["scorer"], by["label"], [line["metric"] for line in by["metrics"]]) for by in own["scorers"][1:]] == [
        ("detection", True, ["balanced_accuracy"]), ("intruder", False, ["accuracy"])]  # fmt: skip
    detection, intruder = (by["metrics"][0] for by in own["scorers"][1:])
    assert detection["others"] == {"one sentence for all features": 0.55}
    assert (intruder["value"], intruder["chance"], intruder["shuffled"]) == (0.4, 0.2, None)
    assert "reads no label" in report.words and "ranks the features" in report.words


def test_an_older_catalog_without_detection_can_be_reported(fresh: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    found = fresh.execute("SELECT column_name FROM duckdb_columns() WHERE table_name = 'catalog'").fetchall()
    columns = [name for (name,) in found if not name.startswith("balanced_accuracy")]
    fresh.execute(
        f"CREATE TABLE held AS SELECT {', '.join(columns)} FROM catalog; DROP VIEW catalog; ALTER TABLE held RENAME TO catalog"
    )
    assert set(_report(fresh, tmp_path).index["detection"]) == {None}


def test_a_window_is_held_once_whatever_shows_it(small_report: Report) -> None:
    shown = [c["window"] for feature in range(23) for c in small_report.detail(feature)["contexts"]]
    held = sum(len(small_report.block(name)["tokens"]) for name in small_report.scripts if name.startswith("windows-"))
    assert held == len(set(shown)) == max(shown) + 1
    assert len(shown) > held


def test_a_limit_keeps_the_best_and_the_head_counts_all(
    small_catalog: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    report = _report(small_catalog, tmp_path, limit=5)
    assert report.index["rank"] == [1, 2, 3, 4, 5]
    assert "The first 5 of 24 features" in report.words


def test_the_quota_sets_the_number_of_contexts(fresh: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    report = _report(fresh, tmp_path, quota=ContextQuota(top=1, band=0, random=0, silent=0))
    assert [c["kind"] for c in report.detail(0)["contexts"]] == ["top"]


def test_a_page_is_a_few_kilobytes(small_report: Report, small_report_path: Path) -> None:
    # 10 MB for 1,024 features leave 10 kB for each. Few features share few windows, so this is the worse case.
    blocks = sum(len(data) for name, data in small_report.scripts.items() if re.match("detail|windows", name))
    assert blocks / 24 < 6_000
    assert small_report_path.stat().st_size < 250_000


def test_planted_markup_stays_text(fresh: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    plant_hostile_text(fresh)
    report = _report(fresh, tmp_path, title=HOSTILE)
    with build_catalog(8, 120) as clean:
        harmless = _report(clean, tmp_path / "clean")
    assert sorted(set(report.tags)) == sorted(set(harmless.tags))
    assert report.tags.count("script") == harmless.tags.count("script")
    raw = report.html
    assert "\u202e" not in raw
    assert "\u2028" not in raw
    assert "\x00" not in raw
    assert "<img" not in raw
    seen = HOSTILE.replace("\u202e", "⟨U+202E⟩").replace("\u2028", "⟨U+2028⟩").replace("\x00", "⟨U+0000⟩")
    assert report.row(0)["title"] == seen
    assert report.row(0)["description"] == seen
    assert seen in report.block("dictionary")["tokens"]
    assert set(report.block("dictionary")["documents"]) == {seen}
    assert report.text.count(seen) >= 3  # the title twice, the name of the SAE


def test_a_catalog_without_features_is_still_a_report(tmp_path: Path) -> None:
    with empty_catalog() as connection:
        report = _report(connection, tmp_path)
    assert "holds no features" in report.words
    assert all(column == [] for column in report.index.values())
    assert "Before you trust" not in report.words


def test_a_catalog_of_dead_features_says_so(tmp_path: Path) -> None:
    with empty_catalog() as connection:
        base = {"n_tokens": 0, "n_windows": 0, "n_documents": 0, "density": 0.0, "max_activation": 0.0, "flag": "dead"}
        insert(connection, "features", [{"feature_id": feature} | base for feature in range(3)])
        report = _report(connection, tmp_path)
    assert report.index["problem"] == ["dead: never fires"] * 3
    assert report.detail(2)["contexts"] == []
    assert "No feature has a score" in report.words
    assert "How to read a score" not in report.words
    assert "svg" not in report.tags


def test_a_catalog_before_explanations_shows_its_contexts(fresh: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    for table in ("explanations", "explanation_evidence", "simulations", "scores", "ranks", "ranking", "spend"):
        fresh.execute(f"DELETE FROM {table}")
    report = _report(fresh, tmp_path)
    assert report.index["id"] == list(range(8))
    assert set(report.index["problem"][:7]) <= {"not labelled", "not labelled: too rare"}
    assert all(c["simulated"] is None for c in report.detail(0)["contexts"])
    assert len(report.detail(0)["contexts"]) > 8
    assert report.row(0)["tokens"]


def test_a_catalog_before_scoring_lists_its_labels(fresh: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    for table in ("simulations", "scores", "ranks"):
        fresh.execute(f"DELETE FROM {table}")
    fresh.execute("UPDATE ranking SET score_key = NULL, metric = NULL")
    report = _report(fresh, tmp_path)
    assert (report.row(0)["title"], report.row(0)["problem"]) == ("the token “white space”", "not scored")
    assert "No feature has a score" in report.words


def test_a_failed_write_leaves_the_old_report(small_catalog: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    broken = "autointerp.report.write.os.fsync"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="cannot be written"):
        patch.setattr(broken, _full_disk)
        write_report(small_catalog, path, title="T")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def _full_disk(_: int) -> None:
    raise OSError(28, "No space left on device")


def test_a_limit_below_one_is_the_users_mistake(small_catalog: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="limit is 0"):
        write_report(small_catalog, tmp_path / "report.html", title="T", limit=0)
