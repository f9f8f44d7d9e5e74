"""The whole harvest against a dense brute-force reference: real forward pass, real files, value for value."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.config_reading import load_config
from autointerp.harvest import passes
from autointerp.harvest.runs import Run
from autointerp.harvest.sketch import bin_of, peak_key
from autointerp.harvest.stage import sample
from autointerp.hashing import sample_key
from autointerp.subject.windows import per_split, pool_keys, split_of, window_ids

SPLITS = ("explain", "rerank", "test")
TABLES = (
    "documents",
    "windows",
    "features",
    "histograms",
    "strata",
    "contexts",
    "output_tokens",
    "neighbours",
    "cofiring",
    "vocabulary",
)


def configured(settings: dict[str, object], **more: object) -> Config:
    return load_config(None, settings | {name.replace("__", "."): value for name, value in more.items()})


def key_of(peak: float) -> int:
    return int(peak_key(np.array([peak], np.float32))[0])


def dump(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with Catalog.open(path) as catalog:
        return {table: catalog.rows(f"SELECT * FROM {table} ORDER BY ALL") for table in TABLES}


class Dense:
    """Every activation of every window by the plainest means: full forward pass, one document window at a time."""

    def __init__(self, config: Config) -> None:
        import jsonlines
        from safetensors.torch import load_file
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(config.subject.model, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(config.subject.model)
        w = load_file(Path(config.sae.path) / "sae_weights.safetensors")
        self.windows: list[dict[str, object]] = []
        with jsonlines.open(config.corpus.source) as reader:
            for line, item in enumerate(reader, start=1):
                doc_id = f"{Path(config.corpus.source).name}:{line}"
                ids = tokenizer(item["text"], add_special_tokens=False)["input_ids"]
                for start in range(0, len(ids), config.corpus.window - 1):
                    tokens = ids[start : start + config.corpus.window - 1]
                    with torch.inference_mode():
                        out = model(torch.tensor([[0, *tokens]]), output_hidden_states=True)
                    hidden = out.hidden_states[2][0, 1:]  # after layer 1, without BOS
                    pre = (hidden - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
                    acts = (torch.relu(pre) * (pre > w["threshold"])).numpy()
                    window = int(window_ids(doc_id, np.array([start], np.uint32))[0])
                    split = SPLITS[split_of(doc_id, config.seed)]
                    self.windows.append({"id": window, "doc": doc_id, "split": split, "tokens": tokens, "acts": acts})
        ids = np.array([w["id"] for w in self.windows], np.uint64)
        keys = pool_keys(config.seed, ids)
        self.pool = {
            int(ids[i]) for i in sorted(range(len(ids)), key=lambda i: (keys[i], ids[i]))[: config.sample.pool]
        }


@pytest.fixture(scope="module")
def dense(tiny_settings: dict[str, object]) -> Dense:
    return Dense(configured(tiny_settings))


@pytest.mark.parametrize("batch", [3, 32])
def test_equals_the_dense_reference(tiny_settings: dict[str, object], dense: Dense, tmp_path: Path, batch: int) -> None:
    config = configured(tiny_settings, sample__batch_windows=batch)
    [facts] = sample(config, tmp_path)
    n_tokens = sum(len(w["tokens"]) for w in dense.windows)
    assert facts["tokens"] == n_tokens and facts["windows"] == len(dense.windows)
    with Catalog.open(tmp_path / "catalog.duckdb") as catalog:
        features = {row[0]: row[1:] for row in catalog.rows(
            "SELECT feature_id, n_tokens, n_windows, n_documents, density, max_activation, mean_activation, sd_activation, flag "
            "FROM features")}  # fmt: skip
        assert len(features) == 24
        for f, (tokens, windows, documents, density, maximum, mean, sd, flag) in features.items():
            values = np.concatenate([w["acts"][:, f] for w in dense.windows]).astype(np.float64)
            fires = [w for w in dense.windows if w["acts"][:, f].max() > 0]
            assert (tokens, windows, documents) == ((values > 0).sum(), len(fires), len({w["doc"] for w in fires}))
            assert density == pytest.approx(tokens / n_tokens)
            assert maximum == pytest.approx(values.max(), rel=1e-4)
            if tokens:
                assert mean == pytest.approx(values[values > 0].mean(), rel=1e-4)
                assert sd == pytest.approx(values[values > 0].std(), rel=1e-3, abs=1e-4)
            else:
                assert (mean, sd, flag) == (None, None, "dead")
        assert (
            features[3][0] == 0 and sum(row[0] > 0 for row in features.values()) >= 15
        )  # the test has something to find
        check_contexts(catalog, config, dense)
        stored = catalog.rows(
            "SELECT window_id, tokens, w.split, in_pool, doc_id FROM windows w JOIN documents USING (doc)"
        )
        by_id = {w["id"]: w for w in dense.windows}
        for window, tokens, split, in_pool, doc in stored:
            assert (tokens, split, doc) == (by_id[window]["tokens"], by_id[window]["split"], by_id[window]["doc"])
            assert in_pool == (window in dense.pool)
        assert {row[0] for row in stored if row[3]} == dense.pool


def check_contexts(catalog: Catalog, config: Config, dense: Dense) -> None:
    """top, band and random rows, histograms and strata, feature by feature."""
    found: dict[tuple[int, str, str], list[tuple[int, int, dict[int, float], float]]] = defaultdict(list)
    for f, kind, split, band, window, peak, positions, values in catalog.rows(
        "SELECT feature_id, kind, split, band, window_id, peak, positions, activations FROM contexts "
        "ORDER BY feature_id, kind, split, CASE WHEN kind = 'band' THEN band END, rank"):  # fmt: skip
        found[f, kind, split].append((band, window, dict(zip(positions, values, strict=True)), peak))
    histogram = defaultdict(dict)
    for f, split, b, band, n in catalog.rows("SELECT * FROM histograms"):
        histogram[f][split, b] = (band, n)
    top = dict(zip(SPLITS, per_split(5), strict=True))
    drawn_of = dict(zip(SPLITS, per_split(4), strict=True))
    assert (top["explain"], drawn_of["test"]) == (3, 2)
    strata = {
        (f, split, band): n
        for f, split, band, n in catalog.rows("SELECT feature_id, split, band, n_windows FROM strata")
    }
    for f in range(24):
        peaks = {w["id"]: w["acts"][:, f].max() for w in dense.windows}
        bins = {i: int(bin_of(np.array([p], np.float32))[0]) for i, p in peaks.items() if p > 0}
        total, cumulated, band_of = len(bins), 0, {}
        for b in sorted(set(bins.values())):
            n = sum(v == b for v in bins.values())
            cumulated += n
            band_of[b] = min(3, 1 + int(3 * (cumulated - n / 2) / total))
        for split in SPLITS:
            inside = [w for w in dense.windows if w["split"] == split]
            firing = [w["id"] for w in inside if peaks[w["id"]] > 0]
            expected = {b: sum(bins[i] == b for i in firing) for b in {bins[i] for i in firing}}
            assert {b: n for (s, b), (_, n) in histogram[f].items() if s == split} == expected
            assert all(band_of[b] == band for (s, b), (band, _) in histogram[f].items() if s == split)
            assert strata[f, split, 0] == len(inside) - len(firing)
            best = sorted(firing, key=lambda i: (key_of(peaks[i]), i))[: top[split]]
            assert [row[1] for row in found[f, "top", split]] == best
            keys = {i: int(sample_key(0, f, np.array([i], np.uint64))[0]) for i in firing}
            drawn = []
            for band in (1, 2, 3):
                members = [i for i in firing if band_of[bins[i]] == band]
                assert strata.get((f, split, band), 0) == len(members)
                drawn += [(band, i) for i in sorted(members, key=lambda i: (keys[i], i))[: drawn_of[split]]]
            assert [row[:2] for row in found[f, "band", split]] == drawn
            assert {row[1] for row in found[f, "random", split]} == dense.pool & set(firing)
            by_id = {w["id"]: w for w in inside}
            for kind in ("top", "band", "random"):
                for _, window, sparse, peak in found[f, kind, split]:
                    acts = by_id[window]["acts"][:, f]
                    assert sorted(sparse) == np.flatnonzero(acts).tolist()
                    assert [sparse[p] for p in sorted(sparse)] == pytest.approx(acts[acts > 0].tolist(), rel=1e-4)
                    assert peak == pytest.approx(acts.max(), rel=1e-4)


def test_duplicates_are_those_that_share_the_tokens_around_the_peak(
    tiny_settings: dict[str, object], dense: Dense, tmp_path: Path
) -> None:
    """Thirteen tokens of the document around the peak, across the borders of windows, as in a context of an earlier split."""
    sample(configured(tiny_settings, sample__top=60, sample__per_band=60), tmp_path)
    with Catalog.open(tmp_path / "catalog.duckdb") as catalog:
        rows = catalog.rows(
            "SELECT feature_id, split, doc_id, start, positions, activations, duplicate "
            "FROM contexts JOIN windows USING (window_id, split) JOIN documents USING (doc, split)"
        )
    documents: dict[str, list[int]] = defaultdict(list)
    for window in dense.windows:  # in the order of the documents
        documents[window["doc"]] += window["tokens"]
    grams: dict[int, dict[tuple[int, ...], int]] = defaultdict(dict)
    seen = []
    for f, split, doc, start, positions, values, duplicate in rows:
        peak = start + positions[int(np.argmax(values))]
        gram = tuple(documents[doc][max(0, peak - 6) : peak + 7])
        order = SPLITS.index(split)
        seen.append((f, order, gram, duplicate))
        grams[f][gram] = min(order, grams[f].get(gram, 9))
    assert all(duplicate == (order > grams[f][gram]) for f, order, gram, duplicate in seen)
    assert 2 in {order for _, order, _, duplicate in seen if duplicate}


def test_a_stopped_harvest_goes_on_and_ends_the_same(
    tiny_settings: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample(configured(tiny_settings), tmp_path / "whole")
    settings = tiny_settings | {"sample.checkpoint_s": 0}
    original, harvested = passes.batches, []

    def stop_in_the_third_part(readers, windows, *rest):  # type: ignore[no-untyped-def]
        for batch in original(readers, windows, *rest):
            if len(set(harvested)) == 2 and windows.doc[0] not in harvested:
                raise KeyboardInterrupt
            harvested.append(windows.doc[0])
            yield batch

    with monkeypatch.context() as patched:
        patched.setattr(passes, "batches", stop_in_the_third_part)
        with pytest.raises(KeyboardInterrupt):
            sample(configured(settings), tmp_path / "stopped")
    first = set(harvested)
    assert len(first) == 2 and not Run(configured(settings), tmp_path / "stopped").catalog.exists()
    assert [path.name for path in (tmp_path / "stopped" / "shards").glob("*-*")] == ["00000-00002"]

    def noted(readers, windows, *rest):  # type: ignore[no-untyped-def]
        for batch in original(readers, windows, *rest):
            harvested.append(windows.doc[0])
            yield batch

    harvested.clear()
    monkeypatch.setattr(passes, "batches", noted)
    sample(configured(settings), tmp_path / "stopped")
    assert len(set(harvested)) > 3 and not first & set(harvested)  # the finished parts were not done again
    assert dump(tmp_path / "whole" / "catalog.duckdb") == dump(tmp_path / "stopped" / "catalog.duckdb")


def test_a_subset_of_features_has_the_same_rows(tiny_settings: dict[str, object], tmp_path: Path) -> None:
    sample(configured(tiny_settings), tmp_path / "all")
    sample(configured(tiny_settings, sample__features="2,5-7"), tmp_path / "some")
    whole, some = dump(tmp_path / "all" / "catalog.duckdb"), dump(tmp_path / "some" / "catalog.duckdb")
    for table in ("histograms", "strata", "contexts"):
        assert [row for row in whole[table] if row[0] in (2, 5, 6, 7)] == some[table]
    assert [row[0] for row in some["features"]] == [2, 5, 6, 7]


def test_descriptors(tiny_settings: dict[str, object], dense: Dense, tmp_path: Path) -> None:
    """Exact where contexts are few enough to be all kept; peaks and positions over every window."""
    config = configured(tiny_settings, sample__per_band=10_000)
    sample(config, tmp_path)
    with Catalog.open(tmp_path / "catalog.duckdb") as catalog:
        rows = catalog.rows("SELECT feature_id, top_token, top_token_share, token_entropy, position_dependence, peak_p50, "
                            "peak_p90 FROM features WHERE n_tokens > 0")  # fmt: skip
    length = config.corpus.window - 1
    buckets = np.array([min(7, p * 8 // length) for p in range(length)])
    everywhere = np.bincount(np.concatenate([buckets[: len(w["tokens"])] for w in dense.windows]), minlength=8)
    assert len(rows) > 15
    for f, token, share, entropy, dependence, p50, p90 in rows:
        fired = [(w["tokens"][p], buckets[p]) for w in dense.windows for p in np.flatnonzero(w["acts"][:, f])]
        counts = np.bincount([t for t, _ in fired])
        shares = counts[counts > 0] / counts.sum()
        assert counts[token] == counts.max() and share == pytest.approx(shares.max(), rel=1e-4)
        assert entropy == pytest.approx(-(shares * np.log2(shares)).sum(), rel=1e-3, abs=1e-6)
        at = np.bincount([b for _, b in fired], minlength=8) / len(fired)
        assert dependence == pytest.approx(np.abs(at - everywhere / everywhere.sum()).sum() / 2)
        # A quantile is told from the histogram: within a bin, a quarter of an octave, of the true one.
        peaks = sorted(w["acts"][:, f].max() for w in dense.windows if w["acts"][:, f].max() > 0)
        for q, found in ((0.5, p50), (0.9, p90)):
            true = peaks[int(np.ceil(q * len(peaks))) - 1]
            assert 2**-0.26 < found / true < 2**0.26 and found <= max(peaks) * 1.0001
