"""The stages in their order, each in one run folder. A stage that is complete is left alone.

RUN_DIR/config.json       the resolved configuration, taken up by later commands on the same folder
RUN_DIR/plan/             the corpus, tokenised and cut into windows
RUN_DIR/shards/           parts of the harvest, until they are in the catalog
RUN_DIR/workers/          what the workers of an engine report, while they are at work or after one has failed
RUN_DIR/journal/          every answer of a language model
RUN_DIR/catalog.duckdb    the catalog
RUN_DIR/null/             random directions, a run like this one
RUN_DIR/report.html       the report
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autointerp import __version__
from autointerp.announce import say_explainer, say_scorers
from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.files import write_text
from autointerp.harvest.features import chosen_features, in_a_row
from autointerp.harvest.runs import runs_of
from autointerp.hashing import hex_hash
from autointerp.run_folder import catalog_path, sampled_catalog, save_configs, settings_of_stage

BASELINE = "lexicon"


def run_all(config: Config, out: Path, features: str = "all", **how: Any) -> list[Path]:
    """Every stage for every dictionary; returns the paths of the reports. `features`: only these are labelled and graded;
    `how`: engine and workers of the sampling."""
    runs = runs_of(config, out)
    for run in runs:
        check_models(run.config, run.out)
    _samples(config, out, **how)
    if config.negatives.per_kind:
        from autointerp.harvest.negatives import negatives

        negatives(config, out)
    if config.steering.enabled:
        from autointerp.harvest.steering import steer

        steer(config, out)
    for run in runs:
        _say_estimate(run.config, run.out, features)
        explain_stage(run.config, run.out, features)
        score_stage(run.config, run.out, features)
    if config.score.random_directions:
        null_stage(config, out, config.score.random_directions)
    save_configs(config, out)
    return [report_stage(run.config, run.out) for run in runs]


def _say_estimate(config: Config, out: Path, features: str = "all") -> None:
    """One line on stderr of what is going to be asked, if anything is."""
    from autointerp.estimate import estimate

    with sampled_catalog(config, out) as catalog:
        found = estimate(config, catalog, out, only=ids_of(catalog, features))
    if found.rows:
        _say(f"estimate: {found.summary()}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def check_models(config: Config, out: Path) -> None:
    """Before a long harvest: the named parts exist, and where a model will be asked its key is there."""
    from autointerp.explain.stage import explainer_for
    from autointerp.score.parts import check_simulator, part_of, scorers_for
    from autointerp.score.rankable import require_rank

    require_rank(config)
    explainer, scorers = explainer_for(config, config.explain.explainer), scorers_for(config)
    check_simulator(config)
    if (out / "report.stamp").exists():
        return
    from autointerp.llm.session import check_access

    if explainer.needs_model:
        check_access(config.explaining(), out, f"explainer {config.explain.explainer}", explainer.needs)
    for name, scorer in scorers.items():
        if scorer.wants.model:
            check_access(config.simulating(), out, " ".join(part_of(name, scorer)), scorer.wants.capabilities)
        if scorer.wants.embedder:
            check_access(config.embedding(), out, " ".join(part_of(name, scorer)), ("embeddings",))


def sample_stage(config: Config, out: Path, **how: Any) -> list[dict[str, Any]]:
    """The facts of every run."""
    facts = _samples(config, out, **how)
    save_configs(config, out)
    return facts


def _samples(config: Config, out: Path, **how: Any) -> list[dict[str, Any]]:
    """The facts of every run. The settings are saved where there is something to be done."""
    from autointerp.harvest.stage import sample

    facts = sample(config, out, on_ready=lambda: save_configs(config, out), **how)
    if not config.sample.loss_recovered:
        return facts
    from autointerp.harvest.afterwards import add_loss_recovered

    return [
        known if known["conformance"].get("loss") else add_loss_recovered(run)
        for run, known in zip(runs_of(config, out), facts, strict=True)
    ]


def negatives_stage(config: Config, out: Path) -> list[dict[str, Any]]:
    """The facts of every run."""
    from autointerp.harvest.negatives import negatives

    facts = negatives(config, out)
    save_configs(config, out)
    return facts


def steer_stage(config: Config, out: Path) -> list[dict[str, Any]]:
    """The facts of every run. From then on explainers that want it are shown what was measured."""
    from autointerp.harvest.steering import steer

    config = config.model_copy(update={"steering": config.steering.model_copy(update={"enabled": True})})
    facts = steer(config, out)
    save_configs(config, out)
    return facts


def sample_shard_stage(config: Config, out: Path, index: int, count: int) -> str:
    """One share of the sampling; returns what is to be said of it."""
    from autointerp.harvest.stage import sample_shard

    return sample_shard(config, out, index, count, on_ready=lambda: save_configs(config, out))


def explain_stage(config: Config, out: Path, features: str = "all") -> dict[str, Any]:
    """Labels by the configured explainer, and by the lexicon beside it: the baseline that they must beat. The catalog shows them
    once they are scored; before the first scoring at once. `features`: only these are worked on, see `features.parse_features`.
    """
    from autointerp.explain.stage import explain, explainer_for, explainer_key
    from autointerp.llm.provider import require
    from autointerp.llm.session import provider_for, require_model

    name = config.explain.explainer
    explainer = explainer_for(config, name)
    if explainer.needs_model:  # the key is not asked for: all answers may be in the journal
        by = f"explainer {name}"
        require_model(config.explaining(), by)
        require(provider_for(config.explaining(), out), *explainer.needs, by=by)
    with sampled_catalog(config, out) as catalog:
        only = _chosen(catalog, features, config.explain.include_rare)
        key = explainer_key(config, name)
        with settings_of_stage(config, out, lambda: _count(catalog, "explanations", "explainer_key", [key])):
            say_explainer(config)
            facts = {each: explain(config, catalog, out, each, only=only) for each in dict.fromkeys([BASELINE, name])}
        _show_unscored(catalog, key, config.score.ranked().metric)
    return facts


def _chosen(catalog: Catalog, features: str, include_rare: bool) -> frozenset[int] | None:
    """Ids of the features to work on; None: all. Says on stderr which of them have too little evidence for a label."""
    known, chosen = dict(catalog.rows("SELECT feature_id, flag FROM features")), ids_of(catalog, features)
    if chosen is not None:
        _say(f"{len(chosen):,} of {len(known):,} features, by --features; the same command without it does the rest")
    flags = ("dead",) if include_rare else ("dead", "rare")
    if without := [f"{feature} ({known[feature]})" for feature in sorted(chosen or ()) if known[feature] in flags]:
        _say(f"no label for {in_a_row(without)}: they do not fire, or in fewer than 20 documents")
    return chosen


def ids_of(catalog: Catalog, features: str) -> frozenset[int] | None:
    """The features that a text names; None: all. Raises UserError, with their numbers, where some are not sampled."""
    known = [feature for (feature,) in catalog.rows("SELECT feature_id FROM features")]
    return chosen_features(features, catalog.stage_facts("sample")["d_sae"], known, str(catalog.path.parent))


def _count(catalog: Catalog, table: str, column: str, keys: Sequence[str]) -> Any:
    return catalog.value(f"SELECT count(*) FROM {table} WHERE {column} IN (SELECT unnest(?))", [list(keys)])


def _show_unscored(catalog: Catalog, key: str, metric: str) -> None:
    """Let the catalog show labels that nobody has scored, unless it shows scored ones."""
    if catalog.value("SELECT count(*) FROM ranking WHERE score_key IS NOT NULL OR explainer_key = ?", [key]):
        return
    with catalog.transaction():
        catalog.connection.execute("DELETE FROM ranking")
        catalog.connection.execute("DELETE FROM ranks")
        catalog.connection.execute("INSERT INTO ranking VALUES (?, NULL, ?)", [key, metric])


def score_stage(config: Config, out: Path, features: str = "all") -> dict[str, Any]:
    """Grades of labels, and the ranking. `features`: only these are worked on, see `features.parse_features`."""
    from autointerp.score.adaptive import require_whole
    from autointerp.score.keys import score_keys
    from autointerp.score.parts import require_negatives
    from autointerp.score.rankable import require_rank
    from autointerp.score.stage import score
    from autointerp.score.tasks import require_labels

    require_rank(config)
    with sampled_catalog(config, out) as catalog:
        only = _chosen(catalog, features, config.explain.include_rare)
        require_whole(config, only)
        require_labels(config, catalog, only)
        require_negatives(config, catalog)
        keys = list(score_keys(config).values())
        with settings_of_stage(config, out, lambda: _count(catalog, "scores", "score_key", keys)):
            say_scorers(config)
            return score(config, catalog, out, only=only)


def null_stage(config: Config, out: Path, directions: int) -> list[dict[str, Any]]:
    """Explain and score so many random directions as the features are, each run's in its folder `null`; the facts of every
    score.

    What is there is left alone. The features must be scored. From then on the catalog has their p-values.
    """
    from autointerp.harvest.null import make_directions, null_run
    from autointerp.harvest.stage import sample
    from autointerp.score.random_null import take_over
    from autointerp.score.rankable import require_rank
    from autointerp.score.stage import refresh_controls

    require_rank(config)
    facts = []
    for run in runs_of(config, out):
        with sampled_catalog(run.config, run.out) as catalog:
            if not catalog.stage_facts("score"):
                raise UserError(
                    f"{run.out}: there are no scores to compare with; run first: autointerp score --out {run.out}"
                )
        matched, null = make_directions(run, directions, out / "plan"), null_run(run)
        sample(null.config, null.out)
        if null.config.negatives.per_kind:
            negatives_stage(null.config, null.out)
        if null.config.steering.enabled:
            steer_stage(null.config, null.out)
        _say_estimate(null.config, null.out)
        explain_stage(null.config, null.out)
        score_stage(null.config, null.out)
        with sampled_catalog(run.config, run.out) as catalog:
            with Catalog.open(catalog_path(null.out)) as of_null:
                take_over(catalog, of_null, matched)
            facts.append(refresh_controls(run.config, catalog))
    return facts


def report_stage(config: Config, out: Path) -> Path:
    """Write RUN_DIR/report.html, unless it is there and shows this very state of the catalog."""
    path, stamp = out / "report.html", out / "report.stamp"
    with Catalog.open(catalog_path(out)) as catalog:
        state = hex_hash(__version__, config.report.model_dump_json(), *(str(row) for row in _state(catalog)))
        if path.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == state:
            return path
        from autointerp.report import write_report

        facts = catalog.stage_facts("sample")
        if not facts:
            raise UserError(f"{out}: the sampling is not finished; run again: autointerp sample --out {out}")
        title = config.report.title or f"{facts['sae']} on {facts['subject']}"
        write_report(catalog.connection, path, title=title, limit=config.report.limit)
    write_text(stamp, state)
    return path


def _state(catalog: Catalog) -> list[tuple[Any, ...]]:
    """A cheap summary that changes whenever what a report shows has changed, such as a single score."""
    stages = catalog.rows("SELECT stage, fingerprint, facts FROM stages ORDER BY stage")
    shown = ("explanations", "scores", "controls")
    hashes = [catalog.rows(f"SELECT count(*), bit_xor(hash(one)) FROM {table} one")[0] for table in shown]
    return [
        *stages,
        *hashes,
        *catalog.rows("SELECT * FROM ranking"),
        *catalog.rows("SELECT * FROM scorings ORDER BY ALL"),
        *catalog.rows("SELECT * FROM spend ORDER BY ALL"),
    ]
