"""Do two simulators, or two judges, order the features alike? The same labels' scores by one and by the other, in one catalog.

Scores by another simulator or model stay in the catalog when a run is scored again, so to swap is to score twice:
`autointerp score --out RUN_DIR --set score.model=OTHER`, then once more with the first. Labels of one family of models that
only a simulator of the same family understands show as a low rank correlation.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autointerp.catalog.store import Catalog
from autointerp.score.writing import Scoring

_FEWEST = 4  # of which a rank correlation has an interval


@dataclass(frozen=True, slots=True)
class Agreement:
    """Spearman's rank correlation over n features with its 95 % interval; `who` made the other scores."""

    who: str
    n: int
    rho: float | None
    lo: float | None
    hi: float | None


def swaps(catalog: Catalog, scoring: Scoring, metric: str, own: Mapping[int, float | None]) -> Iterator[Agreement]:
    """The agreement with every other simulator or model that has graded these labels by the same metric; of one that has done so
    with several settings, by what it graded last."""
    tables = ("simulations",) if scoring.simulator else ("judgements", "written_texts")
    models = ", ".join(f"(SELECT max(model) FROM {table} a WHERE a.score_key = s.score_key)" for table in tables)
    others = catalog.rows(
        f"SELECT s.simulator, coalesce({models}, NULL) AS model, s.score_key FROM scores s "
        "JOIN explanations e USING (explanation_id) JOIN ranking r ON r.explainer_key = e.explainer_key "
        "WHERE s.scorer = ? AND s.metric = ? AND s.control = '' AND s.score_key <> ? "
        "GROUP BY s.score_key, s.simulator ORDER BY max(s.rowid)",
        [scoring.name, metric, scoring.key],
    )  # fmt: skip
    newest = {(simulator, model): key for simulator, model, key in others}
    for (simulator, model), key in sorted(newest.items(), key=str):
        if (simulator, model) == (scoring.simulator, scoring.model):
            continue  # the same with other settings
        rows = catalog.rows(
            "SELECT feature_id, value FROM scores WHERE score_key = ? AND metric = ? AND control = '' AND value IS NOT NULL",
            [key, metric],
        )
        other = dict(rows)
        both = [feature for feature, value in own.items() if value is not None and feature in other]
        mine = np.array([own[feature] for feature in both], dtype=np.float64)
        yield rank_correlation(
            mine, np.array([other[feature] for feature in both]), " ".join(filter(None, (simulator, model)))
        )


def rank_correlation(x: NDArray[np.float64], y: NDArray[np.float64], who: str = "") -> Agreement:
    """Spearman's ρ of two sides [n], ties sharing their mean rank. The interval is Fisher's, with the variance (1 + ρ²/2) /
    (n − 3) (Bonett and Wright 2000, "Sample size requirements for estimating Pearson, Kendall and Spearman correlations");
    at ±1 it would have no width, even of four features, and there is none."""
    n = len(x)
    if n < _FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Agreement(who, n, None, None, None)
    rho = float(np.clip(np.corrcoef(_ranks(x), _ranks(y))[0, 1], -1, 1))
    if abs(rho) == 1:
        return Agreement(who, n, rho, None, None)
    half = 1.959964 * math.sqrt((1 + rho**2 / 2) / (n - 3))
    return Agreement(who, n, rho, math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, index, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    found: NDArray[np.float64] = ((last - count + last - 1) / 2)[index]
    return found
