"""The stage `explain`: a label for every feature that has evidence. What is labelled already is not labelled again."""

import asyncio
import json
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from autointerp.catalog.draws import read_draws
from autointerp.catalog.reading import EvidenceReader, read_vocabulary
from autointerp.catalog.records import FeatureEvidence, Label
from autointerp.catalog.spending import write_spending
from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.explain import Explainer, Search, explainers
from autointerp.explain.at_hand import at_bench
from autointerp.explain.exemplars import Selection
from autointerp.explain.supply import require_supplies, supplied, warn_of_no_negatives, with_negatives, with_steered
from autointerp.hashing import hex_hash
from autointerp.llm.rounds import drawn, in_rounds
from autointerp.llm.session import ModelSession, journal_folder, open_session, provider_for
from autointerp.llm.types import RequestFailed
from autointerp.reasons import PASSING
from autointerp.score.parts import simulator_name

SILENT = 40  # silent contexts of the explain split that explainers may look at
STAGE = "explain"
Which = Literal["pending", "failed", "all"]


@dataclass(frozen=True, slots=True)
class Explained:
    """The outcome for one feature: a label, or the reason why there is none."""

    feature_id: int
    label: Label | None
    reason: str | None


def explainer_for(config: Config, name: str) -> Explainer:
    """The explainer `name` with the run's settings."""
    folder = config.explain.prompt_dir
    given = config.explain
    search = Search(
        given.inner, given.candidates, simulator_name(config), given.steps, given.patience, given.errors,
        given.investigate_steps, given.investigate_tokens,
    )  # fmt: skip
    selection = Selection(**config.exemplars.model_dump())
    explainer = explainers.get(name).configured(selection, Path(folder) if folder else None, search)
    if "test" in explainer.splits:
        raise UserError(
            f"the explainer {name} asks for the test split, on which its labels are graded; expected others only"
        )
    return explainer


def explainer_key(config: Config, name: str) -> str:
    """Identity of an explainer with everything that its labels depend on, the harvest apart."""
    explainer = explainer_for(config, name)
    access = config.explaining()
    model = (provider_for(access).name, access.model) if explainer.needs_model else ("", "")
    return hex_hash("explainer", name, explainer.version, *model, config.seed, *supplied(config, explainer))


def explain(
    config: Config,
    catalog: Catalog,
    run: Path,
    name: str,
    which: Which = "pending",
    *,
    only: Collection[int] | None = None,
    offline: bool = False,
) -> dict[str, Any]:
    """Label features with the explainer `name`: those without its label, of failed ones those that may pass; or only the
    `failed` ones; or `all`; of these the ones in `only`. `offline`: from the journal alone; what it cannot answer is left as it
    is. Returns counts.
    """
    explainer = explainer_for(config, name)
    require_supplies(config, catalog, explainer)
    key = explainer_key(config, name)
    todo = features_to_label(catalog, key, config.explain.include_rare, which)
    if only is not None:
        wanted = set(only)
        todo = [feature for feature in todo if feature in wanted]
    if todo:
        warn_of_no_negatives(config, catalog, explainer)
        explainer = at_bench(config, catalog, explainer, partial(explanation_id, key), anew=which == "all")
        try:
            asyncio.run(_explain_all(config, catalog, run, name, explainer, key, todo, offline))
        finally:
            if explainer.needs_model:
                write_spending(catalog, journal_folder(run))
    return facts(catalog, key)


def explanation_id(key: str, feature: int) -> str:
    """Of the label of a feature by the explainer `key`."""
    return hex_hash("explanation", key, feature)


def facts(catalog: Catalog, key: str) -> dict[str, Any]:
    counts = dict(catalog.rows("SELECT status, count(*) FROM explanations WHERE explainer_key = ? GROUP BY ALL", [key]))
    kinds = catalog.rows(
        "SELECT kind, count(*) FROM explanations WHERE explainer_key = ? AND status = 'ok' GROUP BY ALL ORDER BY 2 DESC, 1",
        [key],
    )
    return {"n_ok": counts.get("ok", 0), "n_failed": counts.get("failed", 0), "kinds": dict(kinds)}


def features_to_label(catalog: Catalog, key: str, include_rare: bool, which: Which = "pending") -> list[int]:
    """Ids of features with evidence whose label by the explainer `key` is wanted; see `explain`."""
    rows = catalog.rows(
        "SELECT feature_id FROM features LEFT JOIN "
        "(SELECT feature_id, status, reason FROM explanations WHERE explainer_key = $key) USING (feature_id) "
        "WHERE flag IS DISTINCT FROM 'dead' AND ($rare OR flag IS DISTINCT FROM 'rare') AND CASE $which "
        "WHEN 'all' THEN true WHEN 'failed' THEN status = 'failed' ELSE status IS NULL OR (status = 'failed' "
        "AND split_part(reason, ':', 1) IN (SELECT unnest($passing))) END ORDER BY 1",
        {"rare": include_rare, "key": key, "which": which, "passing": list(PASSING)},
    )
    return [feature for (feature,) in rows]


async def _explain_all(
    config: Config,
    catalog: Catalog,
    run: Path,
    name: str,
    explainer: Explainer,
    key: str,
    todo: Sequence[int],
    offline: bool,
) -> None:
    vocabulary = read_vocabulary(catalog)
    reader = EvidenceReader(catalog, seed=config.seed, silent=SILENT)
    draws = read_draws(catalog, STAGE, key)
    async with AsyncExitStack() as stack:
        session: ModelSession | None = None
        if explainer.needs_model:
            opened = open_session(config.explaining(), run, f"explainer {name}", offline=offline)
            session = await stack.enter_async_context(opened)

        async def work(evidence: FeatureEvidence) -> Explained:
            draw = draws.get((evidence.feature_id, ""), 0)
            try:
                ask = drawn(session.broker, draw) if session else None
                return Explained(evidence.feature_id, await explainer(evidence, ask, vocabulary), None)
            except RequestFailed as failure:
                return Explained(evidence.feature_id, None, str(failure))

        shown = {"negatives": with_negatives(config, explainer), "steered": with_steered(config, explainer)}
        await in_rounds(
            f"explain {name}", "features", todo, lambda chunk: iter(reader.read(chunk, explainer.splits, **shown)), work,
            lambda finished: _write(catalog, config, name, explainer, key, finished), session,
        )  # fmt: skip


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
    candidates = [
        {"explanation_id": row["explanation_id"], **asdict(candidate)}
        for row, outcome in zip(rows, outcomes, strict=True)
        for candidate in (outcome.label.candidates if outcome.label else ())
    ]
    steps = [
        {"explanation_id": row["explanation_id"], "step": number, **asdict(step)}
        for row, outcome in zip(rows, outcomes, strict=True)
        for number, step in enumerate(outcome.label.steps if outcome.label else (), start=1)
    ]
    with catalog.transaction():
        _forget_scores_of_changed(catalog, rows)
        for table in ("explanations", "explanation_evidence", "candidates", "investigation_steps"):
            ids = [row["explanation_id"] for row in rows]
            catalog.rows(f"DELETE FROM {table} WHERE explanation_id IN (SELECT unnest(?))", [ids])
        catalog.insert("explanations", pa.Table.from_pylist(rows, schema=_EXPLANATIONS))
        catalog.insert("explanation_evidence", pa.Table.from_pylist(evidence, schema=_EVIDENCE))
        catalog.insert("candidates", pa.Table.from_pylist(candidates, schema=_CANDIDATES))
        catalog.insert("investigation_steps", pa.Table.from_pylist(steps, schema=_STEPS))


def _forget_scores_of_changed(catalog: Catalog, rows: list[dict[str, Any]]) -> None:
    """A label that is derived anew and comes out otherwise has not been scored, nor have controls that used it."""
    wanted = {row["explanation_id"]: (row.get("description"), row.get("rule")) for row in rows}
    found = catalog.rows(
        "SELECT explanation_id, description, rule FROM explanations WHERE status = 'ok' AND explanation_id IN (SELECT unnest(?))",
        [list(wanted)],
    )
    changed = [name for name, description, rule in found if wanted[name] != (description, rule)]
    if changed:
        for table in ("scores", "simulations", "judgements"):
            catalog.rows(f"DELETE FROM {table} WHERE explanation_id IN (SELECT unnest(?))", [changed])


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
            "scope",
            "confidence",
            "output_title",
            "output_description",
            "selection",
        )
    ]
    + [(column, pa.list_(pa.string())) for column in ("languages", "domains", "safety", "parts")]
    + [("sides_agree", pa.bool_())]
)
_CANDIDATES = pa.schema(
    [("explanation_id", pa.string()), ("number", pa.uint8()), ("title", pa.string()), ("description", pa.string()),
     ("score", pa.float64()), ("chosen", pa.bool_()), ("reason", pa.string()), ("parent", pa.uint8())]
)  # fmt: skip
_STEPS = pa.schema(
    [("explanation_id", pa.string()), ("step", pa.uint16()), ("tool", pa.string()), ("arguments", pa.string()),
     ("result", pa.string())]
)  # fmt: skip
_EVIDENCE = pa.schema([("explanation_id", pa.string()), ("rank", pa.uint16()), ("window_id", pa.uint64())])


def _row(config: Config, name: str, explainer: Explainer, key: str, outcome: Explained) -> dict[str, Any]:
    label = outcome.label
    row = {
        "explanation_id": explanation_id(key, outcome.feature_id),
        "feature_id": outcome.feature_id,
        "explainer_key": key,
        "explainer": name,
        "model": config.explaining().model if explainer.needs_model else None,
        "template_hash": explainer.template_hash,
        "status": "failed" if label is None else "ok",
        "reason": outcome.reason,
    }
    if label is not None:
        rule = None if label.rule is None else json.dumps(label.rule, sort_keys=True)
        row |= {"title": label.title, "description": label.description, "kind": label.kind, "rule": rule}
        row |= {"reason": label.remark, "scope": label.scope, "confidence": label.confidence}
        row |= {"languages": list(label.languages), "domains": list(label.domains)}
        row |= {"safety": list(label.safety), "parts": list(label.parts)}
        if explainer.selection is not None:
            row["selection"] = json.dumps(asdict(explainer.selection))
        if label.output is not None:
            row |= {"output_title": label.output.title, "output_description": label.output.description,
                    "sides_agree": label.output.agrees}  # fmt: skip
    return row
