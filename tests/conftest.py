"""Small real things that many tests need: a tiny random model with its tokenizer, an SAE for it, a corpus, a run folder."""

import json
from pathlib import Path

import pytest

from tests.llm.fixtures import *  # noqa: F403 - the fixture llm_server

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "dog",
    "ran",
    "home",
    "because",
    "it",
    "was",
    "late",
    "red",
    "blue",
]
D_MODEL, D_SAE = 16, 24


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of three layers with a byte-level BPE tokenizer, in the layout of the hub."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny") / "tiny-llama"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=D_MODEL, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3) if parameter.ndim == 2 else None
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_sae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random JumpReLU SAE for the output of the tiny model's layer 1, in the layout of SAELens; feature 3 is dead."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("tiny") / "tiny-sae"
    folder.mkdir()
    generator = torch.Generator().manual_seed(1)
    b_enc = torch.zeros(D_SAE)
    b_enc[3] = -1e6
    weights = {
        "W_enc": torch.randn(D_MODEL, D_SAE, generator=generator), "b_enc": b_enc,
        "W_dec": torch.randn(D_SAE, D_MODEL, generator=generator) / 8, "b_dec": torch.randn(D_MODEL, generator=generator) / 4,
        "threshold": torch.linspace(2, 9, D_SAE),
    }  # fmt: skip
    save_file(weights, folder / "sae_weights.safetensors")
    metadata = {"model_name": "tiny", "hook_name": "blocks.1.hook_resid_post", "prepend_bos": True, "context_size": 32}
    config = {"architecture": "jumprelu", "d_in": D_MODEL, "d_sae": D_SAE, "dtype": "float32", "apply_b_dec_to_input": True,
              "normalize_activations": "none", "metadata": metadata}  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 short documents of random words, some of one window only; every sixth begins with the same notice."""
    import random

    draw = random.Random(0)
    path = tmp_path_factory.mktemp("tiny") / "corpus.jsonl"
    notice = " ".join(draw.choices(WORDS, k=20))
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 120))) for _ in range(90)]
    texts = [f"{notice} {text}" if index % 6 == 0 else text for index, text in enumerate(texts)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture(scope="session")
def tiny_settings(tiny_model: Path, tiny_sae: Path, tiny_corpus: Path) -> dict[str, object]:
    """Settings of a run on the tiny things, as overrides of the configuration."""
    return {
        "subject.model": str(tiny_model), "sae.path": str(tiny_sae), "corpus.source": str(tiny_corpus), "corpus.window": 24,
        "sample.pool": 40, "sample.top": 5, "sample.per_band": 4, "sample.bands": 3, "sample.part_windows": 60,
        "sample.allow_mismatch": True,
    }  # fmt: skip
