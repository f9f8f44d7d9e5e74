"""What a stage says when it ends: the labels there are, the ranking, and why what failed has failed."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autointerp.cli.controls import print_controls
from autointerp.cli.scores import interval, print_scores
from autointerp.cli.tables import print_rows
from autointerp.cli.terminal import one_line
from autointerp.errors import UserError
from autointerp.reasons import PARTICULAR, Alike, advice, in_short

if TYPE_CHECKING:
    from autointerp.catalog.store import Catalog
    from autointerp.config import Config


def print_labels(found: Mapping[str, Mapping[str, Any]], config: "Config", out: Path) -> None:
    """Counts by explainer (of `explain_stage`), of others in the folder, and whose labels the catalog shows."""
    from autointerp.catalog.store import Catalog
    from autointerp.explain.stage import explainer_key
    from autointerp.run_folder import catalog_path

    key = explainer_key(config, config.explain.explainer)
    with Catalog.open(catalog_path(out)) as catalog:
        for name, counts in found.items():
            click.echo(f"{name}: {counts['n_ok']:,} labels, {counts['n_failed']:,} failed")
        keys = [key, explainer_key(config, "lexicon")]
        others = catalog.rows(
            "SELECT explainer, model, count(*) FILTER (status = 'ok') FROM explanations "
            "WHERE NOT list_contains(?, explainer_key) GROUP BY explainer_key, explainer, model ORDER BY ALL", [keys],
        )  # fmt: skip
        if others:
            named = (f"{_who(explainer, model)}: {count:,}" for explainer, model, count in others)
            click.echo(f"labels of before, kept: {'; '.join(named)}")
        shown = catalog.rows(
            "SELECT DISTINCT explainer, model FROM explanations JOIN ranking USING (explainer_key) WHERE explainer_key <> ?",
            [key],
        )
        _warn(catalog, "explanations", [key])
    for explainer, model in shown:
        click.echo(
            f"the catalog shows the labels of {_who(explainer, model)} until these are scored: autointerp score --out {out}"
        )


def print_ranking(out: Path) -> None:
    """The figures that a run is about, and the first labels."""
    from autointerp.catalog.store import Catalog
    from autointerp.run_folder import catalog_path

    with Catalog.open(catalog_path(out)) as catalog:
        facts = catalog.stage_facts("score")
        rows = catalog.rows(
            "SELECT rank, rank_lo, rank_hi, feature_id, title, score, lo, hi FROM catalog WHERE rank <= 10 ORDER BY rank"
        )
    if not facts.get("n_scored"):
        _warn_of_all_failures(out)
        raise UserError("no feature has a defined score: see the reasons above, or SELECT * FROM catalog")
    print_scores(out, facts)
    if rows:
        if (spent := facts.get("adaptive")) is not None:
            why = ", ".join(f"{count:,} {reason}" for reason, count in spent["stopped"].items())
            click.echo(f"adaptive: {spent['contexts']:,} contexts simulated; features done: {why or 'none yet'}")
        click.echo(f"\nthe first of {facts['n_ranked']:,}, by the lower end of {facts['metric']}; places that the intervals "
                   "leave open:")  # fmt: skip
        print_rows(["rank", "places", "score and interval", "feature", "label"], [
            [f"{rank}", f"{first}–{last}", interval(value, lo, hi), f"{feature}", one_line(title)]
            for rank, first, last, feature, title, value, lo, hi in rows
        ], words=("label",))  # fmt: skip
    for line in [*_unranked(facts), *_without_label(out)]:
        click.echo(line)
    print_controls(out)
    _warn_of_all_failures(out)


def _unranked(facts: Mapping[str, Any]) -> Iterator[str]:
    """Labels that the table leaves out, and why."""
    if without := facts["n_scored"] - facts["n_ranked"]:
        yield (f"not ranked: {_labels(without)} whose score has no interval; see "
               "SELECT feature_id, title, score, score_reason FROM catalog WHERE rank IS NULL AND score IS NOT NULL")  # fmt: skip
    for reason, count in facts["n_undefined"].items():
        yield f"without a score: {_labels(count)}: {one_line(reason)}"


def _without_label(out: Path) -> Iterator[str]:
    """How many features have no label, failed ones apart, of which there is talk elsewhere; and why."""
    from autointerp.catalog.store import Catalog
    from autointerp.run_folder import catalog_path

    with Catalog.open(catalog_path(out)) as catalog:
        counts = dict(catalog.rows(
            "SELECT CASE WHEN flag IN ('dead', 'rare') THEN flag ELSE '' END, count(*) FROM features WHERE feature_id NOT IN "
            "(SELECT feature_id FROM explanations JOIN ranking USING (explainer_key)) GROUP BY ALL"
        ))  # fmt: skip
    kinds = {"dead": "dead", "rare": "rare (active in fewer than 20 documents)", "": "not labelled yet"}
    if found := [f"{counts[kind]:,} {words}" for kind, words in kinds.items() if kind in counts]:
        yield f"features without a label: {', '.join(found)}"


def _labels(count: int) -> str:
    return f"{count:,} {'label' if count == 1 else 'labels'}"


def _who(explainer: str, model: str | None) -> str:
    return one_line(f"{explainer} ({model})" if model else explainer)


def _warn_of_all_failures(out: Path) -> None:
    from autointerp.catalog.store import Catalog
    from autointerp.run_folder import catalog_path

    with Catalog.open(catalog_path(out)) as catalog:
        explained = [key for (key,) in catalog.rows("SELECT explainer_key FROM ranking")]
        scored = [key for (key,) in catalog.rows("SELECT score_key FROM scorings")]
        _warn(catalog, "explanations", explained)
        for table in ("simulations", "judgements", "written_texts"):
            _warn(catalog, table, scored)


def _warn(catalog: "Catalog", table: str, keys: Sequence[str]) -> None:
    """A line on stderr for each kind of failure, with the commonest reasons and how many features they befell."""
    column = "explainer_key" if table == "explanations" else "score_key"
    rows = catalog.rows(
        "SELECT kind, min(reason), count(DISTINCT reason) > 1, count(DISTINCT feature_id) AS n, any_value(n_features) FROM ("
        "SELECT *, count(DISTINCT feature_id) OVER (PARTITION BY kind) AS n_features FROM ("
        "SELECT feature_id, reason, split_part(reason, ':', 1) AS kind, regexp_replace(reason, $particular, '#', 'g') AS shape "
        f"FROM {table} WHERE status = 'failed' AND {column} IN (SELECT unnest($keys)))) GROUP BY kind, shape "
        "ORDER BY 5 DESC, kind, n DESC, shape",
        {"keys": list(keys), "particular": PARTICULAR},
    )
    for kind in dict.fromkeys(row[0] for row in rows):
        sorts = [Alike(reason, various, n) for found, reason, various, n, _ in rows if found == kind]
        count = next(row[4] for row in rows if row[0] == kind)
        features = "feature" if count == 1 else "features"
        what_helps = f"; {told}" if (told := advice(kind)) else ""
        click.echo(f"{table} of {count:,} {features} failed: {one_line(in_short(sorts))}{what_helps}", err=True)
