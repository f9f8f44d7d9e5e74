"""Random directions: thresholds, what they are matched to, and that they fire as often as the features that they stand in for."""

from pathlib import Path

import numpy as np
import pytest
import torch

from autointerp.catalog.store import Catalog
from autointerp.config_reading import load_config
from autointerp.errors import UserError
from autointerp.files import link_folder
from autointerp.harvest.null import Largest, make_directions, matched_features, null_run, random_directions
from autointerp.harvest.runs import Run, runs_below
from autointerp.harvest.stage import sample
from autointerp.sae import SAE, load_sae


def thresholds(projections: torch.Tensor, density: np.ndarray, n_tokens: int, at_once: int = 1000) -> torch.Tensor:
    held = Largest(density, n_tokens)
    for part in projections.split(at_once):
        held.add(part)
    return held.thresholds()


def test_thresholds_are_those_of_all_values_in_order_and_few_are_kept() -> None:
    generator = np.random.default_rng(2)
    projections = torch.from_numpy(generator.standard_normal((500, 70)).astype(np.float32).round(1))
    density = generator.random(70) ** 6
    density[:2] = 1.0, 1e-9
    ordered = projections.sort(dim=0, descending=True).values
    above = np.clip(np.round(density * 520), 1, 499).astype(int)
    expected = [float(ordered[n - 1, column] + ordered[n, column]) / 2 for column, n in enumerate(above)]
    for at_once in (1, 7, 500):
        assert thresholds(projections, density, 520, at_once).tolist() == pytest.approx(expected, abs=1e-6)
    held = Largest(np.full(70, 0.01), 520)
    held.add(projections)
    assert sum(part.numel() for part in held._held) == 70 * 6


def test_thresholds_by_hand() -> None:
    columns = torch.tensor([[4.0, 1.0], [1.0, 1.0], [3.0, 5.0], [2.0, 2.0]])
    # Half of four tokens of the first column lie above (3 + 2) / 2, and a quarter of eight above (5 + 2) / 2 … of the second.
    found = thresholds(columns, np.array([0.5, 0.125]), 4)
    assert found.tolist() == [2.5, 3.5]  # 0.5 of four is 2; 0.125 rounds to 0, and one it must be
    assert thresholds(columns, np.array([0.25, 0.25]), 8).tolist() == [2.5, 1.5]  # tokens that are left out count
    assert thresholds(columns, np.array([1.0, 1.0]), 4).tolist() == [1.5, 1.0]  # never all


def test_directions_are_unit_seeded_and_read_what_the_sae_reads() -> None:
    draw = torch.Generator().manual_seed(0)
    encoder = torch.randn(6, 4, generator=draw)
    real = SAE(activation="relu", encoder=encoder, b_enc=torch.zeros(6), decoder=encoder, b_dec=torch.ones(4),
               input_norm="layer_norm", center_input=True, subtract_b_dec=True, prepend_bos=False)  # fmt: skip
    found = random_directions(real, 50, 3, "model.layers.1")
    assert found.encoder is not None and torch.allclose(found.encoder.norm(dim=1), torch.ones(50))
    assert (found.input_norm, found.center_input, found.prepend_bos, found.hook_in) == (
        "layer_norm",
        True,
        False,
        "model.layers.1",
    )
    again, other = random_directions(real, 50, 3, "x"), random_directions(real, 50, 4, "x")
    assert torch.equal(found.encoder, again.encoder) and not torch.equal(found.encoder, other.encoder)
    x = torch.randn(9, 4, generator=draw)
    assert torch.allclose(found.preactivations(x).relu(), found.encode(x))


def test_a_folder_is_linked_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("COMPLETE.json", "x.parquet"):
        (tmp_path / "a" / name).write_text(name)
    link_folder(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "x.parquet").unlink()
    (tmp_path / "b" / "x.parquet").write_text("own")
    link_folder(tmp_path / "a", tmp_path / "b")
    link_folder(tmp_path / "nowhere", tmp_path / "c")
    assert (tmp_path / "b" / "x.parquet").read_text() == "own" and (
        tmp_path / "a" / "x.parquet"
    ).read_text() == "x.parquet"
    assert (tmp_path / "b" / "COMPLETE.json").read_text() == "COMPLETE.json" and not (tmp_path / "c").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_settings: dict[str, object]) -> Run:
    one = Run(load_config(None, tiny_settings), tmp_path_factory.mktemp("null") / "run")
    sample(one.config, one.out)
    return one


def test_they_fire_as_often_as_the_features(run: Run) -> None:
    matched = make_directions(run, 12, run.out / "plan")
    null = null_run(run)
    assert load_sae(null.config.sae.path).format == "directions"
    densities = matched_features(run, 10_000)
    assert set(matched.values()) <= densities.keys() and sorted(matched) == list(range(12))
    sample(null.config, null.out)
    with Catalog.open(null.catalog) as catalog:
        found = dict(catalog.rows("SELECT feature_id, density FROM features ORDER BY feature_id"))
    expected = {direction: densities[feature] for direction, feature in matched.items()}
    # Thresholds are from one half of the documents, densities from all.
    assert np.mean([found[one] / expected[one] for one in matched]) == pytest.approx(1, abs=0.15)
    assert all(found[one] == pytest.approx(expected[one], rel=0.6, abs=2e-3) for one in matched)
    assert (null.out / "plan" / "pool.parquet").stat().st_ino == (run.out / "plan" / "pool.parquet").stat().st_ino
    assert runs_below(run.out) == []


def test_they_are_made_once(run: Run) -> None:
    path = run.out / "null" / "directions" / "directions.safetensors"
    first = make_directions(run, 12, run.out / "plan")
    before = path.stat().st_mtime_ns
    assert make_directions(run, 12, run.out / "plan") == first and path.stat().st_mtime_ns == before
    with pytest.raises(UserError, match="holds 12 random directions, and 5 are asked for"):
        make_directions(run, 5, run.out / "plan")


def test_more_than_there_are_features_take_turns(run: Run) -> None:
    assert len(matched_features(run, 3)) == 3
    everything = matched_features(run, 10_000)
    assert list(matched_features(run, 3)) == list(everything)[:3]
