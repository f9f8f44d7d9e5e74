"""Models, SAEs and corpora at the edge of sense: a clear error or a right result, never a wrong one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from autointerp.catalog.store import Catalog
from autointerp.errors import UserError
from autointerp.harvest.stage import sample
from tests.harvest.test_harvest import configured, dump


def changed_weights(folder: Path, name: str, out: Path, **change: torch.Tensor) -> Path:
    """A copy of a model or SAE with some tensors replaced."""
    shutil.copytree(folder, out)
    weights = load_file(out / name)
    unknown = set(change) - set(weights)
    assert not unknown, unknown
    save_file(weights | change, out / name, metadata={"format": "pt"})
    return out


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_is_not_finite(
    tiny_settings: dict[str, object], tiny_model: Path, tmp_path: Path, value: float
) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    weight = load_file(tiny_model / "model.safetensors")[name]
    weight[0, 0] = value
    model = changed_weights(tiny_model, "model.safetensors", tmp_path / "model", **{name: weight})
    with pytest.raises(UserError, match="NaN or infinite in window") as error:
        sample(configured(tiny_settings, subject__model=str(model)), tmp_path / "run")
    assert "model.layers.1:out" in str(error.value)
    assert not (tmp_path / "run" / "catalog.duckdb").exists()


def test_float16_that_overflows_says_so(tiny_settings: dict[str, object], tiny_model: Path, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    weight = 1e5 * torch.ones_like(load_file(tiny_model / "model.safetensors")[name])
    model = changed_weights(tiny_model, "model.safetensors", tmp_path / "model", **{name: weight})
    with pytest.raises(UserError, match="float16, use --dtype float32 or bfloat16"):
        sample(configured(tiny_settings, subject__model=str(model), subject__dtype="float16"), tmp_path / "run")
    sample(configured(tiny_settings, subject__model=str(model), subject__dtype="float32"), tmp_path / "run")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_types_of_the_forward_pass(tiny_settings: dict[str, object], tmp_path: Path, dtype: str) -> None:
    [facts] = sample(configured(tiny_settings, subject__dtype=dtype), tmp_path / dtype)
    sample(configured(tiny_settings), tmp_path / "auto")
    both = []
    for name in (dtype, "auto"):
        with Catalog.open(tmp_path / name / "catalog.duckdb") as catalog:
            both.append(np.array(catalog.rows("SELECT n_tokens, max_activation FROM features ORDER BY feature_id")))
    assert sum(facts["flags"].values()) == 24 and facts["flags"]["dead"] >= 1
    tolerance = {"float32": 0.0, "bfloat16": 0.1, "float16": 0.02}[dtype]
    assert np.abs(both[0][:, 1] - both[1][:, 1]).max() <= tolerance * both[1][:, 1].max()
    assert (both[0][3] == 0).all()


def test_an_sae_that_never_fires(tiny_settings: dict[str, object], tiny_sae: Path, tmp_path: Path) -> None:
    sae = changed_weights(tiny_sae, "sae_weights.safetensors", tmp_path / "sae", threshold=torch.full((24,), 1e9))
    settings = tiny_settings | {"sae.path": str(sae)}
    with pytest.raises(UserError, match="no feature fires on any of the tokens"):
        sample(configured(settings, sample__allow_mismatch=False), tmp_path / "run")
    [facts] = sample(configured(settings), tmp_path / "run")
    assert facts["flags"] == {"dead": 24}
    with Catalog.open(tmp_path / "run" / "catalog.duckdb") as catalog:
        assert catalog.value("SELECT count(*) FROM contexts") == 0
        # All windows of every split are in the silent stratum, and the pool is there.
        total = catalog.rows("SELECT DISTINCT feature_id, sum(n_windows) FROM strata WHERE band = 0 GROUP BY ALL")
        assert {n for _, n in total} == {facts["windows"]} and len(total) == 24
        assert catalog.value("SELECT count(*) FROM windows WHERE in_pool") == 40
        assert catalog.rows("SELECT DISTINCT mean_activation, top_token, token_entropy, peak_p50 FROM features") == [
            (None, None, None, None)
        ]


def test_a_feature_that_always_fires(tiny_settings: dict[str, object], tiny_sae: Path, tmp_path: Path) -> None:
    b_enc = torch.zeros(24)
    b_enc[5] = 1e4
    sae = changed_weights(tiny_sae, "sae_weights.safetensors", tmp_path / "sae", b_enc=b_enc)
    [facts] = sample(configured(tiny_settings, sae__path=str(sae)), tmp_path / "run")
    with Catalog.open(tmp_path / "run" / "catalog.duckdb") as catalog:
        row = catalog.rows("SELECT n_tokens, n_windows, n_documents, density, flag, position_dependence FROM features WHERE "
                           "feature_id = 5")[0]  # fmt: skip
        assert row[:2] == (facts["tokens"], facts["windows"]) and row[3:5] == (1.0, "dense")
        assert row[5] == pytest.approx(0, abs=1e-12)
        assert catalog.rows("SELECT sum(n_windows) FROM strata WHERE feature_id = 5 AND band = 0") == [(0,)]


def test_documents_of_one_token(tiny_settings: dict[str, object], tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": word}) + "\n" for word in ["a", "the", "a", "cat", "", "a"]))
    [facts] = sample(configured(tiny_settings, corpus__source=str(corpus)), tmp_path / "run")
    assert facts["documents"] == 5 and facts["windows"] == 5
    with Catalog.open(tmp_path / "run" / "catalog.duckdb") as catalog:
        assert catalog.value("SELECT max(len(tokens)) FROM windows") <= 2
        assert catalog.value("SELECT max(list_max(positions)) FROM contexts") <= 1


@pytest.mark.parametrize("name", ["windows-00001", "documents", "pool"])
def test_a_damaged_plan_is_named(tiny_settings: dict[str, object], tmp_path: Path, name: str) -> None:
    config = configured(tiny_settings)
    from autointerp.harvest import stage

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "_merge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sample(config, tmp_path)
    path = tmp_path / "plan" / f"{name}.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError) as error:
        sample(config, tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value) and "again" in str(error.value)


def test_damaged_weights_of_the_model(tiny_settings: dict[str, object], tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError) as error:
        sample(configured(tiny_settings, subject__model=str(tmp_path / "model")), tmp_path / "run")
    assert "\n" not in str(error.value) and str(tmp_path / "model") in str(error.value)


def test_several_dictionaries_in_one_pass(
    tiny_settings: dict[str, object], tiny_sae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has the catalog that it has alone; the model runs once for all of them."""
    from autointerp.harvest import forward

    shutil.copytree(tiny_sae, tmp_path / "other")
    second = {"path": str(tmp_path / "other"), "hookpoint": "model.layers.0"}
    calls = []
    original = forward.capture
    monkeypatch.setattr(forward, "capture", lambda *given: calls.append(given[1]) or original(*given))
    sample(configured(tiny_settings), tmp_path / "first")
    alone = len(calls)
    sample(configured(tiny_settings | {f"sae.{key}": value for key, value in second.items()}), tmp_path / "second")
    calls.clear()
    found = sample(configured(tiny_settings, also=[second]), tmp_path / "both")
    assert [facts["hookpoint"] for facts in found] == ["model.layers.1:out", "model.layers.0:out"]
    harvested = [hooks for hooks in calls if len(hooks) == 2]
    assert len(harvested) == alone - (len(calls) - len(harvested)) // 2  # as many passes as for one, gates apart
    for name, folder in (("first", tiny_sae.name), ("second", "other")):
        together = dump(tmp_path / "both" / folder / "catalog.duckdb")
        assert together == dump(tmp_path / name / "catalog.duckdb"), name
    assert sample(configured(tiny_settings, also=[second]), tmp_path / "both") == found


def test_attention_sinks_can_be_left_out(
    tiny_settings: dict[str, object], tiny_model: Path, tmp_path: Path, capsys
) -> None:  # type: ignore[no-untyped-def]
    """One token's embedding is made a thousand times as long: with max_norm no context has a value on it."""
    from transformers import AutoTokenizer

    name = "model.embed_tokens.weight"
    weight = load_file(tiny_model / "model.safetensors")[name]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    sink = tokenizer("cat the", add_special_tokens=False)["input_ids"][-1]
    weight[sink] *= 1000
    model = changed_weights(tiny_model, "model.safetensors", tmp_path / "model", **{name: weight})
    plain = configured(tiny_settings, subject__model=str(model))
    [facts] = sample(plain, tmp_path / "plain")
    assert "attention sinks; to leave them out: --set sample.max_norm=" in capsys.readouterr().err
    limit = 10 * facts["conformance"]["norm_median"]
    assert facts["conformance"]["norm_max"] > limit
    query = ("SELECT count(*), count(*) FILTER (tokens[p + 1] = $sink) FROM "
             "(SELECT tokens, unnest(positions) AS p FROM contexts JOIN windows USING (window_id))")  # fmt: skip
    with Catalog.open(tmp_path / "plain" / "catalog.duckdb") as catalog:
        assert catalog.rows(query, {"sink": sink})[0][1] > 0
    sample(configured(tiny_settings, subject__model=str(model), sample__max_norm=limit), tmp_path / "short")
    with Catalog.open(tmp_path / "short" / "catalog.duckdb") as catalog:
        n, on_sink = catalog.rows(query, {"sink": sink})[0]
        assert n > 100 and on_sink == 0


def test_a_corpus_of_conversations(
    tiny_settings: dict[str, object], tiny_model: Path, tiny_sae: Path, tmp_path: Path
) -> None:
    """From messages to the catalog: turn marks are in the windows, nothing fires on them, and they are no tokens read."""
    from transformers import AutoTokenizer

    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = "{% for m in messages %}<s>{{ m.role }} {{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(model)
    chats = [[{"role": "user", "content": f"the cat sat {i} <s> late"}, {"role": "assistant", "content": "a red dog ran"}]
             for i in range(40)]  # fmt: skip
    corpus = tmp_path / "chats.jsonl"
    corpus.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    b_enc = torch.zeros(24)
    b_enc[5] = 1e4  # fires on whatever is read
    sae = changed_weights(tiny_sae, "sae_weights.safetensors", tmp_path / "sae", b_enc=b_enc)
    config = configured(tiny_settings, subject__model=str(model), sae__path=str(sae), corpus__source=str(corpus),
                        corpus__text_field="messages")  # fmt: skip
    [facts] = sample(config, tmp_path / "run")
    with Catalog.open(tmp_path / "run" / "catalog.duckdb") as catalog:
        marks = catalog.value("SELECT count(*) FROM (SELECT unnest(tokens) AS t FROM windows) WHERE t = 0")
        assert (
            marks == 40
        )  # the second turn of each: the first is BOS, which the harvest adds; the "<s>" of the text is text
        density, n_tokens = catalog.rows("SELECT density, n_tokens FROM features WHERE feature_id = 5")[0]
        assert density == 1.0 and n_tokens == facts["tokens"] - 40
        on_marks = catalog.value("SELECT count(*) FROM (SELECT tokens, unnest(positions) AS p FROM contexts JOIN windows "
                                 "USING (window_id)) WHERE tokens[p + 1] = 0")  # fmt: skip
        assert on_marks == 0


def test_an_sae_whose_activations_overflow(tiny_settings: dict[str, object], tiny_sae: Path, tmp_path: Path) -> None:
    """Finite weights whose product is not: no row is made of it, whatever the gate is told."""
    weights = load_file(tiny_sae / "sae_weights.safetensors")["W_enc"]
    weights[:, 5] = 3e38
    sae = changed_weights(tiny_sae, "sae_weights.safetensors", tmp_path / "sae", W_enc=weights)
    with pytest.raises(UserError, match="not finite"):
        sample(configured(tiny_settings, sae__path=str(sae)), tmp_path / "run")
    assert not (tmp_path / "run" / "catalog.duckdb").exists()


def test_shards_of_different_types_are_refused(tiny_settings: dict[str, object], tmp_path: Path) -> None:
    """With dtype auto it depends on the machine; here as if the first shard had been done on another."""
    from autointerp.harvest.stage import sample_shard

    settings = tiny_settings | {"sample.part_windows": 20}
    sample_shard(configured(settings), tmp_path, 1, 2)
    gate = tmp_path / "shards" / "conformance.json"
    saved = json.loads(gate.read_text())
    assert saved["dtype"] == "float32"
    gate.write_text(json.dumps(saved | {"dtype": "bfloat16"}))
    with pytest.raises(UserError, match="begun with the model in bfloat16, and here it would run in float32"):
        sample_shard(configured(settings), tmp_path, 2, 2)
