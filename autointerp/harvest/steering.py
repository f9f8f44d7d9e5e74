"""The stage `steer`: which next tokens become likelier, and less likely, when a feature is switched on by force.

After Gur-Arieh et al. 2025, "Enhancing Automated Interpretability with Output-Centric Feature Descriptions" (TokenChange). Ours
differs: strengths are set so that all features move the predictions equally far, and tokens that hardly ever come are left
out.

The prompts are the beginnings of random windows of the explain split, the same for all features of a run. The feature's decoder
direction is added at every token of them, BOS and special tokens apart. Added at the last token alone it changes little but what
the logit lens says already (on the demo's features); added everywhere it also shows what later layers fetch from the tokens
before. What is predicted after each token of the second half counts: a place costs less than another prompt does.

Only the layers from the hookpoint on are run for it. Features are stored as they are done: whoever is stopped goes on with
those that are missing.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from autointerp.catalog.records import SPLITS
from autointerp.catalog.steered import STAGE, steered_features, without_rows
from autointerp.catalog.store import Catalog
from autointerp.config import Config, SteeringConfig
from autointerp.errors import UserError
from autointerp.harvest.features import features_identity, parse_features
from autointerp.harvest.runs import Run, runs_of
from autointerp.hashing import hex_hash, sample_key, stable_hash
from autointerp.progress import Advance, progress
from autointerp.subject.windows import Windows

if TYPE_CHECKING:
    from autointerp.harvest.forward import Reader
    from autointerp.harvest.strength import Found, Measure

# Raised when the measurement itself changes, so that old rows are not taken for new ones.
_ALGORITHM = 1
_SECONDS_BETWEEN_WRITES = 10.0
_MOVED = 0.01  # of the target: below, the predictions have not moved but for rounding
_SCHEMA = pa.schema(
    [("feature_id", pa.uint32()), ("direction", pa.string()), ("rank", pa.uint16()), ("token", pa.uint32()),
     ("change", pa.float32()), ("kl", pa.float32()), ("strength", pa.float32())]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Work:
    """What is to be done in one catalog: `maxima` of the features that are missing, by feature, and the prompts."""

    run: Run
    catalog: Catalog
    fingerprint: str
    prompts: Windows
    maxima: dict[int, float]

    def write(self, chunk: "Sequence[tuple[int, Found | None]]") -> None:
        """A few features' rows, with what is known of the whole by then."""
        rows = [row for feature, found in chunk if found is not None for row in _rows(feature, found)]
        listed, settings = {row["feature_id"] for row in rows}, self.run.config.steering
        without = without_rows(self.catalog)
        for feature, found in chunk:
            if feature not in listed:
                has_moved = found is not None and found.effect.kl >= _MOVED * settings.kl
                without["unlisted" if has_moved else "unmoved"].add(feature)
        with self.catalog.transaction():
            self.catalog.insert("steered_tokens", pa.Table.from_pylist(rows, schema=_SCHEMA))
            count, reached = self.catalog.rows(
                "SELECT count(*), count(*) FILTER (reached) FROM (SELECT bool_and(kl >= $target) AS reached "
                "FROM steered_tokens GROUP BY feature_id)",
                {"target": settings.kl * (1 - 1e-6)},  # it is stored with seven digits
            )[0]
            missing = self.maxima.keys() - steered_features(self.catalog) - set().union(*without.values())
            facts = {
                "features": count, "reached": reached, **{kind: sorted(some) for kind, some in without.items()},
                "missing": len(missing), "which": features_identity(settings.features), "kl": settings.kl,
                "prompts": len(self.prompts), "length": settings.length,
            }  # fmt: skip
            self.catalog.finish_stage(STAGE, self.fingerprint, _settings(self.run.config), facts)


def steer(config: Config, out: Path) -> list[dict[str, Any]]:
    """Run the stage for every run of the folder `out`; returns each one's facts. Features that are done are left alone.

    Raises UserError when the sampling is not finished, the corpus has no prompt that is long enough, or the SAE writes to no one
    place of the model.
    """
    runs = runs_of(config, out)

    @cache
    def readers() -> "list[Reader]":
        from autointerp.harvest.setup import open_readers

        return open_readers(runs)

    return [_of_run(run, readers, index) for index, run in enumerate(runs)]


def _of_run(run: Run, readers: "Callable[[], list[Reader]]", index: int) -> dict[str, Any]:
    sampled = run.require_facts()
    fingerprint = _fingerprint(run)
    with Catalog.open(run.catalog, write=True) as catalog:
        wanted = wanted_features(catalog, run.config.steering, sampled["d_sae"])
        prompts = prompts_of(catalog, run.config)
        if catalog.stage_fingerprint(STAGE) != fingerprint:
            with catalog.transaction():
                catalog.connection.execute("DELETE FROM steered_tokens")
                catalog.connection.execute("DELETE FROM stages WHERE stage = ?", [STAGE])
        done = steered_features(catalog).union(*without_rows(catalog).values())
        work = _Work(run, catalog, fingerprint, prompts, {f: m for f, m in wanted.items() if f not in done})
        if work.maxima:
            with progress(STAGE, len(wanted), "features", done=len(wanted) - len(work.maxima)) as advance:
                _measure_all(work, readers()[index], advance)
        elif catalog.stage_facts(STAGE).get("which") != features_identity(run.config.steering.features):
            work.write([])
        return catalog.stage_facts(STAGE)


def wanted_features(catalog: Catalog, settings: SteeringConfig, d_sae: int) -> dict[int, float]:
    """The features that are to be steered, with their maxima: those of the configuration that fire at all.

    Raises UserError for features that the SAE does not have or that were not sampled, and where none fires.
    """
    rows = catalog.rows("SELECT feature_id, max_activation FROM features WHERE max_activation > 0 ORDER BY feature_id")
    if settings.features == "all":
        return dict(rows)
    chosen = set(parse_features(settings.features, d_sae).tolist())
    sampled = {feature for (feature,) in catalog.rows("SELECT feature_id FROM features")}
    if missing := sorted(chosen - sampled):
        raise UserError(
            f"--features {settings.features!r}: {len(missing):,} of these features were not sampled in this run, feature "
            f"{missing[0]} for one; choose among its {len(sampled):,}, {min(sampled)} to {max(sampled)}"
        )
    wanted = {feature: maximum for feature, maximum in rows if feature in chosen}
    if not wanted:
        raise UserError(f"--features {settings.features!r}: none of these fires in the sampled text; choose others")
    return wanted


def prompts_of(catalog: Catalog, config: Config) -> Windows:
    """The beginnings of random windows of the pool, of the explain split: a draw by hash, the same for all features."""
    settings = config.steering
    table = catalog.arrow(
        "SELECT window_id, doc, start, list_slice(tokens, 1, $length) AS tokens FROM windows "
        "WHERE in_pool AND split = 'explain' AND len(tokens) >= $length ORDER BY window_id",
        {"length": settings.length},
    )
    if table.num_rows == 0:
        raise UserError(f"no random window of the explain split has {settings.length} tokens, so that there is no text to steer; "
                        "set steering.length lower")  # fmt: skip
    keys = sample_key(config.seed, stable_hash(STAGE), table["window_id"].to_numpy())
    table = table.take(np.argsort(keys, kind="stable")[: settings.prompts])
    tokens = table["tokens"].to_pylist()
    return Windows(
        **{name: table[name].to_numpy() for name in ("window_id", "doc", "start")},
        split=np.full(len(tokens), SPLITS.index("explain"), np.uint8),
        offsets=np.arange(len(tokens) + 1, dtype=np.int64) * settings.length,
        tokens=np.array(tokens, np.uint32).ravel(),
    )


def measuring(reader: "Reader", prompts: Windows, maxima: dict[int, float], settings: SteeringConfig) -> "Measure":
    """What measures the effect of features on the predictions after the prompts. Raises UserError; see `output_site`."""
    import torch

    from autointerp.harvest.strength import effects_of
    from autointerp.harvest.writing import adding, directions, output_site
    from autointerp.subject.tail import Tail

    ids, valid = (torch.from_numpy(array).to(reader.subject.device) for array in reader.batch(prompts, 0, len(prompts)))
    keep = settings.length - settings.length // 2
    tail = Tail(reader.subject.model, output_site(reader), ids, valid, keep=keep)
    clean = tail.log_probs(lambda x: x)[0]

    def measure(features: Sequence[int], strengths: Sequence[float]) -> list[Any]:
        sizes = [strength * maxima[feature] for feature, strength in zip(features, strengths, strict=True)]
        added = directions(reader.sae, list(features)) * torch.tensor(sizes, device=reader.sae.device)[:, None]
        edit = adding(reader.sae, added.repeat_interleave(len(ids), 0))
        return effects_of(clean, tail.log_probs(edit, len(features)), count=settings.tokens, floor=settings.floor)

    return measure


def _measure_all(work: _Work, reader: "Reader", advance: Advance) -> None:
    from autointerp.harvest.strength import search

    settings = work.run.config.steering
    found = search(
        list(work.maxima), measuring(reader, work.prompts, work.maxima, settings), target=settings.kl,
        largest=settings.max_strength, at_once=max(1, settings.batch_rows // len(work.prompts)),
    )  # fmt: skip
    chunk: list[tuple[int, Found | None]] = []
    last = time.monotonic()
    for feature, outcome in zip(work.maxima, found, strict=True):
        chunk.append((feature, outcome))
        if time.monotonic() - last >= _SECONDS_BETWEEN_WRITES:
            work.write(chunk)
            chunk, last = [], time.monotonic()
        advance(1, "")
    work.write(chunk)


def _rows(feature: int, found: "Found") -> Iterator[dict[str, Any]]:
    effect = found.effect
    for direction, tokens in (("up", effect.up), ("down", effect.down)):
        for rank, (token, change) in enumerate(tokens, start=1):
            yield {"feature_id": feature, "direction": direction, "rank": rank, "token": token, "change": change,
                   "kl": effect.kl, "strength": found.strength}  # fmt: skip


def _settings(config: Config) -> dict[str, Any]:
    """What the rows of a feature depend on, the harvest apart."""
    return {"steering": config.steering.identity(), "seed": config.seed}


def _fingerprint(run: Run) -> str:
    return hex_hash(_ALGORITHM, run.fingerprint, json.dumps(_settings(run.config), sort_keys=True))
