"""The queries behind a page about a whole catalog: the ranked rows, the scores at a glance, what failed, what it took.

Pure functions of a connection (a cursor of it is used for each query and closed). The static report and the local
browser read the catalog through these, `run_facts` and `feature_pages`; nothing here knows of HTML. Every query orders its
rows completely, so the same catalog gives the same pages.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import duckdb

BIN_WIDTH = 0.05
"""Width of the bins of `score_distribution`, in units of the score."""


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """A row of the view `catalog`. `rank` 1 has the highest lower bound; NULL (None) where there is no score.

    `rank_lo`–`rank_hi` are the places that the score's interval allows. `lexical_gain` is the score minus that of the
    token lexicon. `density` is the share of tokens on which the feature fires.
    """

    rank: int | None
    feature_id: int
    title: str | None
    description: str | None
    kind: str | None
    explainer: str | None
    model: str | None
    explanation_id: str | None
    explanation_status: str | None
    explanation_reason: str | None
    metric: str | None
    score: float | None
    lo: float | None
    hi: float | None
    rank_lo: int | None
    rank_hi: int | None
    n_ok: int | None
    n_failed: int | None
    score_status: str | None
    score_reason: str | None
    shuffled: float | None
    balanced_accuracy: float | None
    balanced_accuracy_lo: float | None
    balanced_accuracy_hi: float | None
    lexical_gain: float | None
    lexical_gain_lo: float | None
    lexical_gain_hi: float | None
    density: float
    n_tokens: int
    n_windows: int
    n_documents: int
    max_activation: float
    mean_activation: float | None
    flag: str | None


@dataclass(frozen=True, slots=True)
class SpendRow:
    """What one purpose took of one model. `failed` requests had no usable answer; cached tokens are input too."""

    purpose: str | None
    model: str | None
    requests: int | None
    failed: int | None
    input_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None


@dataclass(frozen=True, slots=True)
class ScoreBin:
    """How many features score within [`start`, `start` + BIN_WIDTH): with their own labels, and with shuffled ones."""

    start: float
    real: int
    shuffled: int


@dataclass(frozen=True, slots=True)
class FailureRow:
    """`n` rows of one table that hold no result, by status and by the kind of reason (the part before the colon)."""

    what: str
    status: str
    reason: str
    n: int


@dataclass(frozen=True, slots=True)
class Counts:
    """The catalog in numbers. Medians are over scored features and None where there is none."""

    n_features: int
    n_labelled: int
    n_scored: int
    n_undefined: int
    n_score_failed: int
    n_dead: int
    n_rare: int
    n_dense: int
    median: float | None
    shuffled_median: float | None
    n_shuffled: int
    median_contexts: float | None
    median_rank_interval: float | None
    n_lexical: int
    n_above_lexicon: int


Row = TypeVar("Row")


def select(
    connection: "duckdb.DuckDBPyConnection", record: type[Row], source: str, parameters: Sequence[object] = ()
) -> list[Row]:
    """One `record` a row. Its field names are the columns selected; `source` is the rest, from the word FROM on."""
    columns = ", ".join(f'"{item.name}"' for item in fields(record))  # type: ignore[arg-type]
    with connection.cursor() as cursor:
        rows = cursor.execute(f"SELECT {columns} {source}", list(parameters)).fetchall()
    return [record(*row) for row in rows]


def feature_rows(connection: "duckdb.DuckDBPyConnection", limit: int | None = None) -> list[FeatureRow]:
    """The first `limit` features of the catalog, best first; those without a score come last, by number."""
    order = f"FROM {_with_detection(connection)} ORDER BY rank NULLS LAST, feature_id"
    if limit is None:
        return select(connection, FeatureRow, order)
    return select(connection, FeatureRow, f"{order} LIMIT ?", [limit])


def _with_detection(connection: "duckdb.DuckDBPyConnection") -> str:
    """The view `catalog`; of an older one, which is opened for reading only, with the columns of detection that it lacks."""
    if has_column(connection, "catalog", "balanced_accuracy"):
        return "catalog"
    missing = (f"NULL::DOUBLE AS balanced_accuracy{end}" for end in ("", "_lo", "_hi"))
    return f"(SELECT *, {', '.join(missing)} FROM catalog)"


def has_column(connection: "duckdb.DuckDBPyConnection", table: str, column: str) -> bool:
    """Whether a table or view has the column: a catalog of an earlier version, opened for reading only, may not."""
    query = "SELECT 1 FROM duckdb_columns() WHERE table_name = ? AND column_name = ?"
    with connection.cursor() as cursor:
        return bool(cursor.execute(query, [table, column]).fetchall())


def spend_rows(connection: "duckdb.DuckDBPyConnection") -> list[SpendRow]:
    """What was asked of models and what it took, by purpose and model. Empty where no model was asked."""
    return select(connection, SpendRow, "FROM spend ORDER BY purpose, model")


def counts(connection: "duckdb.DuckDBPyConnection") -> Counts:
    """Count the catalog's features by what is known of them."""
    source = """FROM (SELECT
        count(*) AS n_features,
        count(*) FILTER (explanation_status = 'ok') AS n_labelled,
        count(score) AS n_scored,
        count(*) FILTER (score_status = 'undefined') AS n_undefined,
        count(*) FILTER (score_status = 'failed') AS n_score_failed,
        count(*) FILTER (flag = 'dead') AS n_dead,
        count(*) FILTER (flag = 'rare') AS n_rare,
        count(*) FILTER (flag = 'dense') AS n_dense,
        median(score) AS median,
        median(shuffled) AS shuffled_median,
        count(shuffled) AS n_shuffled,
        median(n_ok) FILTER (score IS NOT NULL) AS median_contexts,
        median(rank_hi - rank_lo + 1) AS median_rank_interval,
        count(lexical_gain) AS n_lexical,
        count(*) FILTER (lexical_gain_lo > 0) AS n_above_lexicon
        FROM catalog)"""
    return select(connection, Counts, source)[0]


def score_distribution(connection: "duckdb.DuckDBPyConnection") -> list[ScoreBin]:
    """A histogram of the catalog's scores and of the shuffled control's; empty bins are left out.

    A score of exactly 1 is counted in the bin below it, so that no bin stands outside the range of a correlation.
    """
    source = """FROM (
        SELECT bin * ? AS start, count(*) FILTER (control = '') AS real, count(*) FILTER (control <> '') AS shuffled
        FROM (
            SELECT CAST(floor(CASE WHEN value = 1 THEN value - ? / 2 ELSE value END / ? + 1e-9) AS INTEGER) AS bin,
                   control
            FROM (SELECT score AS value, '' AS control FROM catalog UNION ALL SELECT shuffled, 'shuffled' FROM catalog)
            WHERE isfinite(value)
        ) GROUP BY bin
    ) ORDER BY start"""
    return select(connection, ScoreBin, source, [BIN_WIDTH, BIN_WIDTH, BIN_WIDTH])


def table_names(connection: "duckdb.DuckDBPyConnection") -> set[str]:
    """The tables there are: a catalog of an earlier version that is opened for reading only has not all of them."""
    with connection.cursor() as cursor:
        return {name for (name,) in cursor.execute("SELECT table_name FROM duckdb_tables()").fetchall()}


def current_scores(connection: "duckdb.DuckDBPyConnection") -> str:
    """A subquery for the score keys that the catalog shows."""
    return f"(SELECT score_key FROM {'scorings' if 'scorings' in table_names(connection) else 'ranking'})"


def failures(connection: "duckdb.DuckDBPyConnection") -> list[FailureRow]:
    """What the catalog shows that ended without a result, most frequent first. None of it counts as a zero.

    Labels of the explainer that is shown, their scores by the metric that ranks, and the simulations and judgements behind
    these (those of the control too).
    """
    tables, shown = table_names(connection), current_scores(connection)
    judged = "".join(
        f"UNION ALL SELECT '{what}', status, reason FROM {table} WHERE score_key IN {shown} "
        for what, table in (("judgement", "judgements"), ("written text", "written_texts"))
        if table in tables
    )
    source = f"""FROM (
        SELECT what, status, coalesce(nullif(trim(split_part(reason, ':', 1)), ''), 'no reason recorded') AS reason,
               count(*) AS n
        FROM (SELECT 'explanation' AS what, explanation_status AS status, explanation_reason AS reason FROM catalog
              UNION ALL SELECT 'score', score_status, score_reason FROM catalog
              UNION ALL SELECT 'simulation', status, reason FROM simulations
                        WHERE score_key IN {shown}
              {judged})
        WHERE status <> 'ok' GROUP BY ALL
    ) ORDER BY n DESC, what, status, reason"""
    return select(connection, FailureRow, source)
