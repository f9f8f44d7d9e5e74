"""Descriptors, co-firing features and hard negatives for a synthetic catalog, worked out with plain Python."""

import math
from collections import Counter, defaultdict
from typing import Any

import duckdb

from tests.report.synthetic import build_catalog, insert


def build_described(n_features: int = 8, n_windows: int = 120, path: str = ":memory:") -> duckdb.DuckDBPyConnection:
    """As `build_catalog`, with what a harvest of the second schema measures beyond counts."""
    connection = build_catalog(n_features, n_windows, path)
    fires = _firings(connection)
    for feature, tokens in sorted(fires.items()):
        counted = Counter(tokens.values())
        top, most = min(counted.items(), key=lambda item: (-item[1], item[0]))
        shares = [n / len(tokens) for n in counted.values()]
        connection.execute(
            """UPDATE features SET top_token = ?, top_token_share = ?, token_entropy = ?, position_dependence = 0.125,
               peak_p50 = 0.5 * max_activation, peak_p90 = 0.9 * max_activation, peak_p99 = 0.99 * max_activation
               WHERE feature_id = ?""",
            [top, most / len(tokens), -sum(p * math.log2(p) for p in shares), feature],
        )
        rows = []
        for other in sorted(set(fires) - {feature}):
            both = len(tokens.keys() & fires[other].keys())
            if both:
                jaccard = both / len(tokens.keys() | fires[other].keys())
                rows.append({"feature_id": feature, "neighbour_id": other, "n_both": both, "jaccard": jaccard})
        rows.sort(key=lambda row: (-row["jaccard"], row["neighbour_id"]))
        if rows:
            insert(connection, "cofiring", [row | {"rank": rank} for rank, row in enumerate(rows[:10], 1)])
    insert(connection, "contexts", _negatives(connection, fires))
    return connection


Firings = dict[int, dict[tuple[int, int], int]]


def _firings(connection: duckdb.DuckDBPyConnection) -> Firings:
    """Of each feature: window and position where its contexts fire, with the token there."""
    found: Firings = defaultdict(dict)
    query = "SELECT feature_id, window_id, positions, tokens FROM contexts JOIN windows USING (window_id) ORDER BY ALL"
    for feature, window, positions, tokens in connection.execute(query).fetchall():
        found[feature] |= {(window, position): tokens[position] for position in positions}
    return found


def _negatives(connection: duckdb.DuckDBPyConnection, fires: Firings) -> list[dict[str, Any]]:
    """Up to six of each kind: windows where the next features fire, and windows that hold the top token, all silent."""
    windows = connection.execute("SELECT window_id, split, tokens FROM windows ORDER BY window_id").fetchall()
    tops = dict(connection.execute("SELECT feature_id, top_token FROM features WHERE top_token IS NOT NULL").fetchall())
    rows: list[dict[str, Any]] = []
    for feature, top in sorted(tops.items()):
        silent = [window for window in windows if window[0] not in {at[0] for at in fires[feature]}]
        others = [(feature + step) % len(tops) for step in (1, 1, 1, 2, 2, 2)]
        for n, other in enumerate(others):
            places = [(w, split, p) for w, split, _ in silent for at, p in sorted(fires[other]) if at == w]
            if len(places) > n:
                rows.append(_row(feature, "near", other, *places[n], n))
        holding = [(w, split, tokens.index(top)) for w, split, tokens in silent if top in tokens]
        rows += [_row(feature, "token", top, *place, n) for n, place in enumerate(holding[:6])]
    return rows


def _row(feature: int, kind: str, cause: int, window: int, split: str, position: int, rank: int) -> dict[str, Any]:
    return {
        "feature_id": feature, "kind": kind, "split": split, "band": 0, "rank": rank, "window_id": window, "peak": 0.0,
        "positions": [], "activations": [], "duplicate": False, "cause": cause, "cause_position": position,
    }  # fmt: skip
