"""Train the demo language model of data/demo/model on the running interpreter's standard library.

    python scripts/train_demo_model.py --out data/demo/model --minutes 50

A Llama-architecture model of about 3.8 M parameters over a byte-level BPE of 4,096 tokens. Every 25th file (by hash of
its name) is held out; scripts/measure_demo_model.py measures on those files. Training stops after `--steps` steps or
`--minutes` minutes, whichever comes first: the learning rate falls linearly with whichever is further along, so that
both ends are proper ends. Checkpoints go to OUT.partial; rerun the same command to go on after an interruption.
"""

import math
import shutil
import time
from pathlib import Path

import click
import numpy as np
import torch
from demo_data import BOS, held_out, tokenize_documents
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from autointerp.subject.stdlib import stdlib_documents

CONTEXT = 256
VOCABULARY = 4096
# A newline keeps its indentation; words, runs of up to three digits and punctuation part, so snake_case splits.
PRE_TOKENS = r"\s*\n[ ]*| ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PRE_TOKENS), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[BOS], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=BOS, model_max_length=CONTEXT)


def build_model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=640, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=CONTEXT, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
        rms_norm_eps=1e-5, initializer_range=0.02,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the (tied) embedding and the norms."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if all(p is not m for m in matrices)]
    return [
        torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.01, adjust_lr_fn="original"),
        torch.optim.AdamW(rest, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def schedule(progress: float) -> float:
    """Share of the peak learning rate at `progress` in [0, 1]: warm-up, plateau, linear decay over the last 60 %."""
    return min(1.0, progress / 0.01 + 1e-3, max(0.02, (1.0 - progress) / 0.6))


def batch_of(stream: np.ndarray, size: int, generator: np.random.Generator) -> torch.Tensor:
    """Random runs of the token stream; each begins with BOS, as every window of the harvest does."""
    starts = generator.integers(0, len(stream) - CONTEXT, size=size)
    rows = stream[starts[:, None] + np.arange(CONTEXT)[None]].astype(np.int64)
    rows[:, 0] = 0
    return torch.from_numpy(rows)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("data/demo/model"))
@click.option("--minutes", type=float, default=50.0)
@click.option("--steps", type=int, default=6000)
@click.option("--batch", type=int, default=16)
@click.option("--seed", type=int, default=0)
@click.option("--device", default="cpu")
def main(out: Path, minutes: float, steps: int, batch: int, seed: int, device: str) -> None:
    documents = [d for d in stdlib_documents(include_tests=True) if not held_out(d.doc_id)]
    partial = out.with_name(out.name + ".partial")
    if (partial / "tokenizer.json").exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(partial)
    else:
        tokenizer = train_tokenizer([d.text for d in documents])
        tokenizer.save_pretrained(partial)
    stream = np.concatenate(tokenize_documents(tokenizer, documents)).astype(np.uint16)
    characters = sum(len(d.text) for d in documents)
    print(f"{len(documents)} documents, {characters:,} characters, {len(stream):,} tokens", flush=True)

    model = build_model(seed).to(device)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    groups = optimizers(model)
    peaks = [group.param_groups[0]["lr"] for group in groups]
    step, elapsed = 0, 0.0
    checkpoint = partial / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        for group, saved in zip(groups, state["optimizers"], strict=True):
            group.load_state_dict(saved)
        step, elapsed = state["step"], state["elapsed"]
        print(f"going on at step {step}", flush=True)

    began, smooth = time.monotonic() - elapsed, math.nan
    while step < steps and time.monotonic() - began < 60 * minutes:
        progress = max(step / steps, (time.monotonic() - began) / (60 * minutes))
        for group, peak in zip(groups, peaks, strict=True):
            group.param_groups[0]["lr"] = peak * schedule(progress)
        rows = batch_of(stream, batch, np.random.default_rng((seed, step))).to(device)
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in groups:
            group.step()
            group.zero_grad()
        step += 1
        smooth = loss.item() if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss.item()
        if step % 25 == 0:
            rate = step * batch * CONTEXT / (time.monotonic() - began)
            print(f"step {step} loss {smooth:.3f} progress {progress:.3f} tokens/s {rate:,.0f}", flush=True)
        if step % 250 == 0:
            saved = [group.state_dict() for group in groups]
            state = {"model": model.state_dict(), "optimizers": saved, "step": step}
            torch.save(state | {"elapsed": time.monotonic() - began}, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)

    model.to("cpu", torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    shutil.rmtree(partial)
    print(f"saved to {out} after {step} steps", flush=True)


if __name__ == "__main__":
    main()
