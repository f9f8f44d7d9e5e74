"""The queries behind the pages of single features: contexts, simulations, histogram, output tokens, neighbours, scores.

Features are read many at a time, because a query costs milliseconds and a report has thousands of pages. Like `pages`:
pure functions of a connection, rows ordered completely, nothing of HTML.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from autointerp.catalog.controls import switched_off
from autointerp.catalog.descriptors import cofiring, descriptors, hard_negatives, measured
from autointerp.catalog.label_details import label_details
from autointerp.catalog.page_rows import (
    ContextQuota,
    ContextRow,
    FeaturePage,
    HistogramBin,
    LabelRow,
    Neighbour,
    OutputToken,
    ScoreRow,
    Token,
    Window,
)
from autointerp.catalog.pages import FeatureRow, current_scores, select, table_names
from autointerp.catalog.steered import steered_tokens

if TYPE_CHECKING:
    import duckdb


# $1 features, $2 their explanations in the catalog. The simulations are those behind the catalog's score. A protocol that cuts
# windows says nothing of the tokens before its cut; and which of its windows are silent its rows do not say.
_SIMULATED = """
WITH wanted AS (
    SELECT unnest($1::UINTEGER[]) AS feature_id, unnest($2::VARCHAR[]) AS explanation_id
), simulated AS (
    SELECT DISTINCT ON (feature_id, window_id) feature_id, window_id, band, status, reason, {start} IS NOT NULL AS is_cut,
        CASE WHEN {start} > 0 AND expected IS NOT NULL
             THEN list_concat(list_resize([]::FLOAT[], {start}, 'nan'::FLOAT), expected) ELSE expected END AS expected
    FROM simulations JOIN wanted USING (feature_id, explanation_id)
    WHERE control = '' AND score_key IN (SELECT score_key FROM ranking)
    ORDER BY feature_id, window_id, status DESC, model
), evidence AS (
    SELECT DISTINCT feature_id, window_id FROM wanted JOIN explanation_evidence USING (explanation_id)
)
"""
# Bands prefer windows that were simulated: the test split's draw by hash, so still a uniform one. Random contexts have
# no preference, because what was simulated is not a uniform draw over bands.
_DRAWN = f"""FROM (
    {_SIMULATED}
    SELECT c.feature_id, c.kind, c.split, c.band, c.rank, c.window_id, c.peak, c.positions, c.activations,
        c.duplicate, e.window_id IS NOT NULL AS evidence,
        s.status AS simulation, s.reason AS simulation_reason, s.expected,
        row_number() OVER (
            PARTITION BY c.feature_id, c.kind, CASE WHEN c.kind = 'band' THEN c.band END
            ORDER BY CASE WHEN c.kind = 'top' THEN -c.peak END,
                     CASE WHEN c.kind = 'band' THEN s.status IS DISTINCT FROM 'ok' END,
                     CASE WHEN c.kind = 'band' THEN c.duplicate END, c.rank, c.split, c.window_id
        ) AS place
    FROM contexts c
    LEFT JOIN simulated s USING (feature_id, window_id)
    LEFT JOIN evidence e USING (feature_id, window_id)
    WHERE c.feature_id IN (SELECT feature_id FROM wanted)
    QUALIFY place <= CASE c.kind WHEN 'top' THEN $3 WHEN 'band' THEN $4 WHEN 'random' THEN $5 ELSE 0 END
) ORDER BY feature_id, kind DESC, CASE WHEN kind = 'band' THEN -band::INTEGER END, place"""
_SILENT = f"""FROM (
    {_SIMULATED}
    SELECT feature_id, 'silent' AS kind, split, 0 AS band, window_id, 0.0 AS peak,
        []::USMALLINT[] AS positions, []::FLOAT[] AS activations, false AS duplicate, false AS evidence,
        status AS simulation, reason AS simulation_reason, expected,
        row_number() OVER (PARTITION BY feature_id ORDER BY list_max(expected) DESC, window_id) AS rank
    FROM simulated JOIN windows USING (window_id) WHERE band = 0 AND status = 'ok' AND NOT is_cut
    QUALIFY rank <= $3
) ORDER BY feature_id, rank"""

_OF_FEATURES = "feature_id IN (SELECT unnest(?::UINTEGER[]))"
_HISTOGRAM = f"""FROM (
    SELECT feature_id, bin, band, sum(n_windows)::BIGINT AS n_windows FROM histograms WHERE {_OF_FEATURES} GROUP BY ALL
) ORDER BY feature_id, bin, band"""
_TOKENS = f"FROM output_tokens WHERE {_OF_FEATURES} ORDER BY feature_id, side, rank"
_NEIGHBOURS = f"FROM neighbours WHERE {_OF_FEATURES} ORDER BY feature_id, rank"
_LABELS = f"FROM explanations WHERE {_OF_FEATURES} ORDER BY feature_id, explanation_id"
# Of the catalog's labels, of the features themselves and of controls only what belongs to the catalog's scores; of other labels
# what was scored last.
_SCORES = """FROM scores WHERE feature_id IN (SELECT unnest(?::UINTEGER[])) AND (
        (score_key IN {shown} AND control NOT IN (SELECT unnest(?::VARCHAR[])))
        OR (control = '' AND explanation_id <> '' AND explanation_id NOT IN (SELECT unnest(?::VARCHAR[])))
    ) QUALIFY row_number() OVER (
        PARTITION BY feature_id, control, explanation_id, scorer, simulator, metric ORDER BY rowid DESC
    ) = 1 ORDER BY feature_id, control, explanation_id, score_key, scorer, simulator, metric"""


def feature_pages(
    connection: "duckdb.DuckDBPyConnection", rows: Sequence[FeatureRow], quota: ContextQuota | None = None
) -> list[FeaturePage]:
    """The pages of the given rows, in their order. Ask for some hundred at a time, by neighbouring feature numbers.

    Top contexts are the strongest of all splits. Band and random ones are draws. Of the silent windows that were
    simulated, those with the largest prediction are shown: where the label fires and the feature does not.
    """
    quota = quota or ContextQuota()
    ids = [row.feature_id for row in rows]
    shown = [row.explanation_id for row in rows if row.explanation_id is not None]
    keys = [ids, [row.explanation_id for row in rows]]
    start = "start" if "scorings" in table_names(connection) else "NULL::USMALLINT"
    drawn = _grouped(
        select(connection, ContextRow, _DRAWN.format(start=start), [*keys, quota.top, quota.band, quota.random])
    )
    silent = _grouped(select(connection, ContextRow, _SILENT.format(start=start), [*keys, quota.silent]))
    histogram = _grouped(select(connection, HistogramBin, _HISTOGRAM, [ids]))
    tokens = _grouped(select(connection, OutputToken, _TOKENS, [ids]))
    steered = _grouped(steered_tokens(connection, ids))
    near = _grouped(select(connection, Neighbour, _NEIGHBOURS, [ids]))
    labels = _grouped(select(connection, LabelRow, _LABELS, [ids]))
    off = sorted(switched_off(connection))
    scores = _grouped(select(connection, ScoreRow, _SCORES.format(shown=current_scores(connection)), [ids, off, shown]))
    known = measured(connection)
    described = {row.feature_id: row for row in descriptors(connection, ids)} if known else {}
    together = _grouped(cofiring(connection, ids) if known else [])
    details = {row.feature_id: row for row in label_details(connection, shown)}
    negatives = _grouped(hard_negatives(connection, ids, quota.negatives) if known else [])
    return [
        FeaturePage(
            i,
            drawn[i] + silent[i],
            histogram[i],
            tokens[i],
            steered[i],
            near[i],
            labels[i],
            scores[i],
            described.get(i),
            together[i],
            negatives[i],
            details.get(i),
        )
        for i in ids
    ]


def windows(connection: "duckdb.DuckDBPyConnection", window_ids: Iterable[int]) -> dict[int, Window]:
    """The windows with the given ids, in one query."""
    source = """FROM (
        SELECT window_id, coalesce(doc_id, 'document ' || w.doc) AS doc_id, start, tokens
        FROM windows w LEFT JOIN documents d ON d.doc = w.doc
        WHERE window_id IN (SELECT unnest(?::UBIGINT[]))
    ) ORDER BY window_id"""
    return {row.window_id: row for row in select(connection, Window, source, [sorted(set(window_ids))])}


def vocabulary(connection: "duckdb.DuckDBPyConnection", tokens: Iterable[int]) -> dict[int, Token]:
    """The given tokens as far as the catalog knows them."""
    source = "FROM vocabulary WHERE token IN (SELECT unnest(?::UINTEGER[])) ORDER BY token"
    return {row.token: row for row in select(connection, Token, source, [sorted(set(tokens))])}


class _OfFeature(Protocol):
    @property
    def feature_id(self) -> int: ...


Item = TypeVar("Item", bound=_OfFeature)


def _grouped(items: Iterable[Item]) -> defaultdict[int, list[Item]]:
    groups: defaultdict[int, list[Item]] = defaultdict(list)
    for item in items:
        groups[item.feature_id].append(item)
    return groups
