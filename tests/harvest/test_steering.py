"""The stage `steer` against a plain reference that runs the whole model, and what it leaves alone."""

import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autointerp.catalog.reading import EvidenceReader
from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.config_reading import load_config
from autointerp.errors import UserError
from autointerp.explain.stage import explainer_for, explainer_key
from autointerp.explain.supply import require_steered
from autointerp.harvest import steering
from autointerp.harvest.forward import Reader
from autointerp.harvest.runs import runs_of
from autointerp.harvest.setup import open_readers
from autointerp.harvest.stage import sample
from autointerp.harvest.steering import measuring, prompts_of, steer, wanted_features
from autointerp.harvest.writing import directions, lengths, output_site
from autointerp.sae import SAE
from autointerp.subject.hookpoints import Hookpoint
from autointerp.subject.interventions import intervene
from tests.cli.test_bad_input import options, run

torch.set_num_threads(1)
STEERING = {
    "steering.prompts": 5,
    "steering.length": 7,
    "steering.tokens": 6,
    "steering.kl": 0.1,
    "steering.floor": 1e-3,
}
ROWS = "SELECT feature_id, direction, rank, token, change, kl, strength FROM steered_tokens ORDER BY ALL"


@pytest.fixture(scope="module")
def config(tiny_settings: dict[str, object]) -> Config:
    return load_config(None, tiny_settings | STEERING)


@pytest.fixture(scope="module")
def sampled(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run before the stage."""
    folder = tmp_path_factory.mktemp("steering") / "sampled"
    sample(config, folder)
    return folder


@pytest.fixture(scope="module")
def out(config: Config, sampled: Path) -> Path:
    """A run after it."""
    folder = Path(shutil.copytree(sampled, sampled.parent / "run"))
    steer(config, folder)
    return folder


@pytest.fixture(scope="module")
def reader(config: Config, sampled: Path) -> Reader:
    return open_readers(runs_of(config, sampled))[0]


def rows(folder: Path, query: str = ROWS) -> list[tuple]:
    with Catalog.open(folder / "catalog.duckdb") as catalog:
        return catalog.rows(query)


def set_steering(config: Config, **changed: object) -> Config:
    return config.model_copy(update={"steering": config.steering.model_copy(update=changed)})


def test_equals_whole_forward_passes_with_the_direction_added(config: Config, out: Path, reader: Reader) -> None:
    with Catalog.open(out / "catalog.duckdb") as catalog:
        windows = catalog.rows("SELECT window_id, tokens FROM windows WHERE in_pool AND split = 'explain'")
        maxima = dict(catalog.rows("SELECT feature_id, max_activation FROM features"))
        prompts = prompts_of(catalog, config)
    tokens = prompts.tokens.reshape(5, 7)
    held = {window: list(text[:7]) for window, text in windows}
    assert [held[window] for window in prompts.window_id] == tokens.tolist()
    ids = torch.from_numpy(np.concatenate([np.zeros((5, 1), np.int64), tokens.astype(np.int64)], 1))  # 0 is BOS

    def log_probs(added: torch.Tensor) -> torch.Tensor:
        mask = torch.ones(ids.shape, dtype=torch.bool)
        mask[:, 0] = False
        with (
            torch.inference_mode(),
            intervene(reader.subject.model, {reader.hookpoint: lambda x: x + added}, mask=mask),
        ):
            return reader.subject.model(input_ids=ids).logits[:, -4:].log_softmax(-1).reshape(20, -1)

    clean = log_probs(torch.zeros(16))
    found = defaultdict(list)
    for feature, *row in rows(out):
        found[feature].append(row)
    assert set(found) == {feature for feature, maximum in maxima.items() if maximum > 0} and 3 not in found
    for feature, own in found.items():
        [(kl, strength)] = {tuple(row[-2:]) for row in own}
        steered = log_probs(reader.sae.W_dec[feature] * maxima[feature] * strength)
        change = (steered - clean).mean(0)
        assert float((clean.exp() * (clean - steered)).sum(-1).mean()) == pytest.approx(kl, rel=1e-3)
        assert strength == pytest.approx(16.0) or 0.1 <= kl < 0.105
        likely = torch.maximum(clean.exp().mean(0), steered.exp().mean(0)) >= 1e-3
        for direction, sign in (("up", 1), ("down", -1)):
            order = torch.where(likely, sign * change, -torch.inf).argsort(descending=True)[:6].tolist()
            listed = [row for row in own if row[0] == direction]
            assert [row[2] for row in listed] == order[: len(listed)] and [row[1] for row in listed] == [
                1,
                2,
                3,
                4,
                5,
                6,
            ]
            assert [row[3] for row in listed] == pytest.approx([float(change[token]) for token in order], abs=1e-4)


def test_the_demo_model_from_its_hookpoint_on_equals_whole_forward_passes() -> None:
    from autointerp.harvest.setup import load_subject_and_sae, resolve_hook
    from autointerp.harvest.writing import adding
    from autointerp.subject.tail import Tail

    subject, sae = load_subject_and_sae(Config())
    site = resolve_hook(Config(), subject, sae)
    words = subject.tokenizer("def close(self):\n    self.file.close()\n    raise ValueError", add_special_tokens=False)
    ids = torch.tensor([[0, *words["input_ids"][:12]], [0, *words["input_ids"][2:14]]])
    mask = ids != 0
    added = directions(sae, [10, 1464]) * torch.tensor([40.0, 9.0])[:, None]
    found = Tail(subject.model, site, ids, mask, keep=6).log_probs(adding(sae, added.repeat_interleave(2, 0)), 2)
    for one, direction in zip(found, added, strict=True):
        with torch.inference_mode(), intervene(subject.model, {site: lambda x, d=direction: x + d}, mask=mask):
            logits = subject.model(input_ids=ids, use_cache=False).logits[:, -6:]
        assert (one - logits.log_softmax(-1).reshape(12, -1)).abs().max() < 1e-4
    assert (found[0] - found[1]).abs().max() > 0.5


@pytest.mark.parametrize("batch_rows", [1, 35])
def test_independent_of_the_batch_size(
    config: Config, sampled: Path, out: Path, tmp_path: Path, batch_rows: int
) -> None:
    folder = Path(shutil.copytree(sampled, tmp_path / "run"))
    steer(set_steering(config, batch_rows=batch_rows), folder)
    one, other = rows(folder), rows(out)
    assert [row[:4] for row in one] == [row[:4] for row in other]
    assert np.array([row[4:] for row in one]) == pytest.approx(np.array([row[4:] for row in other]), rel=1e-3)


def test_it_goes_on_where_it_was_stopped(
    config: Config, sampled: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(sampled, tmp_path / "run"))
    monkeypatch.setattr(steering, "_SECONDS_BETWEEN_WRITES", 0.0)
    asked: list[int] = []
    stop_after = 30
    plain = steering.measuring

    def measuring(*args: object) -> object:
        measure = plain(*args)  # type: ignore[arg-type]

        def some(features: list[int], strengths: list[float]) -> object:
            asked.extend(features)
            if len(asked) > stop_after:
                raise KeyboardInterrupt
            return measure(features, strengths)

        return some

    monkeypatch.setattr(steering, "measuring", measuring)
    with pytest.raises(KeyboardInterrupt):
        steer(set_steering(config, batch_rows=5), folder)
    done = {feature for feature, *_ in rows(folder)}
    everything = {feature for feature, *_ in rows(out)}
    assert 0 < len(done) < len(everything)
    enabled = set_steering(config, enabled=True)
    with (
        Catalog.open(folder / "catalog.duckdb") as catalog,
        pytest.raises(UserError, match="not all of it is measured"),
    ):
        require_steered(enabled, catalog, explainer_for(enabled, "output"))
    asked, stop_after = [], 10**9
    [facts] = steer(set_steering(config, batch_rows=5), folder)
    assert set(asked) == everything - done
    assert [row[:4] for row in rows(folder)] == [row[:4] for row in rows(out)]
    assert (facts["features"], facts["missing"], facts["unmoved"]) == (len(everything), 0, [])
    asked = []
    steer(config, folder)
    assert asked == []
    # Other settings are another measurement.
    steer(set_steering(config, tokens=2), folder)
    assert asked and max(rank for _, _, rank, *_ in rows(folder)) == 2


def test_some_features_first_and_the_others_later(config: Config, sampled: Path, out: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sampled, tmp_path / "run"))
    [facts] = steer(set_steering(config, features="1,5-7"), folder)
    assert {feature for feature, *_ in rows(folder)} <= {1, 5, 6, 7} and facts["which"] == "1,5-7"
    chosen = set_steering(config, features="1,5-7", enabled=True)
    with Catalog.open(folder / "catalog.duckdb") as catalog:
        require_steered(chosen, catalog, explainer_for(chosen, "output"))
        with pytest.raises(UserError, match="autointerp steer"):
            require_steered(set_steering(config, enabled=True), catalog, explainer_for(chosen, "output"))
    steer(config, folder)
    assert [row[:4] for row in rows(folder)] == [row[:4] for row in rows(out)]
    [facts] = steer(chosen, folder)  # nothing to do but to note what was asked for
    assert facts["which"] == "1,5-7" and [row[:4] for row in rows(folder)] == [row[:4] for row in rows(out)]


def test_a_file_of_features_that_has_changed_is_another_choice(config: Config, sampled: Path, tmp_path: Path) -> None:
    folder, path = Path(shutil.copytree(sampled, tmp_path / "run")), tmp_path / "chosen.txt"
    path.write_text("5\n")
    chosen = set_steering(config, features=str(path), enabled=True)
    chosen = chosen.model_copy(
        update={"explain": config.explain.model_copy(update={"model": "mock", "provider": "mock"})}
    )
    steer(chosen, folder)
    key = explainer_key(chosen, "output")
    path.write_text("5, 6\n")
    assert explainer_key(chosen, "output") != key
    with Catalog.open(folder / "catalog.duckdb") as catalog, pytest.raises(UserError, match="run: autointerp steer"):
        require_steered(chosen, catalog, explainer_for(chosen, "output"))
    steer(chosen, folder)
    assert {feature for feature, *_ in rows(folder)} == {5, 6}
    with Catalog.open(folder / "catalog.duckdb") as catalog:
        require_steered(chosen, catalog, explainer_for(chosen, "output"))


def test_features_that_move_only_unlikely_tokens_are_no_unmoved_ones(
    config: Config, sampled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(sampled, tmp_path / "run"))
    plain = open_readers(runs_of(config, folder))
    assert plain[0].sae.decoder is not None
    plain[0].sae.decoder[4] = 0.0
    monkeypatch.setattr("autointerp.harvest.setup.open_readers", lambda runs: plain)
    [facts] = steer(set_steering(config, features="4-6", floor=0.999), folder)
    assert (facts["unmoved"], facts["unlisted"]) == ([4], [5, 6])
    assert (facts["features"], facts["missing"]) == (0, 0) and rows(folder) == []
    asked: list[object] = []
    monkeypatch.setattr(steering, "measuring", lambda *args: asked.append(args))
    [again] = steer(set_steering(config, features="4-6", floor=0.999), folder)
    assert asked == [] and again == facts


def test_weak_features_and_those_that_move_nothing_are_recorded_as_such(
    config: Config, sampled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(sampled, tmp_path / "run"))
    plain = open_readers(runs_of(config, folder))
    decoder = plain[0].sae.decoder
    assert decoder is not None
    decoder[4], decoder[5] = 0.0, decoder[5] * 1e-3
    monkeypatch.setattr("autointerp.harvest.setup.open_readers", lambda runs: plain)
    [facts] = steer(set_steering(config, features="4-6"), folder)
    assert facts["unmoved"] == [4] and (facts["features"], facts["reached"]) == (2, 1)
    weak = rows(folder, "SELECT DISTINCT kl, strength FROM steered_tokens WHERE feature_id = 5")
    assert len(weak) == 1 and 0 < weak[0][0] < 0.01 and weak[0][1] == 16.0
    with Catalog.open(folder / "catalog.duckdb") as catalog:
        found = EvidenceReader(catalog, seed=0, silent=1).read([4, 5], steered=True)
        assert found[0].steered is None and found[1].steered is not None
        assert found[1].steered.kl == pytest.approx(weak[0][0])
        assert EvidenceReader(catalog, seed=0, silent=1).read([5])[0].steered is None


def test_labels_from_other_evidence_are_other_labels(config: Config) -> None:
    on = set_steering(config, enabled=True)
    access = {"explain": config.explain.model_copy(update={"model": "mock", "provider": "mock"})}
    config, on = config.model_copy(update=access), on.model_copy(update=access)
    for name, differs in (("lexicon", False), ("token_activation", False), ("output", True), ("dual", True)):
        assert (explainer_key(config, name) != explainer_key(on, name)) == differs
    keys = {explainer_key(set_steering(on, **{field: value}), "output")
            for field, value in (("kl", 1.0), ("features", "1"), ("tokens", 3), ("kl", config.steering.kl))}  # fmt: skip
    assert len(keys) == 4
    assert explainer_key(set_steering(on, batch_rows=3), "output") == explainer_key(on, "output")


def test_a_corpus_of_short_texts_is_refused_in_one_line(config: Config, sampled: Path) -> None:
    with (
        Catalog.open(sampled / "catalog.duckdb") as catalog,
        pytest.raises(UserError, match=r"set steering\.length lower"),
    ):
        prompts_of(catalog, set_steering(config, length=500))


def test_the_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, sampled: Path, tiny_settings: dict[str, object]
) -> None:
    folder = Path(shutil.copytree(sampled, tmp_path / "run"))
    small = tiny_settings | {name: value for name, value in STEERING.items() if name != "steering.kl"}
    code, err = run(capsys, "steer", *options(small), "--features", "0-5", "--kl", "0.05", "--out", folder)
    assert code == 0, err
    assert {feature for feature, *_ in rows(folder)} == {0, 1, 2, 4, 5}
    code, err = run(
        capsys, "explain", "--out", folder, "--explainer", "output", "--provider", "mock", "--label-model", "mock"
    )
    assert code == 0, err
    steered = rows(folder, "SELECT count(*) FROM explanations WHERE explainer = 'output' AND status = 'ok'")
    assert steered[0][0] > 5
    said = rows(folder, "SELECT languages, domains FROM explanations WHERE explainer = 'output' AND status = 'ok'")
    assert all(isinstance(one, list) for row in said for one in row)
    # With other settings than were measured nothing is labelled.
    code, err = run(capsys, "explain", "--out", folder, "--set", "steering.kl=0.2")
    assert code == 2 and "autointerp steer --out" in err


@pytest.mark.parametrize("norm", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("centred", [False, True])
def test_what_is_added_is_the_features_share_of_the_reconstruction(norm: str, centred: bool) -> None:
    draw = torch.Generator().manual_seed(3)
    sae = SAE(
        activation="relu", encoder=torch.randn(9, 6, generator=draw), b_enc=torch.zeros(9),
        decoder=torch.randn(9, 6, generator=draw), b_dec=torch.randn(6, generator=draw), input_norm=norm,  # type: ignore[arg-type]
        center_input=centred,
    )  # fmt: skip
    x, f = torch.randn(4, 6, generator=draw) * 5, torch.rand(4, 9, generator=draw)
    more = f.clone()
    more[:, 2] += 1.7
    expected = sae.decode(more, x) - sae.decode(f, x)
    assert torch.allclose(1.7 * directions(sae, [2]) * lengths(sae, x), expected, atol=1e-4)


def test_where_it_is_written(reader: Reader) -> None:
    def of(sae: SAE) -> Reader:
        return Reader(reader.subject, sae, Hookpoint("model.layers.1", "out"), prepend_bos=True)

    eye = SAE(activation="relu", encoder=None, b_enc=torch.zeros(16), decoder=None, b_dec=torch.zeros(16))
    assert output_site(of(eye)) == Hookpoint("model.layers.1", "out")
    assert directions(eye, [3]).tolist() == [[0.0] * 3 + [1.0] + [0.0] * 12]
    transcoder = replace(eye, transcoder=True, hook_out="model.layers.2.mlp:out")
    assert output_site(of(transcoder)) == Hookpoint("model.layers.2.mlp", "out")
    with pytest.raises(UserError, match="cross-layer transcoder"):
        output_site(of(replace(eye, transcoder=True, format="circuit_tracer_clt")))
    with pytest.raises(UserError, match="do not say which hidden state"):
        output_site(of(replace(eye, transcoder=True)))


def test_a_transcoder_is_steered_where_it_writes(config: Config, sampled: Path, reader: Reader) -> None:
    transcoder = replace(reader.sae, transcoder=True, hook_out="model.layers.2.mlp:out")
    other = Reader(reader.subject, transcoder, reader.hookpoint, prepend_bos=True)
    with Catalog.open(sampled / "catalog.duckdb") as catalog:
        prompts, maxima = prompts_of(catalog, config), wanted_features(catalog, config.steering, reader.sae.d_sae)
    [there] = measuring(other, prompts, maxima, config.steering)([1], [1.0])
    [here] = measuring(reader, prompts, maxima, config.steering)([1], [1.0])
    assert there.kl > 0 and there.up != here.up
