"""What the harvest costs over the bare loop, as ratios within one run; its memory; its scaling.

    python benchmarks/harvest.py                                   workload S: 8,192 and 32,768 latents, 200,000 tokens
    python benchmarks/harvest.py --tokens 1000000 --latents 8192
    python benchmarks/harvest.py --threads 2
    python benchmarks/harvest.py --demo
    python benchmarks/harvest.py --memory                          peak memory at 200,000 and 1,000,000 tokens
    python benchmarks/harvest.py --scaling                         tokens × features × shards

On the same windows, in turn, CPU seconds of the process, medians of the repeats, after a small round to warm up:
- *full*: forward pass through the whole model without its unembedding, then the encoder, ReLU and top-k as a dense loop does it;
- *bare*: the same with the forward pass stopped at the hookpoint: the least that any harvest must do;
- *harvest*: from the plan's tokens to the finished catalog: sketches, shard on disk, merge, descriptors; and apart from it
- *rest*: what does not depend on the tokens: logit lens, neighbours by cosine, neighbours by firing.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from workload import make_workload

from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.config_reading import load_config
from autointerp.harvest.cofiring import cofiring
from autointerp.harvest.forward import Reader
from autointerp.harvest.lens import neighbours, output_tokens
from autointerp.harvest.merge import merge_shards, pool_firings
from autointerp.harvest.passes import Pass
from autointerp.harvest.plan import Plan, PlanSettings, make_plan
from autointerp.harvest.runs import Run
from autointerp.harvest.setup import open_readers
from autointerp.harvest.shards import finished_shards, missing_parts
from autointerp.subject.corpora import open_corpus
from autointerp.subject.hookpoints import capture

BATCH = 32
# 100 contexts a feature: top 40, and 12 in each of five bands.
CONTEXTS = {"sample.top": 40, "sample.per_band": 12, "sample.bands": 5}


def dense_encode(reader: Reader, hidden: torch.Tensor) -> None:
    """The encoder as a plain loop has it: one matrix product, ReLU, and the k largest if the SAE ranks."""
    sae = reader.sae
    x = hidden - sae.b_dec if sae.subtract_b_dec else hidden
    p = torch.nn.functional.linear(x, sae.encoder, sae.b_enc)
    if sae.activation == "topk":
        p.relu().topk(sae.k, sorted=False)
    elif sae.activation == "jumprelu":
        torch.where(p > sae.threshold, p.relu(), 0.0)
    else:
        raise SystemExit(f"no plain loop for an SAE of kind {sae.activation}")


@torch.inference_mode()
def loop(reader: Reader, plan: Plan, *, whole_model: bool) -> None:
    """Forward and encode, nothing kept."""
    model = reader.subject.model
    module = model.get_submodule(reader.hookpoint.module)
    for index in range(plan.n_parts):
        windows = plan.part(index)
        for begin in range(0, len(windows), BATCH):
            ids, valid = reader.batch(windows, begin, min(begin + BATCH, len(windows)))
            tokens, mask = torch.from_numpy(ids), torch.from_numpy(valid)
            if whole_model:
                seen: list[torch.Tensor] = []
                handle = module.register_forward_hook(
                    lambda _m, _i, out, seen=seen: seen.append(out if isinstance(out, torch.Tensor) else out[0])
                )
                model.base_model(input_ids=tokens, use_cache=False)
                handle.remove()
                states = seen[0]
            else:
                states = capture(model, [reader.hookpoint], tokens)[reader.hookpoint]
            dense_encode(reader, states[mask])


def harvest(run: Run, reader: Reader, plan: Plan) -> dict[str, float]:
    """CPU seconds of the passes and of the catalog; bytes a feature of the catalog."""
    began = time.process_time()
    run.out.mkdir(parents=True)
    work = Pass([run], [reader], plan, run.out / "shards", "benchmark")
    work.harvest(range(plan.n_parts), lambda tokens, note: None)
    passed = time.process_time()
    features = work.features()[0]
    with Catalog.open(run.catalog, write=True) as catalog:
        with catalog.transaction():
            folders = [shard.folder / "0" for shard in finished_shards(work.shards, work.fingerprint)]
            merge_shards(catalog, plan, folders, features, run.config.sample, d_sae=reader.sae.d_sae)
        merged = time.process_time()
        with catalog.transaction():
            lens = output_tokens(reader.subject.model, reader.sae.W_dec, features)
            catalog.insert("output_tokens", lens)
            catalog.insert("neighbours", neighbours(reader.sae.W_dec, features))
            catalog.insert("cofiring", cofiring(*pool_firings(catalog, plan.window), features))
    end = time.process_time()
    bytes_a_feature = run.catalog.stat().st_size / len(features)
    return {"harvest": merged - began, "passes": passed - began, "merge": merged - passed, "rest": end - merged,
            "bytes": bytes_a_feature}  # fmt: skip


def configured(folder: Path, latents: int | None) -> Config:
    """The configuration of workload S, or of the demo where `latents` is None."""
    if latents is None:
        return load_config(None, CONTEXTS)
    work = make_workload(folder, latents)
    names = {"subject.model": str(work.model), "sae.path": str(work.sae), "sample.allow_mismatch": True}
    return load_config(None, names | CONTEXTS)


def make_window_plan(config: Config, reader: Reader, folder: Path, tokens: int) -> Plan:
    settings = PlanSettings(
        config.corpus.window - reader.shift, tokens, config.sample.pool, 0, config.sample.part_windows
    )
    return make_plan(open_corpus("stdlib"), reader.subject.tokenizer, folder / f"plan-{tokens}", settings, "benchmark")


def compare(folder: Path, latents: int | None, tokens: int, repeats: int) -> None:
    config = configured(folder, latents)
    [reader] = open_readers([Run(config, folder)])
    plan = make_window_plan(config, reader, folder, tokens)
    one_round(config, folder, reader, make_window_plan(config, reader, folder, 20_000))  # to warm up
    seconds: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, value in one_round(config, folder, reader, plan).items():
            seconds.setdefault(name, []).append(value)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = statistics.median(h / b for h, b in zip(seconds["harvest"], seconds["bare"], strict=True))
    to_full = statistics.median(h / f for h, f in zip(seconds["harvest"], seconds["full"], strict=True))
    what = "demo" if latents is None else "workload S"
    print(
        f"\n{what}, {reader.sae.d_sae:,} latents, {tokens:,} tokens, {torch.get_num_threads()} thread(s), medians of {repeats}\n"
    )
    print("| | CPU-s | tokens per CPU-s | × bare |\n|---|---|---|---|")
    for name in ("full", "bare", "harvest", "passes", "merge", "rest"):
        value = medians[name]
        print(f"| {name} | {value:.2f} | {tokens / value:,.0f} | {value / medians['bare']:.2f} |")
    print(f"\nharvest / bare {ratio:.2f}, harvest / full {to_full:.2f} (medians of the ratios within a round); "
          f"catalog {medians['bytes'] / 1000:.1f} KB a feature", flush=True)  # fmt: skip


def one_round(config: Config, folder: Path, reader: Reader, plan: Plan) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        full = cpu(lambda: loop(reader, plan, whole_model=True))
        bare = cpu(lambda: loop(reader, plan, whole_model=False))
        return {"full": full, "bare": bare, **harvest(Run(config, Path(scratch) / "run"), reader, plan)}


def cpu(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def one_run(folder: Path, latents: int, tokens: int, shards: int) -> None:
    """A whole harvest in this process, cut into shards; prints its figures as JSON. With no shards, only the plan is made."""
    config = configured(folder, latents)
    [reader] = open_readers([Run(config, folder)])
    plan = make_window_plan(config, reader, folder, tokens)
    if not shards:
        return
    loaded = peak_mb()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        run = Run(config, Path(scratch) / "run")
        work = Pass([run], [reader], plan, run.out / "shards", "benchmark")
        began = time.process_time()
        sketches = []
        original = Pass._sketch
        Pass._sketch = lambda self, *given: sketches.append(original(self, *given)) or sketches[-1]  # type: ignore[method-assign]
        held = []
        for index in range(shards):
            share = range(index * plan.n_parts // shards, (index + 1) * plan.n_parts // shards)
            work.harvest(share, lambda tokens, note: None)
            held.append(max(sketch.nbytes for sketch in sketches))
            sketches.clear()
        passed, peak = time.process_time(), peak_mb()
        assert not missing_parts(plan.n_parts, finished_shards(work.shards, work.fingerprint))
        features = work.features()[0]
        with Catalog.open(run.catalog, write=True) as catalog, catalog.transaction():
            folders = [shard.folder / "0" for shard in finished_shards(work.shards, work.fingerprint)]
            merge_shards(catalog, plan, folders, features, run.config.sample, d_sae=reader.sae.d_sae)
        merged = time.process_time()
        size = run.catalog.stat().st_size
    print(json.dumps({"passes": passed - began, "merge": merged - passed, "sketch_mb": max(held) / 1e6, "loaded_mb": loaded,
                      "peak_mb": peak, "peak_all_mb": peak_mb(),
                      "kb_a_feature": size / latents / 1e3}))  # fmt: skip


def peak_mb() -> float:
    """Peak memory of this process so far, in units of a million bytes (the system counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def in_process_of_its_own(folder: Path, latents: int, tokens: int, shards: int = 1) -> dict[str, float]:
    for count in (0, shards):  # the plan is made apart, so that its memory does not count
        command = [sys.executable, __file__, "--folder", str(folder), "--one", f"{latents},{tokens},{count}"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def memory(folder: Path) -> None:
    print(
        "\n| latents | tokens | sketch MB | loaded MB | peak of the passes MB | peak with the merge MB | KB a feature |"
    )
    print("|---|---|---|---|---|---|---|")
    for latents in (8192, 32768):
        for tokens in (200_000, 1_000_000):
            found = in_process_of_its_own(folder, latents, tokens)
            print(f"| {latents:,} | {tokens:,} | {found['sketch_mb']:.0f} | {found['loaded_mb']:.0f} | {found['peak_mb']:.0f} "
                  f"| {found['peak_all_mb']:.0f} | {found['kb_a_feature']:.1f} |", flush=True)  # fmt: skip


def scaling(folder: Path) -> None:
    print("\n| latents | tokens | shards | passes CPU-s | merge CPU-s | tokens per CPU-s | µs a token | KB a feature |")
    print("|---|---|---|---|---|---|---|---|")
    for latents in (8192, 32768):
        for tokens, shards in ((100_000, 1), (400_000, 1), (400_000, 4)):
            found = in_process_of_its_own(folder, latents, tokens, shards)
            total = found["passes"] + found["merge"]
            print(f"| {latents:,} | {tokens:,} | {shards} | {found['passes']:.1f} | {found['merge']:.1f} | {tokens / total:,.0f} "
                  f"| {1e6 * total / tokens:.0f} | {found['kb_a_feature']:.1f} |", flush=True)  # fmt: skip


@click.command()
@click.option("--latents", type=int, multiple=True, help="Of workload S. [default: 8192 and 32768]")
@click.option("--tokens", type=int, default=200_000, show_default=True)
@click.option("--repeats", type=int, default=5, show_default=True)
@click.option("--threads", type=int, default=1, show_default=True)
@click.option("--demo", is_flag=True, help="The demo model and SAE in place of workload S.")
@click.option("--memory", "with_memory", is_flag=True, help="Peak memory, each figure in a process of its own.")
@click.option("--scaling", "with_scaling", is_flag=True, help="Tokens × features × shards.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the files are made. [default: a temporary one]")
@click.option("--one", hidden=True)
def main(
    latents: tuple[int, ...], tokens: int, repeats: int, threads: int, demo: bool, with_memory: bool, with_scaling: bool,
    folder: Path | None, one: str | None,
) -> None:  # fmt: skip
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as scratch:
        place = folder or Path(scratch)
        place.mkdir(parents=True, exist_ok=True)
        if one:
            one_run(place, *map(int, one.split(",")))
        elif with_memory:
            memory(place)
        elif with_scaling:
            scaling(place)
        else:
            for count in (None,) if demo else latents or (8192, 32768):
                compare(place, count, tokens, repeats)


if __name__ == "__main__":
    main()
