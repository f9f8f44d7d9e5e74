"""Measure the demo model and SAE on the held-out files; prints JSON, which data/demo/README.md quotes.

    python scripts/measure_demo.py --out data/demo/measured.json

Bits per character of the model beside two baselines on the same files: xz (alone, and with the training text before it), and
an interpolated Kneser-Ney 5-gram over the model's own tokens, trained on the model's training files. For the SAE: the
fraction of variance unexplained (FVU), L0, the share of latents that never fire, and the loss recovered when its
reconstruction takes the place of the hidden state (0: as bad as the mean hidden state, 1: as good as the model's own).
"""

import json
import lzma
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
import torch
from demo_data import held_out, tokenize_documents
from kneser_ney import KneserNey
from train_demo_sae import CONTEXT, HOOK
from transformers import AutoModelForCausalLM, AutoTokenizer

from autointerp.sae import load_sae
from autointerp.subject.hookpoints import resolve_hookpoint
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
def sae_figures(model: torch.nn.Module, sae: object, documents: list[np.ndarray]) -> dict[str, float]:
    """FVU, L0, dead share and loss recovered over windows of the held-out files. BOS is left as it is and not counted."""
    module = model.get_submodule(resolve_hookpoint(model, HOOK).module)
    windows = [
        tokens[1 + b : b + CONTEXT] for tokens in documents for b in range(0, len(tokens) - CONTEXT, CONTEXT - 1)
    ]
    ids = torch.from_numpy(np.stack([np.concatenate([[0], w]) for w in windows]))
    sums = {"residual": 0.0, "active": 0.0, "n": 0, "plain": 0.0, "spliced": 0.0, "mean": 0.0}
    total, squares, fired = torch.zeros(sae.d_in, dtype=torch.float64), 0.0, torch.zeros(sae.d_sae, dtype=torch.bool)
    mean = _mean_state(model, module, ids)
    splice = _Splice(module, sae, mean)
    for begin in range(0, len(ids), 16):
        rows = ids[begin : begin + 16]
        for how in ("plain", "spliced", "mean"):
            with splice(how):
                logits = model(input_ids=rows, use_cache=False).logits[:, :-1].float()
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum")
            sums[how] += float(loss)
        x = splice.seen
        latents = sae.encode(x)
        sums["residual"] += float((x - sae.decode(latents)).double().square().sum())
        sums["active"] += int((latents > 0).sum())
        sums["n"] += len(x)
        fired |= (latents > 0).any(0)
        total += x.double().sum(0)
        squares += float(x.double().square().sum())
    variance = squares - float(total.square().sum()) / sums["n"]
    plain, spliced, worst = (sums[how] / rows_tokens(ids) for how in ("plain", "spliced", "mean"))
    return {
        "sae_tokens": sums["n"], "fvu": sums["residual"] / variance, "l0": sums["active"] / sums["n"],
        "share_silent_on_held_out": 1 - float(fired.float().mean()), "loss_nats": plain, "loss_spliced_nats": spliced,
        "loss_mean_ablated_nats": worst, "loss_recovered": (worst - spliced) / (worst - plain),
    }  # fmt: skip


class _Splice:
    """Within `with splice(how)`, the module's output after BOS is left plain (and seen), reconstructed, or set to its mean."""

    def __init__(self, module: torch.nn.Module, sae: object, mean: torch.Tensor) -> None:
        self.module, self.sae, self.mean = module, sae, mean
        self.seen = torch.zeros(0)

    @contextmanager
    def __call__(self, how: str) -> Iterator[None]:
        def hook(_module: object, _inputs: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> object:
            hidden = output[0] if isinstance(output, tuple) else output
            flat = hidden[:, 1:].reshape(-1, hidden.shape[-1])
            if how == "plain":
                self.seen = flat
                return None
            filled = self.sae.decode(self.sae.encode(flat)) if how == "spliced" else self.mean.expand_as(flat)
            new = torch.cat([hidden[:, :1], filled.view_as(hidden[:, 1:])], dim=1)
            return (new, *output[1:]) if isinstance(output, tuple) else new

        handle = self.module.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


def rows_tokens(ids: torch.Tensor) -> int:
    return ids.shape[0] * (ids.shape[1] - 1)


def _mean_state(model: torch.nn.Module, module: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    found: list[torch.Tensor] = []

    def keep(_module: object, _inputs: object, output: object) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        found.append(hidden[:, 1:].reshape(-1, hidden.shape[-1]).mean(0))

    handle = module.register_forward_hook(keep)
    for begin in range(0, min(len(ids), 128), 16):
        model(input_ids=ids[begin : begin + 16], use_cache=False)
    handle.remove()
    return torch.stack(found).mean(0)


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
