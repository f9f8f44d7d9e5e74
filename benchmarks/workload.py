"""Workload S: what the harvest's benchmarks run on, the same files for every tool.

A random GPT-NeoX of 4 layers, 256 wide (with the demo model's tokenizer of 4,096 tokens), and a random TopK SAE (k = 32) on the
output of layer 1, in the layout of sparsify; the text is the Python standard library's source. Speed does not depend on what
the weights say, and anybody can make the same files.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

WIDTH, LAYERS, K, HOOK = 256, 4, 32, "layers.1"
TOKENIZER = Path(__file__).resolve().parents[1] / "data" / "demo" / "model"


@dataclass(frozen=True, slots=True)
class Workload:
    """Folders of the model and of the SAE, as their own libraries write them."""

    model: Path
    sae: Path


def make_workload(folder: Path, latents: int) -> Workload:
    """Write the files below `folder`, unless they are there."""
    model, sae = folder / "model", folder / f"sae-{latents}" / HOOK
    if not (model / "config.json").exists():
        _write_model(model)
    if not (sae / "cfg.json").exists():
        _write_sae(sae, latents)
    return Workload(model, sae)


def _write_model(folder: Path) -> None:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=4096, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=8, intermediate_size=4 * WIDTH,
        max_position_embeddings=512, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder / name)


def _write_sae(folder: Path, latents: int) -> None:
    folder.mkdir(parents=True)
    directions = torch.nn.functional.normalize(
        torch.randn(latents, WIDTH, generator=torch.Generator().manual_seed(1)), dim=1
    )
    weights = {
        "encoder.weight": directions, "encoder.bias": torch.zeros(latents), "W_dec": directions.clone(),
        "b_dec": torch.zeros(WIDTH),
    }  # fmt: skip
    save_file(weights, folder / "sae.safetensors")
    config = {"d_in": WIDTH, "num_latents": latents, "k": K, "activation": "topk", "expansion_factor": latents // WIDTH,
              "normalize_decoder": True, "multi_topk": False, "skip_connection": False, "transcode": False}  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(config))
