"""One pass over parts of the plan: batches in, sketches of every dictionary out, now and then on disk.

This is all that a worker does, on this machine or another: everything that it needs is in the run's folder.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autointerp.harvest.features import parse_features
from autointerp.harvest.forward import Reader, batches
from autointerp.harvest.plan import Plan
from autointerp.harvest.runs import Run
from autointerp.harvest.shards import remove, write_shard
from autointerp.harvest.sketch import Sketch
from autointerp.hashing import hex_hash
from autointerp.progress import Advance
from autointerp.subject.windows import per_split

# Sketches are written so often that this share of the work can be lost, unless writing them took more than that of the time.
_WRITING_SHARE = 0.03
_LOST_SHARE = 0.1


def pass_fingerprint(runs: Sequence[Run], plan_fingerprint: str) -> str:
    """Hash of what the shards of these runs depend on."""
    return hex_hash(plan_fingerprint, *(run.fingerprint for run in runs))


@dataclass(frozen=True)
class Pass:
    """Runs whose SAEs are read together, and where their shards are."""

    runs: Sequence[Run]
    readers: Sequence[Reader]
    plan: Plan
    shards: Path
    plan_fingerprint: str

    @property
    def fingerprint(self) -> str:
        """Of the shards: what the plan and every run depend on."""
        return pass_fingerprint(self.runs, self.plan_fingerprint)

    def features(self) -> list[NDArray[np.int64]]:
        """Ids of the features of each run."""
        return [
            parse_features(run.config.sample.features, reader.sae.d_sae)
            for run, reader in zip(self.runs, self.readers, strict=True)
        ]

    def harvest(self, parts: Sequence[int], report: Advance) -> None:
        """Harvest the given parts of the plan, in order; neighbouring ones share a shard.

        `report(tokens, note)` is called after every batch. A kill loses what was done since the sketches were last written.
        """
        pool = self.plan.pool()
        wanted = [
            None if len(features) == reader.sae.d_sae else features
            for features, reader in zip(self.features(), self.readers, strict=True)
        ]
        for run in _neighbouring(parts):
            self._harvest_run(run, pool, wanted, report)

    def _harvest_run(
        self, parts: range, pool: NDArray[np.uint64], wanted: list[NDArray[np.int64] | None], report: Advance
    ) -> None:
        sample = self.runs[0].config.sample
        sketches = [self._sketch(reader, run) for reader, run in zip(self.readers, self.runs, strict=True)]
        written: Path | None = None
        began = last = time.monotonic()
        n_tokens, cost = 0, 0.0
        for part in parts:
            note = f"part {part + 1} of {self.plan.n_parts}"
            for firings, windows, tokens in batches(
                self.readers, self.plan.part(part), pool, wanted, sample.batch_windows
            ):
                for sketch, found in zip(sketches, firings, strict=True):
                    sketch.update(found, windows)
                n_tokens += tokens
                report(tokens, note)
            now = time.monotonic()
            due = _interval(sample.checkpoint_s, cost, now - began)
            if part == parts[-1] or now - last >= due:
                folder = write_shard(sketches, self.shards, parts[0], part + 1, self.fingerprint, n_tokens)
                if written is not None:
                    remove(written)
                written, last = folder, time.monotonic()
                cost = last - now

    def _sketch(self, reader: Reader, run: Run) -> Sketch:
        sample, config = run.config.sample, run.config
        return Sketch(
            reader.sae.d_sae, top=per_split(sample.top), per_band=per_split(sample.per_band), seed=config.seed,
            window=config.corpus.window - reader.shift, whole_pool=reader.sae.encoder is not None,
        )  # fmt: skip


def _interval(wish: float, cost: float, elapsed: float) -> float:
    """Seconds until sketches are written again, if writing them took `cost`; with a wish of 0 after every part."""
    return max(wish, cost / _WRITING_SHARE, elapsed * _LOST_SHARE) if wish else 0.0


def _neighbouring(parts: Sequence[int]) -> list[range]:
    """Runs of consecutive numbers."""
    runs: list[range] = []
    for part in sorted(parts):
        if runs and runs[-1].stop == part:
            runs[-1] = range(runs[-1].start, part + 1)
        else:
            runs.append(range(part, part + 1))
    return runs
