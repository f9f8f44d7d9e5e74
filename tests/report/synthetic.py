"""A catalog with planted features, for the tests of pages and reports: real text, made-up activations, seeded.

A feature fires on a few tokens of the Python standard library's source, strongest on the first of them, with an
afterglow on the next token. Labels, simulations and scores are made to look like those of a run.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from autointerp.catalog.store import Catalog
from autointerp.subject.stdlib import stdlib_documents

N_BANDS = 5
WINDOW = 64
Array = np.ndarray[Any, Any]
Generator = np.random.Generator
HOSTILE = (
    "</script><script>document.documentElement.dataset.owned=1</script><img src=x onerror=alert(1)>"
    "\u202e\u2028\x00'\"&`${1}"
)
_PIECE = re.compile(r"\n[ \t]*| ?[A-Za-z_]{1,7}|\d{1,3}| ?[^\w\s]{1,3}|[ \t]+|.", re.DOTALL)
_SPLITS = ("explain", "explain", "rerank", "test", "test")


@dataclass(frozen=True)
class Text:
    """The corpus: `tokens` [n_windows, WINDOW] token ids, `pieces` their texts, and where each window comes from."""

    pieces: list[str]
    tokens: Array
    doc: Array
    start: Array
    doc_ids: list[str]


def empty_catalog(path: str = ":memory:") -> duckdb.DuckDBPyConnection:
    """The schema and the views, and no row."""
    return Catalog.open(Path(path), write=True).connection


def build_catalog(n_features: int = 24, n_windows: int = 300, path: str = ":memory:") -> duckdb.DuckDBPyConnection:
    """A full catalog. Feature n−1 is dead; 3 has a failed explanation, 4 an undefined score, 5 a failed simulation."""
    connection = empty_catalog(path)
    connection.begin()
    text = _text(n_windows)
    splits = np.array([_SPLITS[doc % len(_SPLITS)] for doc in text.doc])
    rng = np.random.default_rng(0)
    rows: dict[str, list[dict[str, Any]]] = {}
    for feature in range(n_features):
        dead = feature == n_features - 1
        for table, row in _feature(feature, n_features, text, splits, rng, dead):
            rows.setdefault(table, []).append(row)
    rows["documents"] = [
        {"doc": i, "doc_id": name, "split": _SPLITS[i % len(_SPLITS)], "n_tokens": WINDOW * int((text.doc == i).sum())}
        for i, name in enumerate(text.doc_ids)
    ]
    rows["vocabulary"] = [{"token": i, "text": p, "bytes": p.encode()} for i, p in enumerate(text.pieces)]
    rows["windows"] = [
        {"window_id": _window_id(i), "doc": int(text.doc[i]), "start": int(text.start[i]), "split": str(splits[i]),
         "in_pool": i % 8 == 0, "tokens": text.tokens[i].tolist()}
        for i in range(n_windows)
    ]  # fmt: skip
    for table, table_rows in rows.items():
        insert(connection, table, table_rows)
    _insert_stages(connection, n_features, text)
    insert(connection, "ranks", _ranks(rows["scores"]))
    insert(connection, "ranking", [
        {"explainer_key": "contrast", "score_key": "contrast", "metric": "r_balanced"}
    ])  # fmt: skip
    insert(connection, "scorings", [
        {"scorer": "simulation", "score_key": "contrast", "simulator": "logprob_free", "model": "gpt-oss-120b"}
    ])  # fmt: skip
    insert(connection, "spend", [
        {"purpose": purpose, "model": "gpt-oss-120b", "requests": 50, "failed": 1, "input_tokens": 90_000,
         "cached_tokens": 45_000, "output_tokens": 6_000}
        for purpose in ("explain", "simulate")
    ])  # fmt: skip
    connection.commit()
    return connection


def _ranks(scores: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Places by lower bound, and the places that the intervals leave open."""
    ranked = [s for s in scores if s["metric"] == "r_balanced" and s["control"] == "" and "value" in s]
    ranked = sorted((s for s in ranked if s["explanation_id"].startswith("llm")), key=lambda s: -s["lo"])
    lows, highs = np.array([s["lo"] for s in ranked]), np.array([s["hi"] for s in ranked])
    return [
        {"feature_id": s["feature_id"], "rank": place, "rank_lo": 1 + int((lows > s["hi"]).sum()),
         "rank_hi": int((highs >= s["lo"]).sum())}
        for place, s in enumerate(ranked, 1)
    ]  # fmt: skip


def insert(connection: duckdb.DuckDBPyConnection, table: str, rows: list[dict[str, Any]]) -> None:
    """Append rows given by column name; absent columns are NULL."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    batch = pa.table({column: [row.get(column) for row in rows] for column in columns})  # noqa: F841 - read by name
    connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM batch")


def _window_id(index: int) -> int:
    return (index * 2654435761 + 12345) % 2**61


def _text(n_windows: int) -> Text:
    ids: dict[str, int] = {}
    windows: list[list[int]] = []
    docs: list[int] = []
    starts: list[int] = []
    doc_ids: list[str] = []
    for document in stdlib_documents():
        if not document.doc_id.endswith(".py") or len(document.text) < 3000:
            continue
        tokens = [ids.setdefault(piece, len(ids)) for piece in _PIECE.findall(document.text[2000:])]
        for start in range(0, len(tokens) - WINDOW + 1, WINDOW):
            windows.append(tokens[start : start + WINDOW])
            docs.append(len(doc_ids))
            starts.append(start)
        doc_ids.append(document.doc_id)
        if len(windows) >= n_windows:
            break
    kept = slice(0, n_windows)
    return Text(list(ids), np.array(windows[kept]), np.array(docs[kept]), np.array(starts[kept]), doc_ids)


Rows = Iterator[tuple[str, dict[str, Any]]]


def _feature(feature: int, n_features: int, text: Text, splits: Array, rng: Generator, dead: bool) -> Rows:
    targets, activations = _activations(feature, text, rng)
    if dead:
        activations[:] = 0
    peaks = activations.max(1)
    firing = np.flatnonzero(peaks > 0)
    on = activations[activations > 0]
    density = on.size / activations.size
    flag = "dead" if dead else "dense" if density > 0.1 else "rare" if len(set(text.doc[firing])) < 3 else None
    yield "features", {
        "feature_id": feature, "n_tokens": on.size, "n_windows": len(firing),
        "n_documents": len(set(text.doc[firing].tolist())), "density": density,
        "max_activation": float(peaks.max()), "mean_activation": None if dead else float(on.mean()),
        "sd_activation": None if dead else float(on.std()), "flag": flag,
    }  # fmt: skip
    if dead:
        return
    edges = np.quantile(peaks[firing], np.linspace(0, 1, N_BANDS + 1))[1:-1]
    bands = np.where(peaks > 0, np.searchsorted(edges, peaks) + 1, 0)
    yield from _contexts(feature, activations, peaks, bands, splits)
    yield from _histogram(feature, peaks, bands)
    for rank, token in enumerate(rng.permutation(len(text.pieces))[:10].tolist()):
        side = "promoted" if rank < 5 else "suppressed"
        logit = (3 - rank % 5 / 2) * (1 if rank < 5 else -1)
        yield "output_tokens", {"feature_id": feature, "side": side, "rank": rank % 5, "token": token, "logit": logit}
    for rank in range(4):
        neighbour = (feature * 7 + rank * 5 + 1) % n_features
        yield "neighbours", {"feature_id": feature, "rank": rank, "neighbour_id": neighbour, "cosine": 0.8 - rank / 10}
    yield from _labels(feature, [text.pieces[t] for t in targets], activations, bands, splits, rng)


def _activations(feature: int, text: Text, rng: Generator) -> tuple[list[int], Array]:
    """Which tokens the feature fires on, and its activations [n_windows, WINDOW]."""
    counts = np.bincount(text.tokens.ravel(), minlength=len(text.pieces))
    common = np.argsort(-counts, kind="stable")[: min(400, max(1, int((counts >= 8).sum())))]
    targets = [int(common[(feature * 13 + k * 29) % len(common)]) for k in range(1 + feature % 4)]
    strength = 2.0 + 30.0 * rng.random()
    activations = np.zeros(text.tokens.shape, np.float32)
    for k, token in enumerate(targets):
        hit = text.tokens == token
        activations[hit] = (strength * 0.7**k * rng.lognormal(-0.4, 0.6, int(hit.sum()))).astype(np.float32)
    glow = np.zeros_like(activations)
    glow[:, 1:] = activations[:, :-1] * np.float32(0.3)
    return targets, np.where(activations > 0, activations, np.where(glow > 1, glow, 0)).astype(np.float32)


def _contexts(feature: int, activations: Array, peaks: Array, bands: Array, splits: Array) -> Rows:
    def context(kind: str, rank: int, window: int) -> dict[str, Any]:
        positions = np.flatnonzero(activations[window])
        return {
            "feature_id": feature, "kind": kind, "split": str(splits[window]), "band": int(bands[window]), "rank": rank,
            "window_id": _window_id(window), "peak": float(peaks[window]), "positions": positions.tolist(),
            "activations": activations[window][positions].tolist(), "duplicate": window % 37 == 0,
        }  # fmt: skip

    for split in ("explain", "test"):
        firing = np.flatnonzero((peaks > 0) & (splits == split))
        top = firing[np.argsort(-peaks[firing], kind="stable")][:20]
        yield from (("contexts", context("top", rank, int(w))) for rank, w in enumerate(top))
        for band in range(1, N_BANDS + 1):
            drawn = firing[bands[firing] == band][:5]
            yield from (("contexts", context("band", rank, int(w))) for rank, w in enumerate(drawn))
    pool = [w for w in range(0, len(peaks), 8) if peaks[w] > 0][:10]
    yield from (("contexts", context("random", rank, w)) for rank, w in enumerate(pool))


def _histogram(feature: int, peaks: Array, bands: Array) -> Rows:
    firing = peaks > 0
    bins = np.floor(4 * np.log2(peaks[firing])).astype(int)
    for bin_, band in sorted(set(zip(bins.tolist(), bands[firing].tolist(), strict=True))):
        count = int(((bins == bin_) & (bands[firing] == band)).sum())
        yield "histograms", {"feature_id": feature, "split": "test", "bin": bin_, "band": band, "n_windows": count}


def _labels(feature: int, pieces: list[str], activations: Array, bands: Array, splits: Array, rng: Generator) -> Rows:
    main, lexicon = f"llm-{feature}", f"lex-{feature}"
    names = " or ".join(f"“{piece.strip() or 'white space'}”" for piece in pieces)
    base = {"feature_id": feature, "status": "ok", "kind": "token" if len(pieces) == 1 else "token set"}
    if feature == 3:
        yield "explanations", {
            "explanation_id": main, "feature_id": feature, "explainer_key": "contrast", "explainer": "contrast",
            "model": "gpt-oss-120b", "status": "failed", "reason": "malformed: the answer is not JSON",
        }  # fmt: skip
        return
    yield "explanations", base | {
        "explanation_id": main, "explainer_key": "contrast", "explainer": "contrast", "model": "gpt-oss-120b",
        "title": f"the token {names}"[:90],
        "description": f"Fires on {names} in Python source, strongest on the first, weakly on the token that follows.",
    }  # fmt: skip
    yield "explanations", base | {
        "explanation_id": lexicon, "explainer_key": "lexicon", "explainer": "lexicon", "title": f"tokens {names}",
    }  # fmt: skip
    evidence = [w for w in range(len(bands)) if bands[w] == N_BANDS and splits[w] == "explain"][:6]
    for rank, window in enumerate(evidence):
        yield "explanation_evidence", {"explanation_id": main, "rank": rank, "window_id": _window_id(window)}
    yield from _simulations(feature, main, activations, bands, splits, rng)
    yield from _scores(feature, main, lexicon, rng)


def _simulations(
    feature: int, explanation: str, activations: Array, bands: Array, splits: Array, rng: Generator
) -> Rows:
    scale = 10 / activations.max()
    chosen = [w for b in range(N_BANDS + 1) for w in np.flatnonzero((bands == b) & (splits == "test"))[:5].tolist()]
    for n, window in enumerate(chosen):
        expected = np.clip(activations[window] * scale * rng.uniform(0.5, 1.3, WINDOW), 0, 10)
        expected[rng.integers(WINDOW)] = rng.uniform(0, 6)
        failed = feature == 5 and n == len(chosen) - 1
        yield "simulations", {
            "score_key": "contrast", "feature_id": feature, "explanation_id": explanation,
            "simulator": "logprob_free", "model": "gpt-oss-120b",
            "control": "", "window_id": _window_id(window), "band": int(bands[window]),
            "status": "failed" if failed else "ok", "reason": "refused: no answer" if failed else None,
            "expected": None if failed else expected.tolist(),
        }  # fmt: skip


def _scores(feature: int, main: str, lexicon: str, rng: Generator) -> Rows:
    base = {"feature_id": feature, "scorer": "simulation", "simulator": "logprob_free", "n_ok": 30, "n_failed": 0}
    if feature == 4:
        yield "scores", base | {
            "score_key": "contrast", "explanation_id": main, "metric": "r_balanced", "control": "",
            "status": "undefined", "reason": "the simulated activations are constant",
        }  # fmt: skip
        return
    value, half = float(rng.beta(4, 3)), 0.05 + 0.15 * float(rng.random())
    for explanation, metric, control, score in (
        (main, "r_balanced", "", value),
        (main, "r_corpus", "", value * 0.8),
        ("llm-other", "r_balanced", "shuffled", float(rng.normal(0, 0.05))),
        (lexicon, "r_balanced", "", value - 0.05),
        (main, "lexical_gain_balanced", "", float(rng.normal(0.05, 0.1))),
    ):
        yield "scores", base | {
            "score_key": "lexicon" if explanation == lexicon else "contrast", "explanation_id": explanation,
            "metric": metric, "control": control, "value": score, "lo": score - half, "hi": min(1.0, score + half),
            "status": "ok", "n_failed": int(feature == 5),
        }  # fmt: skip


def _insert_stages(connection: duckdb.DuckDBPyConnection, n_features: int, text: Text) -> None:
    sample = {
        "subject": "demo/python-lm", "sae": "demo/sae", "sae_format": "sparsify-topk", "hookpoint": "layers.2",
        "corpus": "stdlib", "tokens": int(text.tokens.size), "windows": len(text.tokens),
        "documents": len(text.doc_ids),
        "features": n_features, "seed": 0, "window": WINDOW,
        "conformance": {"l0": 31.6, "l0_expected": 32.0, "fvu": 0.21, "tokens": 20000},
    }  # fmt: skip
    score = {
        "metric": "r_balanced", "n_scored": n_features - 3, "controls": ["shuffled"],
    }  # fmt: skip
    insert(connection, "stages", [
        {"stage": stage, "fingerprint": stage, "config": '{"seed": 0}', "version": "0.1.0", "facts": json.dumps(facts)}
        for stage, facts in (("sample", sample), ("score", score))
    ])  # fmt: skip


def plant_hostile_text(connection: duckdb.DuckDBPyConnection) -> None:
    """Put markup, separators and invisible characters wherever text of strangers can stand."""
    connection.execute("UPDATE explanations SET title = $1, description = $1, kind = $1, model = $1", [HOSTILE])
    connection.execute("UPDATE documents SET doc_id = $1", [HOSTILE])
    connection.execute("UPDATE vocabulary SET text = $1, bytes = $2 WHERE token % 3 = 0", [HOSTILE, HOSTILE.encode()])
    connection.execute("UPDATE simulations SET reason = $1, status = 'failed' WHERE band = 3", [HOSTILE])
    connection.execute("UPDATE explanations SET reason = $1 WHERE status = 'failed'", [HOSTILE])
    connection.execute("UPDATE scores SET reason = $1 WHERE status <> 'ok'", [HOSTILE])
    connection.execute("UPDATE spend SET model = $1", [HOSTILE])
    facts = "json_merge_patch(facts, json_object('sae', $1::VARCHAR))"
    connection.execute(f"UPDATE stages SET facts = {facts} WHERE stage = 'sample'", [HOSTILE])
