"""Tiny random models in several families, a tokenizer with and without a chat template, and the plainest way to ask them."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autointerp.llm import CallFailed, Message, Reply, Request
from autointerp.llm.providers.transformers import TransformersProvider

SYSTEM = "You name what a feature stands for. Answer with one short line and nothing else at all."
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM_TEMPLATE = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHAT_TEMPLATE
)
SIZES = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32, "head_dim": 8,
         "intermediate_size": 48, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1},
    "gemma3_text": {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512},
    "gpt_neox": {"num_key_value_heads": 4},
}


def save_tokenizer(folder: Path, template: str | None = CHAT_TEMPLATE) -> None:
    """Byte-level BPE with a few merges, ids 0 to 3 special: <s>, </s> and the marks of a turn."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(
        [SYSTEM, "the cat sat on the mat and the dog ran home", "User: Assistant: System:"] * 3, trainer
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>",
                                   additional_special_tokens=special[2:])  # fmt: skip
    fast.chat_template = template
    fast.save_pretrained(folder)


def save_model(folder: Path, family: str = "llama", *, window: int = 512, template: str | None = CHAT_TEMPLATE,
               eos: Sequence[int] = (1,), seed: int = 0) -> Path:  # fmt: skip
    """A random model whose greedy choices are far from ties."""
    from transformers import AutoConfig, AutoModelForCausalLM

    save_tokenizer(folder, template)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        family, **{**SIZES, "vocab_size": 328, "max_position_embeddings": window, **FAMILIES[family]}
    )
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.25)
    with torch.no_grad():
        if not model.config.tie_word_embeddings:  # special tokens are never the likeliest
            model.get_output_embeddings().weight[:4] *= 1e-3
    model.generation_config.eos_token_id = list(eos)
    model.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Naive:
    """What a model answers when every token is computed from the whole text before it, without a cache."""

    tokens: list[int]
    logprobs: list[float]


def naive(model: Any, prompt: Sequence[int], count: int, stops: frozenset[int] = frozenset()) -> Naive:
    tokens: list[int] = []
    values: list[float] = []
    for _ in range(count):
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *tokens]]), use_cache=False).logits[0, -1].float()
        if int(logits.argmax()) in stops:
            break
        tokens.append(int(logits.argmax()))
        values.append(float(torch.log_softmax(logits, -1)[tokens[-1]]))
    return Naive(tokens, values)


def questions(count: int = 8, **fields: Any) -> list[Request]:
    """Questions of many lengths after the same system prompt."""
    words = [
        "the",
        "cat",
        "sat",
        "on",
        "the",
        "mat",
        "and",
        "the",
        "dog",
        "ran",
        "home",
        "because",
        "it",
        "was",
        "late",
    ]
    texts = [" ".join(words[index % 5 :] * (1 + index % 3)) + f" {index}" for index in range(count)]
    options = {"max_tokens": 12, "logprobs": 3} | fields
    return [Request([Message("system", SYSTEM), Message("user", text)], **options) for text in texts]


async def send(provider: TransformersProvider, request: Request, model: str) -> Reply:
    return await provider.send(request, provider.payload(model, request))


async def send_all(provider: TransformersProvider, requests: Sequence[Request], model: str) -> list[Reply]:
    return list(await asyncio.gather(*(send(provider, one, model) for one in requests)))


async def outcome(provider: TransformersProvider, request: Request, model: str) -> Reply | CallFailed:
    try:
        return await send(provider, request, model)
    except CallFailed as failure:
        return failure


def save_embedder(folder: Path, window: int = 32) -> Path:
    """A random BERT whose vectors are the means of its tokens' states, in the layout of sentence-transformers."""
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(folder, None)
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"pad_token": "</s>"}))
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    BertModel(BertConfig(vocab_size=328, max_position_embeddings=1024, pad_token_id=1, **sizes)).save_pretrained(folder)
    pooling = folder / "1_Pooling"
    pooling.mkdir()
    (pooling / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": window, "do_lower_case": False}))
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    (folder / "modules.json").write_text(json.dumps([
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(modules)
    ]))  # fmt: skip
    return folder
