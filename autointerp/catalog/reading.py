"""From rows to records: the evidence of features, for explainers and scorers. Reads, never writes."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from autointerp.catalog.records import SPLITS, Context, FeatureEvidence, Label, OutputLabel, Split
from autointerp.catalog.steered import read_steered
from autointerp.catalog.store import Catalog
from autointerp.hashing import sample_key, stable_hash
from autointerp.vocabulary import Vocabulary


def read_vocabulary(catalog: Catalog) -> Vocabulary:
    table = catalog.arrow("SELECT text, bytes FROM vocabulary ORDER BY token")
    return Vocabulary(table["text"].to_pylist(), table["bytes"].to_pylist())


class EvidenceReader:
    """Reads the evidence of any features of one catalog. The shared pool of random windows is read once.

    `silent`: silent contexts per split. They are the pool's windows in which the feature does not fire, in the order of a
    hash of (seed, feature, window): a uniform draw from the feature's silent windows, other for every feature.
    Contexts of the splits rerank and test that near-duplicate the explain split's are left out.
    """

    def __init__(self, catalog: Catalog, *, seed: int, silent: int) -> None:
        self.catalog, self.seed, self.silent = catalog, seed, silent
        pool = catalog.arrow("SELECT window_id, split, tokens FROM windows WHERE in_pool ORDER BY window_id")
        self._pool_ids: NDArray[np.uint64] = pool["window_id"].to_numpy()
        self._pool_splits: list[Split] = pool["split"].to_pylist()
        self._pool_tokens = _arrays(pool["tokens"], np.int32)

    def read(
        self,
        feature_ids: Sequence[int],
        splits: Sequence[Split] = SPLITS,
        *,
        negatives: bool = False,
        steered: bool = False,
        random: int = 0,
    ) -> list[FeatureEvidence]:
        """Evidence of the features, in their order, with contexts of the given splits only.

        `negatives`: with the hard negatives, as contexts of the kinds near and token; ask for them with `of(split, kinds)`.
        `steered`: with what steering changed, of the features that were steered. `random`: with so many windows of each split,
        drawn uniformly from the pool whether the feature fires in them or not, as contexts of the kind random.
        """
        ids = [int(feature) for feature in feature_ids]
        contexts = self._contexts(ids, splits, ("top", "band", *(("near", "token") if negatives else ())))
        firing = self._firing_pool_windows(ids)
        drawn = self._random(ids, splits, random) if random else defaultdict(list)
        strata = self._strata(ids)
        changed = read_steered(self.catalog, ids) if steered else {}
        promoted, suppressed = self._output_tokens(ids, "promoted"), self._output_tokens(ids, "suppressed")
        found = {row[0]: row for row in self._rows("SELECT feature_id, max_activation, density FROM features", ids)}
        return [
            FeatureEvidence(
                feature_id=feature,
                max_activation=found[feature][1],
                density=found[feature][2],
                contexts=contexts[feature] + self._silent(feature, firing[feature], splits) + drawn[feature],
                stratum_windows=strata[feature],
                promoted=[token for token, _ in promoted[feature]],
                suppressed=[token for token, _ in suppressed[feature]],
                promoted_logits=[logit for _, logit in promoted[feature]],
                suppressed_logits=[logit for _, logit in suppressed[feature]],
                steered=changed.get(feature),
            )
            for feature in ids
        ]

    def _rows(self, select: str, ids: list[int], extra: str = "") -> list[tuple[Any, ...]]:
        return self.catalog.rows(f"{select} WHERE feature_id IN (SELECT unnest($ids)) {extra}", {"ids": ids})

    def _contexts(self, ids: list[int], splits: Sequence[Split], kinds: Sequence[str]) -> dict[int, list[Context]]:
        table = self.catalog.arrow(
            "SELECT c.feature_id, c.kind, c.split, c.band, c.window_id, w.tokens, c.positions, c.activations, "
            "c.cause, c.cause_position "
            "FROM contexts c JOIN windows w USING (window_id) WHERE c.feature_id IN (SELECT unnest($ids)) "
            "AND c.split IN (SELECT unnest($splits)) AND c.kind IN (SELECT unnest($kinds)) AND NOT c.duplicate "
            "ORDER BY c.feature_id, c.kind DESC, c.split, CASE WHEN c.kind = 'band' THEN c.band END, c.rank",
            {"ids": ids, "splits": list(splits), "kinds": list(kinds)},
        )
        names = ("feature_id", "kind", "split", "band", "window_id", "cause", "cause_position")
        plain = zip(*(table[name].to_pylist() for name in names), strict=True)
        ragged = zip(
            _arrays(table["tokens"], np.int32), _arrays(table["positions"], np.int64),
            _arrays(table["activations"], np.float32), strict=True,
        )  # fmt: skip
        contexts: dict[int, list[Context]] = defaultdict(list)
        for (feature, kind, split, band, window, *cause), (tokens, positions, values) in zip(
            plain, ragged, strict=True
        ):
            dense = np.zeros(len(tokens), np.float32)
            dense[positions] = values
            contexts[feature].append(Context(window, split, kind, band, tokens, dense, *cause))
        return contexts

    def _firing_pool_windows(self, ids: list[int]) -> dict[int, NDArray[np.uint64]]:
        rows = self._rows("SELECT feature_id, window_id FROM contexts", ids, "AND kind = 'random'")
        found: dict[int, list[int]] = defaultdict(list)
        for feature, window in rows:
            found[feature].append(window)
        return defaultdict(lambda: np.zeros(0, np.uint64), {f: np.array(w, np.uint64) for f, w in found.items()})

    def _silent(self, feature: int, firing: NDArray[np.uint64], splits: Sequence[Split]) -> list[Context]:
        silent = np.flatnonzero(~np.isin(self._pool_ids, firing))
        keys = sample_key(self.seed, stable_hash("silent", feature), self._pool_ids[silent])
        order = silent[np.argsort(keys, kind="stable")]
        contexts = []
        for split in splits:
            chosen = [index for index in order if self._pool_splits[index] == split][: self.silent]
            for index in chosen:
                tokens = self._pool_tokens[index]
                zeros = np.zeros(len(tokens), np.float32)
                contexts.append(Context(int(self._pool_ids[index]), split, "silent", 0, tokens, zeros))
        return contexts

    def _random(self, ids: list[int], splits: Sequence[Split], count: int) -> dict[int, list[Context]]:
        """Of each feature `count` windows of the pool, in the order of a hash, without near-duplicates of the explain split's."""
        firing = self._firing_pool(ids, splits)
        contexts: dict[int, list[Context]] = defaultdict(list)
        for feature in ids:
            order = np.argsort(sample_key(self.seed, stable_hash("random", feature), self._pool_ids), kind="stable")
            for split in splits:
                of_split = (index for index in order if self._pool_splits[index] == split)
                usable = (
                    index for index in of_split if firing[feature].get(int(self._pool_ids[index]), True) is not None
                )
                for index in itertools.islice(usable, count):
                    window, tokens = int(self._pool_ids[index]), self._pool_tokens[index]
                    fires = firing[feature].get(window)
                    silent = Context(window, split, "random", 0, tokens, np.zeros(len(tokens), np.float32))
                    contexts[feature].append(fires or silent)
        return contexts

    def _firing_pool(self, ids: list[int], splits: Sequence[Split]) -> dict[int, dict[int, Context | None]]:
        """Of each feature the pool's windows in which it fires; None for near-duplicates."""
        duplicates = self._rows("SELECT feature_id, window_id FROM contexts", ids, "AND kind = 'random' AND duplicate")
        firing: dict[int, dict[int, Context | None]] = defaultdict(dict)
        for feature, window in duplicates:
            firing[feature][window] = None
        for feature, some in self._contexts(ids, splits, ("random",)).items():
            firing[feature] |= {context.window_id: context for context in some}
        return firing

    def _strata(self, ids: list[int]) -> dict[int, dict[tuple[str, int], int]]:
        strata: dict[int, dict[tuple[str, int], int]] = {feature: {} for feature in ids}
        for feature, split, band, count in self._rows("SELECT feature_id, split, band, n_windows FROM strata", ids):
            strata[feature][split, band] = count
        return strata

    def _output_tokens(self, ids: list[int], side: str) -> dict[int, list[tuple[int, float]]]:
        """Of each feature the tokens of one side with their logits, strongest first."""
        tokens: dict[int, list[tuple[int, float]]] = defaultdict(list)
        order = f"AND side = '{side}' ORDER BY feature_id, rank"
        for feature, token, logit in self._rows("SELECT feature_id, token, logit FROM output_tokens", ids, order):
            tokens[feature].append((token, logit))
        return tokens


def read_labels(
    catalog: Catalog, explainer_key: str, feature_ids: Sequence[int] | None = None
) -> dict[int, tuple[str, Label]]:
    """feature → (explanation id, label) of the successful explanations of one explainer."""
    import json

    query = (
        "SELECT feature_id, explanation_id, title, description, kind, rule, scope, confidence, languages, domains, safety, "
        "parts, output_title, output_description, sides_agree FROM explanations WHERE status = 'ok' AND explainer_key = $key"
    )
    parameters: dict[str, Any] = {"key": explainer_key}
    if feature_ids is not None:
        query += " AND feature_id IN (SELECT unnest($ids))"
        parameters["ids"] = [int(feature) for feature in feature_ids]
    found = {}
    for (
        feature,
        explanation,
        title,
        description,
        kind,
        rule,
        scope,
        confidence,
        *lists,
        about,
        says,
        agree,
    ) in catalog.rows(query + " ORDER BY feature_id", parameters):
        output = OutputLabel(about, says, agree) if about else None
        languages, domains, safety, parts = (tuple(values or ()) for values in lists)
        patterns = None if rule is None else json.loads(rule)
        said = (scope, confidence, domains, safety, parts, output)
        label = Label(title, description, kind, patterns, (), *said, languages=languages)
        found[feature] = (explanation, label)
    return found


def _arrays(column: pa.ChunkedArray, dtype: Any) -> list[NDArray[Any]]:
    """A list column as one numpy array a row."""
    arrays: list[NDArray[Any]] = []
    for chunk in column.chunks:
        offsets = chunk.offsets.to_numpy()
        values = chunk.values.to_numpy(zero_copy_only=False).astype(dtype)
        arrays.extend(values[begin:end] for begin, end in itertools.pairwise(offsets))
    return arrays
