"""The stage `explain`: a label for every feature that has evidence. What is labelled already is not labelled again."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from autointerp.catalog.reading import EvidenceReader, read_vocabulary
from autointerp.catalog.records import FeatureEvidence, Label
from autointerp.catalog.store import Catalog
from autointerp.concurrent import concurrently
from autointerp.config import Config
from autointerp.explain import Explainer, explainers
from autointerp.hashing import hex_hash
from autointerp.llm.session import ModelSession, open_session
from autointerp.llm.types import RequestFailed
from autointerp.progress import progress

_SILENT = 40  # silent contexts of the explain split that explainers may look at
_CHUNK = 64  # features read, and written, at a time


@dataclass(frozen=True, slots=True)
class Explained:
    """The outcome for one feature: a label, or the reason why there is none."""

    feature_id: int
    label: Label | None
    reason: str | None


def explainer_key(config: Config, name: str) -> str:
    """Identity of an explainer with everything that its labels depend on, the harvest apart."""
    explainer = explainers.get(name)
    model = (config.explain.provider, config.explain.model) if explainer.needs_model else ("", "")
    return hex_hash("explainer", name, _version(explainer), *model, config.seed)


def explain(config: Config, catalog: Catalog, run: Path, name: str) -> dict[str, Any]:
    """Label with the explainer `name` every feature that lacks its label; failed ones are tried again. Returns counts."""
    explainer = explainers.get(name)
    key = explainer_key(config, name)
    todo = _pending(catalog, key, config.explain.include_rare)
    if todo:
        asyncio.run(_explain_all(config, catalog, run, name, explainer, key, todo))
    return facts(catalog, key)


def facts(catalog: Catalog, key: str) -> dict[str, Any]:
    counts = dict(catalog.rows("SELECT status, count(*) FROM explanations WHERE explainer_key = ? GROUP BY ALL", [key]))
    kinds = catalog.rows(
        "SELECT kind, count(*) FROM explanations WHERE explainer_key = ? AND status = 'ok' GROUP BY ALL ORDER BY 2 DESC, 1",
        [key],
    )
    return {"n_ok": counts.get("ok", 0), "n_failed": counts.get("failed", 0), "kinds": dict(kinds)}


def _version(explainer: Explainer) -> str:
    """Explainers state a `version` that changes with their method or prompt."""
    return str(getattr(explainer, "version", "1"))


def _pending(catalog: Catalog, key: str, include_rare: bool) -> list[int]:
    rows = catalog.rows(
        "SELECT feature_id FROM features WHERE flag IS DISTINCT FROM 'dead' AND ($rare OR flag IS DISTINCT FROM 'rare') "
        "AND feature_id NOT IN (SELECT feature_id FROM explanations WHERE explainer_key = $key AND status = 'ok') ORDER BY 1",
        {"rare": include_rare, "key": key},
    )
    return [feature for (feature,) in rows]


async def _explain_all(
    config: Config, catalog: Catalog, run: Path, name: str, explainer: Explainer, key: str, todo: Sequence[int]
) -> None:
    vocabulary = read_vocabulary(catalog)
    reader = EvidenceReader(catalog, seed=config.seed, silent=_SILENT)
    async with AsyncExitStack() as stack:
        session: ModelSession | None = None
        if explainer.needs_model:
            session = await stack.enter_async_context(
                open_session(config.explain, config.explain.model, run, f"explainer {name}")
            )

        ask = session.ask if session else None

        async def work(evidence: FeatureEvidence) -> Explained:
            try:
                return Explained(evidence.feature_id, await explainer(evidence, ask, vocabulary), None)
            except RequestFailed as failure:
                return Explained(evidence.feature_id, None, str(failure))

        def evidence() -> Iterator[FeatureEvidence]:
            for begin in range(0, len(todo), _CHUNK):
                yield from reader.read(todo[begin : begin + _CHUNK], ("explain",))

        finished: list[Explained] = []
        with progress("explain", len(todo), "features") as advance:
            limit = 2 * config.explain.concurrency if session else 1
            async for outcome in concurrently(evidence(), work, limit):
                finished.append(outcome)
                advance(1, session.note() if session else "")
                if len(finished) == _CHUNK:
                    _write(catalog, config, name, explainer, key, finished)
                    finished = []
            _write(catalog, config, name, explainer, key, finished)


def _write(
    catalog: Catalog, config: Config, name: str, explainer: Explainer, key: str, outcomes: list[Explained]
) -> None:
    outcomes.sort(key=lambda outcome: outcome.feature_id)
    rows = [_row(config, name, explainer, key, outcome) for outcome in outcomes]
    evidence = [
        {"explanation_id": row["explanation_id"], "rank": rank, "window_id": window}
        for row, outcome in zip(rows, outcomes, strict=True)
        for rank, window in enumerate(outcome.label.evidence if outcome.label else (), start=1)
    ]
    with catalog.transaction():
        ids = [outcome.feature_id for outcome in outcomes]
        catalog.rows(
            "DELETE FROM explanations WHERE explainer_key = ? AND feature_id IN (SELECT unnest(?))", [key, ids]
        )
        catalog.insert("explanations", pa.Table.from_pylist(rows, schema=_EXPLANATIONS))
        catalog.insert("explanation_evidence", pa.Table.from_pylist(evidence, schema=_EVIDENCE))


_EXPLANATIONS = pa.schema(
    [("feature_id", pa.uint32())]
    + [
        (column, pa.string())
        for column in (
            "explanation_id",
            "explainer_key",
            "explainer",
            "model",
            "template_hash",
            "status",
            "reason",
            "title",
            "description",
            "kind",
            "rule",
        )
    ]
)
_EVIDENCE = pa.schema([("explanation_id", pa.string()), ("rank", pa.uint16()), ("window_id", pa.uint64())])


def _row(config: Config, name: str, explainer: Explainer, key: str, outcome: Explained) -> dict[str, Any]:
    label = outcome.label
    row = {
        "explanation_id": hex_hash("explanation", key, outcome.feature_id),
        "feature_id": outcome.feature_id,
        "explainer_key": key,
        "explainer": name,
        "model": config.explain.model if explainer.needs_model else None,
        "template_hash": getattr(explainer, "template_hash", None),
        "status": "failed" if label is None else "ok",
        "reason": outcome.reason,
    }
    if label is not None:
        rule = None if label.rule is None else json.dumps(label.rule, sort_keys=True)
        row |= {"title": label.title, "description": label.description, "kind": label.kind, "rule": rule}
    return row
