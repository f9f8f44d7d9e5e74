"""What the harvest costs over the bare loop, as ratios within one run.

    python benchmarks/harvest.py [--tokens 200000] [--repeats 5]

Three things on the same windows, the demo model and SAE, in turn, CPU seconds, medians of the repeats:
- *full*: forward pass through the whole model, then the encoder to a dense matrix;
- *bare*: forward pass as far as the hookpoint, then the encoder to a dense matrix: the least that any harvest must do;
- *harvest*: the whole pass of this package, to the shard on disk.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch

from autointerp.config import Config
from autointerp.harvest.forward import Reader, batches
from autointerp.harvest.plan import Plan, PlanSettings, make_plan
from autointerp.harvest.setup import load_subject_and_sae, resolve_hook
from autointerp.harvest.shards import write_shard
from autointerp.harvest.sketch import Sketch
from autointerp.subject.corpora import open_corpus


def full(reader: Reader, plan: Plan) -> None:
    """The whole model and a dense encode: what a tool does that reads hidden states from a plain forward pass."""
    module = reader.subject.model.get_submodule(reader.hookpoint.module)
    seen: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda _m, _i, out: seen.append(out[0] if isinstance(out, tuple) else out))
    try:
        for index in range(plan.n_parts):
            windows = plan.part(index)
            for begin in range(0, len(windows), 32):
                ids, valid = reader._batch(windows, begin, min(begin + 32, len(windows)))
                with torch.inference_mode():
                    reader.subject.model(input_ids=torch.from_numpy(ids), use_cache=False)
                    reader.sae.encode(seen.pop()[torch.from_numpy(valid)])
    finally:
        handle.remove()


def bare(reader: Reader, plan: Plan) -> None:
    """Early exit and a dense encode."""
    for index in range(plan.n_parts):
        windows = plan.part(index)
        for begin in range(0, len(windows), 32):
            reader.sae.encode(reader.hidden(windows, begin, min(begin + 32, len(windows))).hidden)


def harvest(reader: Reader, plan: Plan) -> None:
    """Everything up to the shards on disk."""
    pool = plan.pool()
    with tempfile.TemporaryDirectory() as folder:
        for index in range(plan.n_parts):
            sketch = Sketch(reader.sae.d_sae, top=20, per_band=8, seed=0)
            for firings, facts, _ in batches(reader, plan.part(index), pool, None, 32):
                sketch.update(firings, facts)
            write_shard(sketch, Path(folder) / f"{index:05d}")


def cpu_seconds(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


@click.command()
@click.option("--tokens", type=int, default=200_000)
@click.option("--repeats", type=int, default=5)
@click.option("--threads", type=int, default=1)
def main(tokens: int, repeats: int, threads: int) -> None:
    torch.set_num_threads(threads)
    config = Config()
    subject, sae = load_subject_and_sae(config)
    reader = Reader(subject, sae, resolve_hook(config, subject, sae), prepend_bos=True)
    with tempfile.TemporaryDirectory() as folder:
        settings = PlanSettings(config.corpus.window - 1, tokens, 512, 0, 1024)
        plan = make_plan(open_corpus("stdlib"), subject.tokenizer, Path(folder), settings, "benchmark")
        seconds: dict[str, list[float]] = {"full": [], "bare": [], "harvest": []}
        for _ in range(repeats + 1):  # the first round warms up
            for name, work in (("full", full), ("bare", bare), ("harvest", harvest)):
                seconds[name].append(cpu_seconds(lambda work=work: work(reader, plan)))
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    print(f"{tokens:,} tokens, {sae.d_sae:,} features, {threads} thread(s), medians of {repeats}")
    for name, value in medians.items():
        print(
            f"{name:<8} {value:7.2f} CPU-s  {tokens / value:9,.0f} tokens per CPU-s  {value / medians['bare']:.2f} × bare"
        )


if __name__ == "__main__":
    main()
