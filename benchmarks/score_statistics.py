"""How fast scores and their intervals are computed, nothing else: simulations are made up, and nothing is read or written.

    python benchmarks/score_statistics.py
    python benchmarks/score_statistics.py --features 2000 --processes 1

The aim: 16,384 features × 1,000 resamples × 100 contexts in less than 60 s on 2 cores. Every metric of the protocol
`simulation` is computed with its interval; the controls that need no model are timed apart. Times are of the processor, so that
other work on the machine does not count.
"""

import time
from concurrent.futures import ProcessPoolExecutor

import click
import numpy as np

from autointerp.catalog.records import Context, FeatureEvidence
from autointerp.score import Simulated
from autointerp.score.evidence_controls import of_simulation
from autointerp.score.simulation import score_simulation

BANDS, TOKENS, POOL = 5, 64, 32  # POOL: different features, taken in turn
AIM_S, AIM_FEATURES = 60.0, 16_384


def planted(feature: int, contexts: int) -> tuple[FeatureEvidence, list[Simulated]]:
    """Half of the contexts silent, half in five bands; a simulator with noise and false alarms."""
    rng = np.random.default_rng(feature)
    found, simulated = [], []
    bands = [0] * (contexts // 2) + [
        1 + at * BANDS // (contexts - contexts // 2) for at in range(contexts - contexts // 2)
    ]
    for window, band in enumerate(bands):
        truth = np.zeros(TOKENS, np.float32)
        if band:
            truth[rng.integers(0, TOKENS, 4)] = rng.uniform(1, 10, 4)
        said = np.where(truth > 0, np.clip(truth + rng.normal(0, 1, TOKENS), 0, 10), 0)
        if not band and rng.random() < 0.2:
            said[rng.integers(0, TOKENS)] = 5
        tokens = np.zeros(TOKENS, np.int32)
        found.append(Context(window, "test", "band" if band else "silent", band, tokens, truth))
        simulated.append(Simulated(window, said.astype(np.float32), "ok"))
    sizes = {("test", band): 10_000 for band in range(BANDS + 1)}
    return FeatureEvidence(feature, 10.0, 0.01, found, sizes), simulated


def work(count: int, contexts: int, resamples: int) -> tuple[float, float]:
    """Seconds for `count` features: the scores, and the controls."""
    made = [planted(feature, contexts) for feature in range(POOL)]
    began = time.process_time()
    for number in range(count):
        score_simulation(*made[number % POOL], resamples=resamples)
    scored = time.process_time()
    for number in range(count):
        of_simulation(*made[number % POOL], 0)
    return scored - began, time.process_time() - scored


@click.command()
@click.option("--features", type=int, default=AIM_FEATURES, show_default=True)
@click.option("--contexts", type=int, default=100, show_default=True)
@click.option("--resamples", type=int, default=1000, show_default=True)
@click.option("--processes", type=int, default=2, show_default=True, help="One a core.")
def main(features: int, contexts: int, resamples: int, processes: int) -> None:
    each = -(-features // processes)
    with ProcessPoolExecutor(processes) as pool:
        times = list(pool.map(work, [each] * processes, [contexts] * processes, [resamples] * processes))
    scores, controls = (max(part) for part in zip(*times, strict=True))
    print(f"{each * processes:,} features × {contexts} contexts × {resamples:,} resamples, {processes} processes")
    for what, seconds in (("scores", scores), ("controls", controls)):
        print(f"{what}: {seconds:.1f} s of processor time each, {seconds / each * 1e3:.2f} ms a feature")
    rate = scores / each * AIM_FEATURES / processes
    print(f"aim: {AIM_FEATURES:,} features in {AIM_S:.0f} s; at this rate, on {processes} idle cores: {rate:.0f} s")


if __name__ == "__main__":
    main()
