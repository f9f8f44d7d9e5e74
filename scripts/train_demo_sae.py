"""Train the demo's sparse autoencoder, data/demo/sae, on the residual stream after block 2 of 4 of the demo model.

    python scripts/train_demo_sae.py --model data/demo/model --out data/demo/sae --minutes 15

BatchTopK (Bussmann, Leask and Nanda, 2024): over a batch, the k × batch largest pre-activations are kept. An auxiliary loss
(Gao et al. 2024, section 2.4) lets latents that have not fired lately explain what is left over, so that few stay
dead. At inference it is a JumpReLU with one threshold, and so it is saved, in the layout of SAELens 6, with the input
scaling folded in. The files held out from the model are held out here, too.
"""

import json
import math
import time
from pathlib import Path

import click
import numpy as np
import torch
from demo_data import held_out, tokenize_documents
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from autointerp.subject.hookpoints import capture, resolve_hookpoint
from autointerp.subject.stdlib import stdlib_documents

HOOK = "model.layers.1"
CONTEXT = 128


def collect(model: torch.nn.Module, stream: np.ndarray, tokens: int, seed: int) -> torch.Tensor:
    """Hidden states of random windows, [tokens, d] in bfloat16. BOS begins each window and is left out."""
    hookpoint = resolve_hookpoint(model, HOOK)
    generator = np.random.default_rng(seed)
    rows, parts = 32, []
    for _ in range(math.ceil(tokens / (rows * (CONTEXT - 1)))):
        starts = generator.integers(0, len(stream) - CONTEXT, size=rows)
        ids = stream[starts[:, None] + np.arange(CONTEXT)[None]].astype(np.int64)
        ids[:, 0] = 0
        states = capture(model, [hookpoint], torch.from_numpy(ids))[hookpoint]
        inside = torch.from_numpy(ids != 0)  # a document's own BOS inside a window is no token of text either
        parts.append(states[inside].to(torch.bfloat16))
    return torch.cat(parts)


class BatchTopK(torch.nn.Module):
    def __init__(self, d: int, width: int, k: int, mean: torch.Tensor) -> None:
        super().__init__()
        directions = torch.nn.functional.normalize(torch.randn(width, d), dim=1)
        self.k = k
        self.decoder = torch.nn.Parameter(directions.clone())
        self.encoder = torch.nn.Parameter(directions.T.clone())
        self.b_enc = torch.nn.Parameter(torch.zeros(width))
        self.b_dec = torch.nn.Parameter(mean.clone())
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("silent_for", torch.zeros(width))

    def forward(self, x: torch.Tensor, dead_after: int, aux_k: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Loss in units of the variance, its auxiliary part, and the number of dead latents."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            pre = torch.relu((x - self.b_dec) @ self.encoder + self.b_enc).float()
        limit = _kth(pre, self.k * len(x))
        latents = pre * (pre > limit)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = (latents @ self.decoder).float() + self.b_dec
        with torch.no_grad():
            self.threshold.lerp_(limit, 0.02 if self.threshold > 0 else 1.0)
            fired = (latents > 0).any(0)
            self.silent_for += len(x)
            self.silent_for[fired] = 0
        variance = (x - x.mean(0)).square().sum()
        loss = (x - found).square().sum() / variance
        dead = self.silent_for > dead_after
        aux = torch.zeros(())
        if int(dead.sum()) > aux_k:
            index = dead.nonzero()[:, 0]
            rest = (x - found).detach()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                some = ((x - self.b_dec.detach()) @ self.encoder[:, index] + self.b_enc[index]).float()
            best = torch.topk(some, aux_k, dim=1)
            sparse = torch.zeros_like(some).scatter(1, best.indices, torch.relu(best.values))
            aux = (rest - sparse @ self.decoder[index]).square().sum() / rest.square().sum()
        return loss, aux, int(dead.sum())

    @torch.no_grad()
    def normalise(self) -> None:
        self.decoder.div_(self.decoder.norm(dim=1, keepdim=True))


def _kth(values: torch.Tensor, count: int) -> torch.Tensor:
    """The count-th largest value, by numpy's partition: faster here than a full top-k."""
    flat = values.detach().numpy().ravel()
    flat = flat[flat > 0]
    if len(flat) <= count:
        return torch.zeros(())
    return torch.tensor(np.partition(flat, len(flat) - count)[len(flat) - count])


def save(sae: BatchTopK, scale: float, out: Path, k: int) -> None:
    """SAELens 6 layout. x·scale was encoded: fold the scale into the encoder, and its inverse into the decoder."""
    out.mkdir(parents=True, exist_ok=True)
    half = torch.float16
    tensors = {
        "W_enc": (sae.encoder * scale).to(half), "b_enc": sae.b_enc.float(), "W_dec": (sae.decoder / scale).to(half),
        "b_dec": sae.b_dec / scale, "threshold": sae.threshold.expand(len(sae.b_enc)),
    }  # fmt: skip
    save_file(
        {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()},
        out / "sae_weights.safetensors",
    )
    config = {
        "architecture": "jumprelu", "d_in": sae.encoder.shape[0], "d_sae": sae.encoder.shape[1], "dtype": "float32",
        "device": "cpu", "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none", "k": k,
        "metadata": {
            "sae_lens_training_version": None, "model_name": "autointerp-demo", "hook_name": "blocks.1.hook_resid_post",
            "hf_hook_name": HOOK, "hook_head_index": None, "context_size": CONTEXT, "prepend_bos": True,
            "dataset_path": "the Python standard library", "trained_by": "scripts/train_demo_sae.py",
        },
    }  # fmt: skip
    (out / "cfg.json").write_text(json.dumps(config, indent=1) + "\n")


@click.command()
@click.option("--model", "model_path", type=click.Path(path_type=Path), default=Path("data/demo/model"))
@click.option("--out", type=click.Path(path_type=Path), default=Path("data/demo/sae"))
@click.option("--minutes", type=float, default=15.0)
@click.option("--width", type=int, default=4096)
@click.option("--k", type=int, default=24)
@click.option("--batch", type=int, default=2048)
@click.option("--tokens", type=int, default=2_000_000)
@click.option("--seed", type=int, default=0)
def main(model_path: Path, out: Path, minutes: float, width: int, k: int, batch: int, tokens: int, seed: int) -> None:
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    documents = [d for d in stdlib_documents() if not held_out(d.doc_id)]
    stream = np.concatenate(tokenize_documents(tokenizer, documents))
    began = time.monotonic()
    states = collect(model, stream, tokens, seed)
    print(f"{len(states):,} hidden states in {time.monotonic() - began:.0f} s", flush=True)
    scale = math.sqrt(states.shape[1]) / float(states[:100_000].float().norm(dim=1).mean())
    sae = BatchTopK(states.shape[1], width, k, states[:100_000].float().mean(0) * scale)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-3, betas=(0.9, 0.999))
    generator = torch.Generator().manual_seed(seed)
    began, step, losses = time.monotonic(), 0, []
    while (progress := (time.monotonic() - began) / (60 * minutes)) < 1:
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1.0, (step + 1) / 50, max(0.01, (1 - progress) / 0.4))
        rows = torch.randint(len(states), (batch,), generator=generator)
        loss, aux, dead = sae(states[rows].float() * scale, dead_after=200_000, aux_k=128)
        (loss + aux / 32).backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        sae.normalise()
        step += 1
        losses.append(loss.item())
        if step % 50 == 0:
            rate = step * batch / (time.monotonic() - began)
            print(f"step {step} fvu {np.mean(losses[-50:]):.4f} dead {dead} threshold {sae.threshold:.3f} "
                  f"tokens/s {rate:,.0f} progress {progress:.2f}", flush=True)  # fmt: skip
    save(sae, scale, out, k)
    print(f"saved to {out} after {step} steps", flush=True)


if __name__ == "__main__":
    main()
