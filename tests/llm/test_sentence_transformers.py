"""A small embedder on this machine, in the layout of sentence-transformers."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from autointerp.errors import DataError, UserError
from autointerp.llm import Broker, FailureKind, Journal, Message, Request, open_provider
from autointerp.llm.embeddings import unpacked, vector_request
from autointerp.llm.local.embedder import folder_fingerprint
from autointerp.llm.provider import CallFailed, Reply, require
from autointerp.llm.providers.sentence_transformers import SentenceTransformersProvider
from tests.llm.local_models import save_embedder

NAME = "sentence-transformers"


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_embedder(tmp_path_factory.mktemp("embedder") / "tiny-embedder")


def installed() -> None:
    pytest.importorskip("sentence_transformers", reason="the extra `embed` is not installed")


async def embed(
    provider: SentenceTransformersProvider, model: Path, *texts: str, **options: int
) -> list[Reply | CallFailed]:
    async def one(text: str) -> Reply | CallFailed:
        request = vector_request(text, purpose="embed", **options)
        try:
            return await provider.send(request, provider.payload(str(model), request))
        except CallFailed as failure:
            return failure

    try:
        return list(await asyncio.gather(*map(one, texts)))
    finally:
        await provider.close()


def opened(argument: str = "cpu") -> SentenceTransformersProvider:
    provider = open_provider(f"{NAME}:{argument}")
    assert isinstance(provider, SentenceTransformersProvider)
    return provider


class TestVectors:
    def test_they_are_the_means_of_the_tokens_states_as_the_models_files_say(self, embedder: Path) -> None:
        installed()
        import torch
        from transformers import AutoModel, AutoTokenizer

        texts = ["the cat sat on the mat", "the dog", "ran home because it was late"]
        found = asyncio.run(embed(opened(), embedder, *texts))
        tokenizer, model = AutoTokenizer.from_pretrained(embedder), AutoModel.from_pretrained(embedder).eval()
        for text, reply in zip(texts, found, strict=True):
            with torch.inference_mode():
                encoded = tokenizer(text, return_tensors="pt")
                plain = model(**encoded).last_hidden_state[0].mean(0).numpy()
            assert isinstance(reply, Reply)
            np.testing.assert_allclose(unpacked(reply.text), plain, atol=1e-5)
            assert reply.usage.input == encoded["input_ids"].shape[1] and reply.model.startswith(f"{embedder}@files:")

    def test_a_text_that_does_not_fit_is_not_cut(self, embedder: Path) -> None:
        installed()
        short, long, other = asyncio.run(embed(opened(), embedder, "the cat", "cat " * 60, "the dog"))
        assert isinstance(short, Reply) and isinstance(other, Reply)
        assert isinstance(long, CallFailed) and long.kind == FailureKind.REJECTED and not long.retryable
        assert "does not fit into the embedder's 32" in long.reason

    def test_fewer_numbers(self, embedder: Path) -> None:
        installed()
        (whole,) = asyncio.run(embed(opened(), embedder, "the cat"))
        (short,) = asyncio.run(embed(opened("cpu,batch=2"), embedder, "the cat", dimensions=5))
        assert isinstance(whole, Reply) and isinstance(short, Reply)
        np.testing.assert_allclose(unpacked(short.text), unpacked(whole.text)[:5], atol=1e-6)

    def test_the_journal_answers_the_second_time_also_without_the_model(self, embedder: Path, tmp_path: Path) -> None:
        installed()

        async def ask() -> tuple[list[bool], int]:
            with Journal(tmp_path / "journal") as journal:
                provider = open_provider(f"{NAME}:cpu", folder=tmp_path / "state")
                async with Broker(provider, str(embedder), journal, concurrency=64) as broker:
                    requests = [vector_request(text, purpose="embed") for text in ("a", "b", "a", "c")]
                    found = await asyncio.gather(*map(broker.ask, requests))
                    return [one.from_journal for one in found], broker.progress.input_tokens

        assert asyncio.run(ask())[0] == [False] * 4
        hidden = embedder.rename(embedder.with_name("hidden"))
        try:
            assert asyncio.run(ask()) == ([True] * 4, 0)
        finally:
            hidden.rename(embedder)


class TestRefusals:
    def test_what_is_not_there_is_said_before_anything_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"needs embeddings.*pip install 'autointerp\[embed\]'"):
            require(opened(), "embeddings", by="scorer embedding")

    def test_it_writes_no_text(self, embedder: Path) -> None:
        with pytest.raises(UserError, match="makes vectors and writes no text"):
            opened().payload(str(embedder), Request([Message("user", "x")]))

    def test_options_that_it_does_not_have(self) -> None:
        with pytest.raises(UserError, match="expected no base URL"):
            open_provider(NAME, base_url="http://127.0.0.1:8000/v1")
        with pytest.raises(UserError, match="--embed-provider sentence-transformers:tpu: 'tpu' is not known"):
            open_provider(f"{NAME}:tpu")

    def test_a_plain_model_is_no_embedder(self, embedder: Path) -> None:
        installed()
        plain = embedder.with_name("plain")
        plain.mkdir(exist_ok=True)
        with pytest.raises(UserError, match=r"has no modules\.json"):
            asyncio.run(embed(opened(), plain, "x"))

    def test_code_and_pickles_are_not_read(self, embedder: Path, tmp_path: Path) -> None:
        installed()
        foreign = save_embedder(tmp_path / "foreign")
        modules = json.loads((foreign / "modules.json").read_text())
        (foreign / "mine.py").write_text("raise SystemExit('it was run')")
        (foreign / "modules.json").write_text(
            json.dumps([*modules, {"idx": 2, "name": "2", "path": "", "type": "mine.Mine"}])
        )
        with pytest.raises(UserError, match="cannot be loaded by sentence-transformers"):
            asyncio.run(embed(opened(), foreign, "x"))
        pickled = save_embedder(tmp_path / "pickled")
        (pickled / "model.safetensors").unlink()
        (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04.")
        with pytest.raises(UserError, match="has no safetensors weights"):
            asyncio.run(embed(opened(), pickled, "x"))

    @pytest.mark.parametrize("modules", ["[", "[{}]", '[{"path": "../elsewhere"}]', '[{"path": "/etc"}]', "[3]"])
    def test_modules_that_are_none(self, tmp_path: Path, modules: str) -> None:
        (tmp_path / "modules.json").write_text(modules)
        with pytest.raises(DataError, match=r"modules\.json"):
            folder_fingerprint(tmp_path)

    def test_the_pooling_is_part_of_the_identity(self, tmp_path: Path) -> None:
        folder = save_embedder(tmp_path / "one")
        before = folder_fingerprint(folder)
        pooling = folder / "1_Pooling" / "config.json"
        pooling.write_text(pooling.read_text().replace("mean_tokens", "max_tokens"))
        assert folder_fingerprint(folder) != before
