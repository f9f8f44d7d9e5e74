"""What EleutherAI's delphi (package eai-delphi 0.1.3) costs on workload S, for our own harvest to stand beside.

It runs in an environment of its own and knows nothing of autointerp:

    python3.11 -m venv delphi && delphi/bin/pip install torch==2.13.0
    delphi/bin/pip install "transformers==4.57.6" "datasets<5" "sentence-transformers<6" faiss-cpu orjson simple_parsing \
        jaxtyping blobfile anyio asyncer einops natsort accelerate schedulefree pyarrow
    delphi/bin/pip install --no-deps eai-delphi==0.1.3 eai-sparsify==1.3.3
    delphi/bin/python benchmarks/peer_delphi.py --model S/model --sae S/sae-8192 --sae S/sae-32768 --plan S/plan

`--no-deps` leaves out vllm, which only delphi's clients and command line import, and others that nothing here imports; no
module has to be faked. transformers stays below 5: from 5 on, `batch_decode` of one row of tokens gives one string where delphi
expects a string for each token, and its examples come out wrong.

The folders are made beforehand, where autointerp is installed:

    workload = make_workload(Path("S"), 8192)  # from workload.py; and again with 32768
    tokenizer = AutoTokenizer.from_pretrained(workload.model)
    make_plan(open_corpus("stdlib"), tokenizer, Path("S/plan"), PlanSettings(128, 1_100_000, 512, 0, 1024), "benchmark")

The tokens of the plan's windows-*.parquet are joined in order and cut anew into rows of 128, because delphi wants rows of one
length and cuts them across documents itself; so the window of the plan does not matter.

Each SAE has a process of its own, so that peaks of memory do not mix; within it, in turn, CPU seconds on one thread:
- *full*: forward pass of the whole base model, then sparsify's encoder (relu and top-k);
- *early*: forward pass as far as the hookpoint, then the same encoder: the least that any harvest must do;
- *delphi*: `LatentCache.run` and `save_splits`, with its defaults: batches of 32 rows, 5 splits.
Then, over the cache just written, in a new process: its examples, by `LatentDataset` with its defaults.
"""

# The process that starts the others imports nothing heavy: Linux hands its peak of memory down to them.
import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

HOOK, ROW, BATCH, SPLITS, WARM_UP = "layers.1", 128, 32, 5, 4
PACKAGES = ("eai-delphi", "eai-sparsify", "torch", "transformers", "tokenizers", "numpy", "safetensors")


class Reached(Exception):
    """The forward pass has come to the hookpoint."""


def cpu_seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def peak_mb() -> float:
    """The peak of this process's memory so far, in 10^6 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def read_rows(plan: Path, tokens: int) -> Any:
    """The first `tokens` tokens of the plan as int64 [rows, ROW], rounded up to whole batches of delphi.

    delphi drops a last batch that is not full, and the other loops must do the same work.
    """
    import numpy as np
    import pyarrow.parquet as pq
    import torch

    batches = -(-tokens // (ROW * BATCH))
    wanted = batches * BATCH * ROW
    parts, have = [], 0
    for path in sorted(plan.glob("windows-*.parquet")):
        parts.append(pq.read_table(path, columns=["tokens"])["tokens"].combine_chunks().values.to_numpy())
        have += len(parts[-1])
        if have >= wanted:
            break
    if have < wanted:
        raise SystemExit(f"{plan}: {have:,} tokens, and {wanted:,} are needed; make the plan with more")
    return torch.from_numpy(np.concatenate(parts)[:wanted].astype(np.int64).reshape(-1, ROW))


def bare(model: Any, sae: Any, rows: Any, early: bool) -> None:
    """Forward pass and sparse encode, nothing kept; `early` stops at the hookpoint."""
    import torch

    seen: list[Any] = []

    def hook(_module: Any, _inputs: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)
        if early:
            raise Reached

    handle = model.get_submodule(HOOK).register_forward_hook(hook)
    try:
        for begin in range(0, len(rows), BATCH):
            with torch.no_grad():
                with contextlib.suppress(Reached):
                    model(rows[begin : begin + BATCH])
                sae.encode(seen.pop().flatten(0, 1))
    finally:
        handle.remove()


def delphi_cache(model: Any, encoders: Any, rows: Any, folder: Path) -> None:
    from delphi.config import CacheConfig
    from delphi.latents import LatentCache

    cache = LatentCache(model, encoders, batch_size=BATCH)
    cache.run(rows.numel(), rows)
    cache.save_splits(n_splits=SPLITS, save_dir=folder)
    cache.save_config(folder, CacheConfig(batch_size=BATCH, cache_ctx_len=ROW), model.name_or_path)


def measure_cache(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the three loops, peaks of memory and bytes on disk, for one SAE; the cache stays in the scratch folder."""
    import torch
    from delphi.sparse_coders.load_sparsify import load_sparsify_hooks
    from transformers import AutoModel

    torch.set_num_threads(1)
    model = AutoModel.from_pretrained(arguments.model).eval()
    with contextlib.redirect_stdout(sys.stderr):  # it prints as it looks for the hookpoint
        encoders, _ = load_sparsify_hooks(model, str(arguments.sae[0]), [HOOK])
    sae = encoders[HOOK].keywords["sae"]
    rows = read_rows(arguments.plan, arguments.tokens)
    peaks = {"loaded": peak_mb()}
    for early in (False, True):
        bare(model, sae, rows[: WARM_UP * BATCH], early)
    peaks["bare"] = peak_mb()  # a bare loop keeps nothing: its peak is that of any few batches
    loops: dict[str, Callable[[], Any]] = {
        "delphi": lambda: delphi_cache(model, encoders, rows, arguments.scratch),
        "full": lambda: bare(model, sae, rows, early=False),
        "early": lambda: bare(model, sae, rows, early=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in arguments.loops}
    for _ in range(arguments.repeats):
        for name in arguments.loops:
            seconds[name].append(cpu_seconds(loops[name]))
            peaks.setdefault(name, peak_mb())
    return {"latents": sae.num_latents, "tokens": rows.numel(), "seconds": seconds, "peak_mb": peaks} | on_disk(
        arguments.scratch
    )


def on_disk(folder: Path) -> dict[str, int]:
    from safetensors import safe_open

    nonzeros = size = 0
    for path in (folder / HOOK).glob("*.safetensors"):
        size += path.stat().st_size
        with safe_open(path, "np") as file:
            nonzeros += file.get_slice("activations").get_shape()[0]
    return {"nonzeros": nonzeros, "bytes": size}


def measure_examples(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds to build the examples of the first latents, from opening the cache to the last record."""
    import torch
    from delphi.config import ConstructorConfig, SamplerConfig
    from delphi.latents import LatentDataset
    from transformers import PreTrainedTokenizerFast

    torch.set_num_threads(1)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(arguments.model / "tokenizer.json"))
    records = windows = used = 0

    def build() -> None:
        nonlocal records, windows, used
        records = windows = used = 0
        latents = {HOOK: torch.arange(arguments.latents)}
        dataset = LatentDataset(
            arguments.scratch, SamplerConfig(), ConstructorConfig(), tokenizer, modules=[HOOK], latents=latents
        )
        for record in dataset:
            records += 1
            windows += len(record.examples)
            used += len({id(example) for example in record.train + record.test})
            if any(len(example.str_tokens) != len(example.tokens) for example in record.train):
                raise SystemExit(
                    "delphi's examples lack a string for each token: transformers 5 or newer? install 4.57.6"
                )

    loaded = peak_mb()
    seconds = [cpu_seconds(build) for _ in range(arguments.repeats)]
    return {"asked": arguments.latents, "records": records, "windows_built": windows, "windows_used": used,
            "seconds": seconds, "peak_mb": {"loaded": loaded, "examples": peak_mb()}}  # fmt: skip


def child(task: str, sae: Path, arguments: argparse.Namespace, scratch: str, **options: Any) -> dict[str, Any]:
    """Run one task in a process of its own and return what it reports."""
    given = {"task": task, "model": arguments.model, "plan": arguments.plan, "sae": sae, "scratch": scratch} | options
    command = [sys.executable, __file__, *(f"--{name}={value}" for name, value in given.items())]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(sae: Path, loops: str, arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        found = child("cache", sae, arguments, scratch, tokens=arguments.tokens, loops=loops, repeats=arguments.repeats)
        if arguments.latents:
            found["examples"] = child(
                "examples", sae, arguments, scratch, repeats=arguments.repeats, latents=arguments.latents
            )
    return found


def table(results: list[dict[str, Any]]) -> str:
    heads = [f"{r['latents']:,} latents, {r['tokens']:,} tokens" for r in results]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]

    def line(name: str, cell: Callable[[dict[str, Any]], str]) -> None:
        lines.append(f"| {name} | " + " | ".join(cell(r) for r in results) + " |")

    def speed(r: dict[str, Any], loop: str) -> str:
        times = r["seconds"].get(loop)
        return f"{r['tokens'] / statistics.median(times):,.0f}" if times else "–"

    def ratio(r: dict[str, Any], over: str) -> str:
        times = r["seconds"]
        return f"{statistics.median(times['delphi']) / statistics.median(times[over]):.2f}" if over in times else "–"

    line("full forward + encode, tokens per CPU-s", lambda r: speed(r, "full"))
    line("early exit + encode, tokens per CPU-s", lambda r: speed(r, "early"))
    line("delphi's cache, tokens per CPU-s", lambda r: speed(r, "delphi"))
    line("delphi / full, CPU time", lambda r: ratio(r, "full"))
    line("delphi / early, CPU time", lambda r: ratio(r, "early"))
    line("peak RSS loaded / bare / delphi, MB", lambda r: " / ".join(f"{r['peak_mb'][n]:,.0f}" for n in ("loaded", "bare", "delphi")))  # fmt: skip  # noqa: E501
    line("growth of RSS over bare, bytes per nonzero", lambda r: f"{(r['peak_mb']['delphi'] - r['peak_mb']['bare']) * 1e6 / r['nonzeros']:.1f}")  # fmt: skip  # noqa: E501
    line("bytes on disk per nonzero", lambda r: f"{r['bytes'] / r['nonzeros']:.2f}")
    if all("examples" in r for r in results):
        example_lines(line)
    return "\n".join(lines)


def example_lines(line: Callable[[str, Callable[[dict[str, Any]], str]], None]) -> None:
    def cost(r: dict[str, Any], of: str) -> str:
        e = r["examples"]
        return f"{1000 * statistics.median(e['seconds']) / e[of]:.2f}" if e[of] else "–"

    def each(r: dict[str, Any], of: str) -> str:
        e = r["examples"]
        return f"{e[of] / e['records']:,.0f}" if e["records"] else "–"

    line("examples, CPU-s per 1,000 latents asked for", lambda r: cost(r, "asked"))
    line("examples, CPU-s per 1,000 latents kept", lambda r: cost(r, "records"))
    line(
        "latents kept (200 windows or more) of those asked for",
        lambda r: f"{r['examples']['records']} of {r['examples']['asked']}",
    )
    line("windows built / used per latent kept", lambda r: f"{each(r, 'windows_built')} / {each(r, 'windows_used')}")
    line("peak RSS of the examples, MB", lambda r: f"{r['examples']['peak_mb']['examples']:,.0f}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the model")
    parser.add_argument(
        "--sae", type=Path, action="append", required=True, help=f"folder that holds {HOOK}/; repeatable"
    )
    parser.add_argument("--plan", type=Path, required=True, help="folder of a plan: windows-*.parquet")
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--latents", type=int, default=1000, help="latents to build the examples of; 0: none")
    parser.add_argument("--loops", type=lambda text: text.split(","), default=["delphi", "full", "early"],
                        help="in the order in which they run; delphi must be among them, first for a true peak")  # fmt: skip
    parser.add_argument("--scratch", type=Path, default=None, help="where the caches go for a while")
    parser.add_argument("--task", choices=("cache", "examples"), default=None, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if arguments.task:
        task = {"cache": measure_cache, "examples": measure_examples}[arguments.task]
        print(json.dumps(task(arguments)))
        return
    loops = ",".join(arguments.loops)
    results = [measure(sae, loops, arguments) for sae in arguments.sae]
    versions = {name: version(name) for name in PACKAGES}
    print(", ".join(f"{name} {number}" for name, number in versions.items()))
    print(f"one thread, medians of {arguments.repeats}\n\n{table(results)}\n")
    print(json.dumps({"versions": versions, "repeats": arguments.repeats, "results": results}))


if __name__ == "__main__":
    main()
