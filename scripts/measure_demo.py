"""Measure the demo model and SAE on the held-out files; prints JSON, which data/demo/README.md quotes.

    python scripts/measure_demo.py --out data/demo/measured.json

Bits per character of the model beside two baselines on the same files: xz (alone, and with the training text before it), and
an interpolated Kneser-Ney 5-gram over the model's own tokens, trained on the model's training files. For the SAE: the
fraction of variance unexplained (FVU), L0, the share of latents that never fire, and the loss recovered when its
reconstruction takes the place of the hidden state (0: as bad as the mean hidden state, or as zeros; 1: as good as the
model's own).
"""

import json
import lzma
import math
from pathlib import Path

import click
import numpy as np
import torch
from demo_data import held_out, tokenize_documents
from kneser_ney import KneserNey
from train_demo_sae import CONTEXT, HOOK
from transformers import AutoModelForCausalLM, AutoTokenizer

from autointerp.sae import SAE, load_sae
from autointerp.subject.hookpoints import Hookpoint, capture, resolve_hookpoint
from autointerp.subject.interventions import intervene
from autointerp.subject.stdlib import stdlib_documents


@torch.inference_mode()
def model_bits(model: torch.nn.Module, documents: list[np.ndarray], context: int) -> float:
    """Total bits of the documents' tokens. Windows overlap by half, so that each token has at least context/2 before it."""
    bits, stride = 0.0, context // 2
    for tokens in documents:
        for begin in range(0, max(1, len(tokens) - 1), stride):
            rows = np.concatenate([[0], tokens[max(1, begin + 1 - stride) : begin + 1 + stride]])
            fresh = len(tokens[begin + 1 : begin + 1 + stride])
            if fresh == 0:
                break
            ids = torch.from_numpy(rows[None])
            log_p = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0, :-1].float(), -1)
            losses = -log_p[torch.arange(len(rows) - 1), ids[0, 1:]]
            bits += float(losses[-fresh:].sum()) / math.log(2)
    return bits


@torch.inference_mode()
def sae_figures(model: torch.nn.Module, sae: SAE, documents: list[np.ndarray]) -> dict[str, float]:
    """FVU, L0, dead share and loss recovered over windows of the held-out files. BOS is left as it is and not counted."""
    hook = resolve_hookpoint(model, HOOK)
    windows = [
        tokens[1 + b : b + CONTEXT] for tokens in documents for b in range(0, len(tokens) - CONTEXT, CONTEXT - 1)
    ]
    ids = torch.from_numpy(np.stack([np.concatenate([[0], w]) for w in windows]))
    sums = {"residual": 0.0, "active": 0.0, "n": 0, "plain": 0.0, "spliced": 0.0, "mean": 0.0, "zero": 0.0}
    total, squares, fired = torch.zeros(sae.d_in, dtype=torch.float64), 0.0, torch.zeros(sae.d_sae, dtype=torch.bool)
    mean = _mean_state(model, hook, ids)
    edits = {
        "plain": {}, "spliced": {hook: lambda x: sae.decode(sae.encode(x.flatten(0, 1))).view_as(x)},
        "mean": {hook: lambda x: mean.expand_as(x)}, "zero": {hook: torch.zeros_like},
    }  # fmt: skip
    for begin in range(0, len(ids), 16):
        rows = ids[begin : begin + 16]
        text = torch.ones_like(rows, dtype=torch.bool)
        text[:, 0] = False
        for how, edit in edits.items():
            with intervene(model, edit, mask=text):
                logits = model(input_ids=rows, use_cache=False).logits[:, :-1].float()
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum")
            sums[how] += float(loss)
        x = capture(model, [hook], rows)[hook][text]
        latents = sae.encode(x)
        sums["residual"] += float((x - sae.decode(latents)).double().square().sum())
        sums["active"] += int((latents > 0).sum())
        sums["n"] += len(x)
        fired |= (latents > 0).any(0)
        total += x.double().sum(0)
        squares += float(x.double().square().sum())
    variance = squares - float(total.square().sum()) / sums["n"]
    plain, spliced, worst, zero = (sums[how] / rows_tokens(ids) for how in ("plain", "spliced", "mean", "zero"))
    return {
        "sae_tokens": sums["n"], "fvu": sums["residual"] / variance, "l0": sums["active"] / sums["n"],
        "share_silent_on_held_out": 1 - float(fired.float().mean()), "loss_nats": plain, "loss_spliced_nats": spliced,
        "loss_mean_ablated_nats": worst, "loss_zero_ablated_nats": zero,
        "loss_recovered": (worst - spliced) / (worst - plain),
        "loss_recovered_from_zero": (zero - spliced) / (zero - plain),
    }  # fmt: skip


def rows_tokens(ids: torch.Tensor) -> int:
    return ids.shape[0] * (ids.shape[1] - 1)


def _mean_state(model: torch.nn.Module, hook: Hookpoint, ids: torch.Tensor) -> torch.Tensor:
    """The mean hidden state of the first 128 windows, without BOS."""
    starts = range(0, min(len(ids), 128), 16)
    states = [capture(model, [hook], ids[begin : begin + 16])[hook][:, 1:] for begin in starts]
    return torch.cat(states).flatten(0, 1).mean(0)


def dead_share(model: torch.nn.Module, sae: object, documents: list[np.ndarray], tokens: int) -> float:
    """Share of latents that fire on none of `tokens` tokens of the training files."""
    from train_demo_sae import collect

    states = collect(model, np.concatenate(documents), tokens, seed=1)
    fired = torch.zeros(sae.d_sae, dtype=torch.bool)
    for begin in range(0, len(states), 8192):
        fired |= (sae.encode(states[begin : begin + 8192].float()) > 0).any(0)
    return 1 - float(fired.float().mean())


@click.command()
@click.option("--model", "model_path", type=click.Path(path_type=Path), default=Path("data/demo/model"))
@click.option("--sae", "sae_path", type=click.Path(path_type=Path), default=Path("data/demo/sae"))
@click.option("--out", type=click.Path(path_type=Path))
def main(model_path: Path, sae_path: Path, out: Path | None) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    # The held-out files are those of the harvest's kind: the library itself, not its tests.
    test = [d for d in stdlib_documents() if held_out(d.doc_id)]
    train = [d for d in stdlib_documents(include_tests=True) if not held_out(d.doc_id)]
    test_tokens, train_tokens = tokenize_documents(tokenizer, test), tokenize_documents(tokenizer, train)
    characters = sum(len(d.text) for d in test)
    facts: dict[str, float] = {
        "documents": len(test),
        "characters": characters,
        "tokens": sum(len(t) - 1 for t in test_tokens),
    }
    facts["train_characters"] = sum(len(d.text) for d in train)
    facts["model_bits_per_character"] = model_bits(model, test_tokens, 256) / characters
    facts["kneser_ney_5gram_bits_per_character"] = (
        KneserNey(train_tokens, len(tokenizer), 5).bits(test_tokens) / characters
    )
    text, before = "".join(d.text for d in test).encode(), "".join(d.text for d in train).encode()
    xz = {"preset": 9 | lzma.PRESET_EXTREME}
    facts["xz_bits_per_character"] = 8 * len(lzma.compress(text, **xz)) / characters
    both = len(lzma.compress(before + text, **xz)) - len(lzma.compress(before, **xz))
    facts["xz_after_training_text_bits_per_character"] = 8 * both / characters
    if sae_path.exists():
        sae = load_sae(str(sae_path))
        facts |= sae_figures(model, sae, test_tokens)
        library = [t for d, t in zip(train, train_tokens, strict=True) if "/test" not in d.doc_id]
        facts["dead_share_over_1M_tokens"] = dead_share(model, sae, library, 1_000_000)
    print(json.dumps(facts, indent=1))
    if out:
        out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
