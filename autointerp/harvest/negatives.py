"""The stage `negatives`: windows in which a feature could be expected to fire and does not.

Two kinds. `near`: one of the feature's nearest decoder neighbours fires strongly. `token`: the token on which the feature fires
most is there. In both the feature is silent in the whole window.

Candidates are windows that the catalog holds, so that nothing of the corpus is needed but them. They are chosen by one random
order of all windows, the same for every feature. So of each neighbour's windows, and of each token's, a feature's candidates are
a uniform draw, and the draws of two features have many windows in common: far fewer windows are to be read. For `token`
the windows of the shared random pool come first: they are a uniform draw from the corpus, and it is known in which of them
the feature fires; the others are there because some feature fires in them. Then one pass of the subject and the SAE over the
union of the candidates tells in which of them the feature is silent. A feature that fires wherever its neighbours do, or
its token stands, has no negatives of that kind.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from autointerp.catalog.records import SPLITS
from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.harvest.runs import Run, runs_of
from autointerp.hashing import hex_hash, sample_key, stable_hash
from autointerp.progress import Advance, progress
from autointerp.subject.windows import Windows, per_split

if TYPE_CHECKING:
    from autointerp.harvest.forward import Reader
    from autointerp.harvest.sketch import Firings

STAGE = "negatives"
KINDS = ("near", "token")
# Raised when the choice itself changes, so that old rows are not taken for new ones.
_ALGORITHM = 2
# Windows considered for each candidate wanted: some are offered twice, and in some the feature is known to fire.
_SLACK = 4
_READ_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Candidates:
    """(feature, window) pairs to look at, sorted by window. `window`: number of the window in the order of reading.

    `feature` int64; `window` int64; `neighbour` int64, the feature that must fire there, −1 for kind token. `table` holds the
    same rows as the catalog needs them.
    """

    table: pa.Table
    feature: NDArray[np.int64]
    window: NDArray[np.int64]
    neighbour: NDArray[np.int64]
    n_windows: int
    n_tokens: int


def negatives(config: Config, out: Path) -> list[dict[str, Any]]:
    """Run the stage for every run of the folder `out`; returns each one's facts. What is complete is left alone.

    Raises UserError when the sampling is not finished, or `negatives.per_kind` is 0.
    """
    if config.negatives.per_kind == 0:
        raise UserError("negatives.per_kind is 0, so there is nothing to find; say how many with --per-kind, for instance "
                        "--per-kind 20")  # fmt: skip
    runs = runs_of(config, out)

    @cache
    def readers() -> "list[Reader]":
        from autointerp.harvest.setup import open_readers

        return open_readers(runs)

    return [_of_run(run, readers, index) for index, run in enumerate(runs)]


def _of_run(run: Run, readers: "Callable[[], list[Reader]]", index: int) -> dict[str, Any]:
    run.require_facts()
    fingerprint = _fingerprint(run)
    with Catalog.open(run.catalog, write=True) as catalog:
        if catalog.stage_fingerprint(STAGE) == fingerprint:
            return catalog.stage_facts(STAGE)
        with _registered(catalog, draws=_draws(catalog, run.config.seed), quotas=_quotas(run.config)):
            candidates = choose(catalog, run.config)
            silent = np.zeros(0, np.bool_)
            if len(candidates.feature):
                with progress(STAGE, candidates.n_tokens, "tokens") as advance:
                    silent = probe(catalog, readers()[index], candidates, run.config.sample.batch_windows, advance)
            with catalog.transaction(), _registered(catalog, found=candidates.table.filter(pa.array(silent))):
                catalog.connection.execute(_script("negatives_insert.sql"))
                facts = _facts(catalog, candidates)
                catalog.finish_stage(STAGE, fingerprint, _settings(run.config), facts)
    return facts


def choose(catalog: Catalog, config: Config) -> Candidates:
    """The pairs to look at; their windows are in the temporary table `to_read`, in the order of reading."""
    most = max(_tries(config))
    neighbours = catalog.value("SELECT max(rank) FROM neighbours") or 1
    depths = {"near_depth": -(-_SLACK * most // neighbours), "token_depth": _SLACK * most}
    catalog.connection.execute(_script("negatives.sql", n_bands=config.sample.bands, **depths))
    table = catalog.arrow(
        "SELECT c.*, r.number FROM candidates c JOIN to_read r USING (window_id) ORDER BY number, feature_id, kind"
    )
    feature, window, cause = (table[name].to_numpy().astype(np.int64) for name in ("feature_id", "number", "cause"))
    n_windows, n_tokens = catalog.rows("SELECT count(*), coalesce(sum(len(tokens)), 0) FROM to_read")[0]
    is_near = np.array(table["kind"].to_pylist(), dtype=object) == "near"
    return Candidates(table, feature, window, np.where(is_near, cause, -1), n_windows, n_tokens)


def probe(
    catalog: Catalog, reader: "Reader", candidates: Candidates, batch: int, advance: Advance
) -> NDArray[np.bool_]:
    """Of each candidate, whether its feature is silent in its window and its neighbour, if it has one, fires there."""
    from autointerp.harvest.forward import batches

    wanted = np.unique(np.concatenate([candidates.feature, candidates.neighbour[candidates.neighbour >= 0]]))
    features = None if len(wanted) == reader.sae.d_sae else wanted
    kept = np.zeros(len(candidates.feature), np.bool_)
    at = 0
    for begin in range(0, candidates.n_windows, _READ_AT_ONCE):
        windows = _windows(catalog, begin, begin + _READ_AT_ONCE)
        for [firings], facts, n_tokens in batches([reader], windows, np.zeros(0, np.uint64), [features], batch):
            n = len(facts.window_id)
            part = slice(*np.searchsorted(candidates.window, [at, at + n]))
            row, neighbour = candidates.window[part] - at, candidates.neighbour[part]
            silent = ~fires(firings, n, candidates.feature[part], row)
            kept[part] = silent & ((neighbour < 0) | fires(firings, n, neighbour, row))
            at += n
            advance(n_tokens, "")
    return kept


def fires(
    firings: "Firings", n_rows: int, feature: NDArray[np.int64], row: NDArray[np.int64]
) -> NDArray[np.bool_]:  # fmt: skip
    """Whether feature[i] fires anywhere in window row[i] of a batch of `n_rows` windows."""
    codes = firings.feature.astype(np.int64) * n_rows + firings.row  # sorted, as the firings are
    asked = feature * n_rows + row
    place = np.searchsorted(codes, asked)
    result: NDArray[np.bool_] = np.append(codes, np.iinfo(np.int64).max)[place] == asked
    return result


def _windows(catalog: Catalog, begin: int, end: int) -> Windows:
    """Windows begin … end − 1 in the order of reading."""
    table = catalog.arrow(
        "SELECT * FROM to_read WHERE number >= $begin AND number < $end ORDER BY number", {"begin": begin, "end": end}
    )
    tokens = table["tokens"].combine_chunks()
    lengths = tokens.value_lengths().to_numpy()
    return Windows(
        **{name: table[name].to_numpy() for name in ("window_id", "doc", "start")},
        split=np.array([SPLITS.index(split) for split in table["split"].to_pylist()], np.uint8),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        tokens=tokens.flatten().to_numpy(),
    )


def _draws(catalog: Catalog, seed: int) -> pa.Table:
    """The random order of the catalog's windows, and the same with the pool's windows before all others."""
    table = catalog.arrow("SELECT window_id, in_pool FROM windows")
    ids, in_pool = table["window_id"].to_numpy(), table["in_pool"].to_numpy()
    keys = sample_key(seed, stable_hash(STAGE), ids)
    draw, place = np.empty((2, len(ids)), np.int64)
    draw[np.lexsort((ids, keys))] = place[np.lexsort((ids, keys, ~in_pool))] = np.arange(len(ids))
    return pa.table({"window_id": ids, "draw": draw, "place": place})


def _tries(config: Config) -> list[int]:
    """Candidates for each feature, kind and split, in the order of SPLITS."""
    return [config.negatives.tries * keep for keep in per_split(config.negatives.per_kind)]


def _quotas(config: Config) -> pa.Table:
    keep = per_split(config.negatives.per_kind)
    return pa.table({"split": list(SPLITS), "keep": keep, "tries": _tries(config)})


def _settings(config: Config) -> dict[str, Any]:
    return {"negatives": config.negatives.model_dump(), "seed": config.seed}


def _fingerprint(run: Run) -> str:
    """Hash of everything that the stage's rows depend on."""
    return hex_hash(_ALGORITHM, run.fingerprint, json.dumps(_settings(run.config), sort_keys=True))


def _facts(catalog: Catalog, candidates: Candidates) -> dict[str, Any]:
    """By kind: pairs looked at, rows kept, features that have any; and what was read."""
    tried = dict(catalog.rows("SELECT kind, count(*) FROM candidates GROUP BY ALL"))
    rows = catalog.rows(
        "SELECT kind, count(*), count(DISTINCT feature_id) FROM contexts WHERE kind IN ('near', 'token') GROUP BY ALL"
    )
    found = {kind: (count, features) for kind, count, features in rows}
    of_kind = {
        kind: dict(
            zip(("candidates", "windows", "features"), (tried.get(kind, 0), *found.get(kind, (0, 0))), strict=True)
        )
        for kind in KINDS
    }
    return of_kind | {"windows_read": candidates.n_windows, "tokens_read": candidates.n_tokens}


def _script(name: str, **parameters: int) -> str:
    return Template(files("autointerp.harvest").joinpath(name).read_text(encoding="utf-8")).substitute(parameters)


@contextmanager
def _registered(catalog: Catalog, **tables: pa.Table) -> Iterator[None]:
    """Arrow tables that queries see under the given names."""
    for name, table in tables.items():
        catalog.connection.register(name, table)
    try:
        yield
    finally:
        for name in tables:
            with suppress(duckdb.Error):  # in a transaction that failed; its error is the one to be seen
                catalog.connection.unregister(name)
