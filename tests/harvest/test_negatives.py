"""Hard negatives against a dense forward pass and a plain reference of the choice; and what they must leave alone."""

import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.catalog.digest import table_digests
from autointerp.catalog.feature_pages import feature_pages
from autointerp.catalog.pages import feature_rows
from autointerp.catalog.reading import EvidenceReader
from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.harvest import negatives as stage
from autointerp.harvest import setup
from autointerp.harvest.negatives import fires, negatives
from autointerp.harvest.runs import runs_of
from autointerp.harvest.sketch import Firings
from autointerp.harvest.stage import sample
from autointerp.hashing import sample_key, stable_hash
from autointerp.pipeline import run_all
from autointerp.subject.windows import per_split
from tests.cli.test_bad_input import options, run
from tests.harvest.test_harvest import SPLITS, Dense, configured

PER_KIND, TRIES = 20, 2
ROWS = "SELECT * FROM contexts WHERE kind IN ('near', 'token') ORDER BY ALL"
OTHERS = "SELECT * FROM contexts WHERE kind NOT IN ('near', 'token') ORDER BY ALL"


@pytest.fixture(scope="module")
def settings(tiny_settings: dict[str, object]) -> dict[str, object]:
    return tiny_settings | {"negatives.per_kind": PER_KIND, "negatives.tries": TRIES}


@pytest.fixture(scope="module")
def config(settings: dict[str, object]) -> Config:
    return configured(settings)


@pytest.fixture(scope="module")
def sampled(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run before the stage."""
    folder = tmp_path_factory.mktemp("negatives") / "sampled"
    sample(config, folder)
    return folder


@pytest.fixture(scope="module")
def out(config: Config, sampled: Path) -> Path:
    """A run with its negatives."""
    folder = Path(shutil.copytree(sampled, sampled.parent / "run"))
    negatives(config, folder)
    return folder


@pytest.fixture(scope="module")
def dense(tiny_settings: dict[str, object]) -> Dense:
    return Dense(configured(tiny_settings))


def rows(folder: Path, query: str = ROWS) -> list[tuple]:
    with Catalog.open(folder / "catalog.duckdb") as catalog:
        return catalog.rows(query)


def digests(folder: Path) -> dict[str, str]:
    with Catalog.open(folder / "catalog.duckdb") as catalog:
        return table_digests(catalog)


def test_every_negative_is_one_by_a_dense_forward_pass(out: Path, dense: Dense) -> None:
    windows = {w["id"]: w for w in dense.windows}
    found = rows(out, "SELECT feature_id, kind, split, window_id, band, peak, positions, activations, cause, cause_position "
                      "FROM contexts WHERE kind IN ('near', 'token')")  # fmt: skip
    near = set(rows(out, "SELECT feature_id, neighbour_id FROM neighbours"))
    top_token = dict(rows(out, "SELECT feature_id, top_token FROM features"))
    known = set(rows(out, "SELECT feature_id, window_id FROM contexts WHERE kind NOT IN ('near', 'token')"))
    counts: dict[tuple[int, str, str], int] = defaultdict(int)
    for f, kind, split, window, band, peak, positions, values, cause, position in found:
        read = windows[window]
        assert read["acts"][:, f].max() == 0 and (band, peak, positions, values) == (0, 0, [], [])
        assert split == read["split"] and (f, window) not in known
        if kind == "near":
            assert (f, cause) in near
            assert position == read["acts"][:, cause].argmax() and read["acts"][position, cause] > 0
        else:
            assert cause == top_token[f] and read["tokens"].index(cause) == position
        counts[f, kind, split] += 1
    assert all(n <= dict(zip(SPLITS, per_split(PER_KIND), strict=True))[key[2]] for key, n in counts.items())
    full = {
        (kind, split) for (_, kind, split), n in counts.items() if n == {"explain": 10, "rerank": 2, "test": 8}[split]
    }
    assert full == {(kind, split) for kind in ("near", "token") for split in SPLITS}  # the test has something to find


def test_the_choice_equals_a_plain_reference(out: Path, dense: Dense) -> None:
    """Candidates, their order, how many are tried and kept, and which are duplicates, by loops."""
    windows = {w["id"]: w for w in dense.windows}
    ids = np.array(sorted(id for (id,) in rows(out, "SELECT window_id FROM windows")), np.uint64)
    draw = dict(zip(ids.tolist(), sample_key(0, stable_hash("negatives"), ids).tolist(), strict=True))
    pool = {id for (id,) in rows(out, "SELECT window_id FROM windows WHERE in_pool")}
    quota = dict(zip(SPLITS, per_split(PER_KIND), strict=True))
    most = 4 * TRIES * max(quota.values())
    known, strong, grams = defaultdict(set), defaultdict(set), defaultdict(dict)
    for f, kind, split, band, window, positions, values in rows(
        out, "SELECT feature_id, kind, split, band, window_id, positions, activations FROM contexts "
             "WHERE kind NOT IN ('near', 'token')"):  # fmt: skip
        known[f].add(window)
        peak = positions[int(np.argmax(values))]
        if kind in ("top", "band") and band >= 2:  # of three
            strong[f, split].add((window, peak))
        around, order = gram(windows[window]["tokens"], peak), SPLITS.index(split)
        grams[f][around] = min(order, grams[f].get(around, 9))
    neighbours = defaultdict(list)
    for f, neighbour in rows(out, "SELECT feature_id, neighbour_id FROM neighbours ORDER BY feature_id, rank"):
        neighbours[f].append(neighbour)

    expected = []
    for f, token, n_tokens in rows(out, "SELECT feature_id, top_token, n_tokens FROM features"):
        chosen = []
        for split in SPLITS:
            offers = [
                (turn, rank, window, cause, position)
                for rank, cause in enumerate(neighbours[f])
                for turn, (window, position) in enumerate(sorted(strong[cause, split], key=lambda w: draw[w[0]]))
                if window not in known[f] and turn < -(-most // len(neighbours[f])) and n_tokens
            ]
            near = {}
            for _, _, window, cause, position in sorted(offers):
                near.setdefault(window, (cause, position))
            with_token = [
                id for id in sorted(draw, key=lambda id: (id not in pool, draw[id]))
                if windows[id]["split"] == split and token in windows[id]["tokens"]
            ][:most]  # fmt: skip
            at = {id: (token, windows[id]["tokens"].index(token)) for id in with_token if id not in known[f]}
            for kind, offered in (("near", near), ("token", at)):
                tried = list(offered.items())[: TRIES * quota[split]]
                silent = [item for item in tried if windows[item[0]]["acts"][:, f].max() == 0][: quota[split]]
                chosen += [(kind, split, rank, window, *cause) for rank, (window, cause) in enumerate(silent, start=1)]
        around = [(gram(windows[c[3]]["tokens"], c[5]), SPLITS.index(c[1])) for c in chosen]
        for text, order in around:
            grams[f][text] = min(order, grams[f].get(text, 9))
        expected += [(f, *c, order > grams[f][text]) for c, (text, order) in zip(chosen, around, strict=True)]
    found = rows(out, "SELECT feature_id, kind, split, rank, window_id, cause, cause_position, duplicate FROM contexts "
                      "WHERE kind IN ('near', 'token')")  # fmt: skip
    assert sorted(found) == sorted(expected)
    assert {row[-1] for row in found} == {True, False} and len(pool) < len(draw)


def gram(tokens: list[int], position: int) -> tuple[int, ...]:
    return tuple(tokens[max(0, position - 6) : position + 7])


def test_features_that_can_have_none_have_none(out: Path, dense: Dense) -> None:
    everywhere = [f for f in range(24) if all(w["acts"][:, f].max() > 0 for w in dense.windows if len(w["tokens"]) > 8)]
    having = {f for (f,) in rows(out, "SELECT DISTINCT feature_id FROM contexts WHERE kind IN ('near', 'token')")}
    assert everywhere and 3 not in having  # 3 is dead
    short = {w["id"] for w in dense.windows if len(w["tokens"]) <= 8}
    assert all(row[5] in short for row in rows(out) if row[0] in everywhere)


@pytest.mark.parametrize(("features", "kinds"), [("3", set()), ("17", {"token"})])
def test_dead_features_and_those_without_neighbours(
    settings: dict[str, object], tmp_path: Path, features: str, kinds: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(settings, sample__features=features)
    sample(config, tmp_path)
    if not kinds:
        monkeypatch.setattr(setup, "open_readers", None)  # nothing to read: no model is loaded
    [facts] = negatives(config, tmp_path)
    assert {row[1] for row in rows(tmp_path)} == kinds
    assert facts["near"] == {"candidates": 0, "windows": 0, "features": 0}
    assert facts["windows_read"] == 0 if not kinds else facts["windows_read"] > 0


def test_rows_do_not_depend_on_the_batch_nor_on_an_earlier_choice(
    settings: dict[str, object], sampled: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "_READ_AT_ONCE", 50)
    folder = Path(shutil.copytree(sampled, tmp_path / "run"))
    negatives(configured(settings, sample__batch_windows=3, negatives__per_kind=4), folder)
    few = rows(folder)
    assert 0 < len(few) < len(rows(out)) and max(row[4] for row in few) == 2
    negatives(configured(settings, sample__batch_windows=7), folder)
    assert rows(folder) == rows(out) and rows(folder, OTHERS) == rows(sampled, OTHERS)
    assert digests(folder) == digests(out)


def test_what_is_complete_is_left_alone(config: Config, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digests(out)
    monkeypatch.setattr(setup, "open_readers", None)
    monkeypatch.setattr(stage, "choose", None)
    [facts] = negatives(config, out)
    assert facts["near"]["windows"] == sum(row[1] == "near" for row in rows(out)) and digests(out) == before


@pytest.mark.parametrize("moment", ["reading", "writing"])
def test_stopped_in_the_middle_nothing_is_half_written(
    settings: dict[str, object], config: Config, sampled: Path, out: Path, tmp_path: Path, moment: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Over an earlier choice of fewer: that stays as it was until the new one is whole."""
    folder = Path(shutil.copytree(sampled, tmp_path / "run"))
    negatives(configured(settings, negatives__per_kind=4), folder)
    before, calls = digests(folder), []

    def stop(*given: object) -> None:
        calls.append(None)
        if len(calls) == 3 or moment == "writing":
            raise KeyboardInterrupt

    original = stage.fires
    with monkeypatch.context() as patched:
        if moment == "reading":
            patched.setattr(stage, "fires", lambda *given: stop(*given) or original(*given))
        else:
            patched.setattr(Catalog, "finish_stage", stop)
        with pytest.raises(KeyboardInterrupt):
            negatives(config, folder)
    assert calls and digests(folder) == before
    negatives(config, folder)
    assert digests(folder) == digests(out)


def test_labels_scores_and_pages_are_as_without_them(
    tiny_settings: dict[str, object], settings: dict[str, object], tmp_path: Path
) -> None:
    run_all(configured(tiny_settings), tmp_path / "without")
    run_all(configured(settings), tmp_path / "with")
    assert rows(tmp_path / "with") and not rows(tmp_path / "without")
    without, with_them = digests(tmp_path / "without"), digests(tmp_path / "with")
    assert {table for table in without if without[table] != with_them[table]} == {"contexts", "stages"}
    pages = []
    for name in ("without", "with"):
        with Catalog.open(tmp_path / name / "catalog.duckdb") as catalog:
            pages.append(feature_pages(catalog.connection, feature_rows(catalog.connection)))
    assert pages[0] == [replace(page, negatives=[]) for page in pages[1]]
    assert any(page.negatives for page in pages[1])


def test_evidence_has_them_only_when_asked(out: Path) -> None:
    with Catalog.open(out / "catalog.duckdb") as catalog:
        reader = EvidenceReader(catalog, seed=0, silent=5)
        stored = catalog.rows(
            "SELECT feature_id, kind, split, window_id, cause, cause_position FROM contexts "
            "WHERE kind IN ('near', 'token') AND NOT duplicate ORDER BY feature_id, kind, split, rank"
        )
        usual, asked = reader.read(range(24)), reader.read(range(24), negatives=True)
    assert {context.kind for evidence in usual for context in evidence.contexts} == {"top", "band", "silent"}
    seen = []
    for without, with_them in zip(usual, asked, strict=True):
        for split in SPLITS:
            assert [c.window_id for c in without.of(split)] == [c.window_id for c in with_them.of(split)]
        for kind in ("near", "token"):
            for split in SPLITS:
                for c in with_them.of(split, (kind,)):
                    assert not c.activations.any() and len(c.activations) == len(c.tokens) and c.band == 0
                    assert kind == "near" or c.tokens[c.cause_position] == c.cause
                    seen.append((without.feature_id, c.kind, c.split, c.window_id, c.cause, c.cause_position))
    assert seen == stored


def test_the_view_of_examples_shows_them(out: Path) -> None:
    shown = rows(out, "SELECT feature_id, window_id, count(*), max(activation) FROM examples "
                      "WHERE kind = 'token' AND split = 'test' AND rank = 1 GROUP BY ALL ORDER BY ALL")  # fmt: skip
    stored = rows(out, "SELECT feature_id, window_id, len(tokens), 0.0 FROM contexts JOIN windows USING (window_id, split) "
                       "WHERE kind = 'token' AND split = 'test' AND rank = 1 ORDER BY ALL")  # fmt: skip
    assert shown == stored and shown


def test_several_dictionaries_below_one_folder(settings: dict[str, object], out: Path, tmp_path: Path) -> None:
    config = configured(settings | {"also": [{"path": settings["sae.path"], "hookpoint": "model.layers.0"}]})
    sample(config, tmp_path)
    assert len(negatives(config, tmp_path)) == 2
    first, second = runs_of(config, tmp_path)
    assert rows(first.out) == rows(out) and rows(second.out) not in ([], rows(out))


def test_the_command(
    capsys: pytest.CaptureFixture[str], tiny_settings: dict[str, object], out: Path, tmp_path: Path
) -> None:
    command = ("negatives", *options(tiny_settings), "--out", tmp_path / "run")
    code, err = run(capsys, *command, "--per-kind", 20)
    assert code == 2 and "nothing sampled here yet; run first" in err
    assert run(capsys, "sample", *options(tiny_settings), "--out", tmp_path / "run")[0] == 0
    code, err = run(capsys, *command)
    assert code == 2 and "say how many with --per-kind" in err
    code, err = run(capsys, *command, "--per-kind", PER_KIND, "--set", f"negatives.tries={TRIES}")
    assert code == 0 and rows(tmp_path / "run") == rows(out)
    code, err = run(capsys, "negatives", "--out", tmp_path / "run")  # as configured by the last one
    assert code == 0 and rows(tmp_path / "run") == rows(out)


def test_a_run_sampled_with_other_settings_is_refused(settings: dict[str, object], sampled: Path) -> None:
    with pytest.raises(UserError, match="holds a run with other settings"):
        negatives(configured(settings, sample__top=6), sampled)


@given(st.sets(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 2))), st.integers(1, 4))
def test_fires_equals_a_loop(entries: set[tuple[int, int, int]], n_rows: int) -> None:
    inside = np.array(sorted(e for e in entries if e[1] < n_rows), np.int64).reshape(-1, 3)
    firings = Firings(inside[:, 0].astype(np.int32), inside[:, 1].astype(np.int32), inside[:, 2].astype(np.uint16),
                      np.ones(len(inside), np.float32), np.zeros(0, np.uint16))  # fmt: skip
    feature, row = np.repeat(np.arange(6), n_rows), np.tile(np.arange(n_rows), 6)
    pairs = {(f, r) for f, r, _ in inside.tolist()}
    assert fires(firings, n_rows, feature, row).tolist() == [
        (f, r) in pairs for f, r in zip(feature.tolist(), row.tolist(), strict=True)
    ]
