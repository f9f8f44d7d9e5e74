"""`r_corpus` of a harvest's own samples against the correlation over every token of the corpus."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autointerp.catalog.reading import EvidenceReader
from autointerp.catalog.records import Context
from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.config_reading import load_config
from autointerp.harvest.stage import sample
from autointerp.hashing import stable_hash
from autointerp.score import ScoreRow, Simulated, metrics
from autointerp.score.simulation import score_simulation, scored_contexts
from autointerp.subject.windows import split_of
from tests.conftest import WORDS
from tests.harvest.test_harvest import SPLITS, Dense

SEEDS, REDRAWS = range(3), 4
FEATURES = 24
Array = NDArray[np.float64]


class Truth:
    """Every activation of the corpus, and what an oracle with faults predicts for it: windows [W], tokens in their order.

    `threshold` [F]: above which features fire, so that they fire on 0.3 to 5 % of the tokens."""

    def __init__(self, config: Config) -> None:
        windows = Dense(config).windows
        self.place = {int(window["id"]): at for at, window in enumerate(windows)}  # type: ignore[call-overload]
        self.documents = [str(window["doc"]) for window in windows]
        true = [np.asarray(window["acts"], np.float64) for window in windows]
        whole = np.concatenate(true)
        shares = np.geomspace(0.003, 0.05, FEATURES)
        ends = [np.quantile(whole[:, at], 1 - share) for at, share in enumerate(shares)]
        self.threshold = np.array(ends, np.float32)
        self.true = [np.where(one > self.threshold, one, 0.0) for one in true]
        self.maximum = whole.max(axis=0)

    def predicted(self, feature: int) -> list[Array]:
        """Three active windows of ten overlooked, the strength blurred, false alarms at a token of one window of six."""
        found = []
        for at, true in enumerate(self.true):
            generator = np.random.default_rng(stable_hash("oracle", feature, at))
            level = true[:, feature] * 10 / self.maximum[feature] + generator.normal(0, 1.5, len(true))
            noticed = (true[:, feature] > 0) & (generator.random() > 0.3)
            said = np.where(noticed, np.clip(level, 0, 10), 0.0)
            if generator.random() < 1 / 6:
                said[generator.integers(0, len(said))] = generator.uniform(2, 10)
            found.append(said.astype(np.float32).astype(np.float64))
        return found

    def r(self, feature: int, predicted: list[Array], seed: int | None = None) -> float:
        """Over every token: of the corpus, or of the test split that a seed gives."""
        of = [at for at, name in enumerate(self.documents) if seed is None or SPLITS[split_of(name, seed)] == "test"]
        true = np.concatenate([self.true[at][:, feature] for at in of])
        return float(metrics.pearson(true, np.concatenate([predicted[at] for at in of])).value or np.nan)


def test_r_corpus_is_unbiased_against_the_whole_corpus(
    tiny_settings: dict[str, object], tiny_sae: Path, tmp_path: Path
) -> None:
    """Harvests with other splits and samples, several draws of silent contexts of each; features on 0.3 to 5 % of the tokens."""
    draw = random.Random(1)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 120))) for _ in range(300)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    settings = {"corpus.source": str(tmp_path / "corpus.jsonl"), "sample.part_windows": 512, "sample.pool": 256,
                "sample.per_band": 12, "sample.bands": 5}  # fmt: skip
    config = load_config(None, tiny_settings | settings)
    truth = Truth(config)
    rarer = _with_thresholds(tiny_sae, tmp_path / "sae", truth.threshold)
    config = load_config(None, tiny_settings | settings | {"sae.path": str(rarer)})
    chosen = [feature for feature in range(FEATURES) if truth.threshold[feature] > 0]
    predicted = {feature: truth.predicted(feature) for feature in chosen}
    whole = {feature: truth.r(feature, predicted[feature]) for feature in chosen}
    errors, balanced, held = np.zeros((len(SEEDS), len(chosen))), [], []
    for seed in SEEDS:
        own = {feature: truth.r(feature, predicted[feature], seed) for feature in chosen}
        for feature, rows in _scored(config, truth, predicted, seed, tmp_path / str(seed)):
            corpus = rows["r_corpus"]
            assert corpus.value is not None, corpus.reason
            errors[seed, chosen.index(feature)] += (corpus.value - whole[feature]) / REDRAWS
            balanced.append((rows["r_balanced"].value or 0) - whole[feature])
            if corpus.lo is not None and corpus.hi is not None:
                held.append(corpus.lo <= own[feature] <= corpus.hi)
    bias, error = float(errors.mean()), float(errors.mean(axis=1).std(ddof=1) / len(SEEDS) ** 0.5)
    assert len(chosen) >= 20 and 0.1 < min(whole.values()) < max(whole.values()) < 0.9  # neither hopeless nor perfect
    assert abs(bias) < max(2 * error, 0.015), (bias, error)
    assert np.mean(balanced) > 0.1  # with other weights the same simulations say something else
    assert len(held) >= 200 and np.mean(held) >= 0.9


def _with_thresholds(sae: Path, folder: Path, threshold: NDArray[np.float32]) -> Path:
    from safetensors.numpy import load_file, save_file

    folder.mkdir()
    (folder / "cfg.json").write_text((sae / "cfg.json").read_text())
    weights = load_file(sae / "sae_weights.safetensors")
    save_file(weights | {"threshold": threshold}, folder / "sae_weights.safetensors")
    return folder


def _scored(
    config: Config, truth: Truth, predicted: dict[int, list[Array]], seed: int, folder: Path
) -> Iterator[tuple[int, dict[str, ScoreRow]]]:
    sample(config.model_copy(update={"seed": seed}), folder)
    with Catalog.open(folder / "catalog.duckdb") as catalog:
        for redraw in range(REDRAWS):
            for evidence in EvidenceReader(catalog, seed=redraw, silent=50).read(sorted(predicted), ("test",)):
                said = [_said(one, truth, predicted[evidence.feature_id]) for one in scored_contexts(evidence)]
                rows = score_simulation(evidence, said, resamples=500)
                yield evidence.feature_id, {row.metric: row for row in rows}


def _said(context: Context, truth: Truth, predicted: list[Array]) -> Simulated:
    return Simulated(context.window_id, predicted[truth.place[context.window_id]].astype(np.float32), "ok")
