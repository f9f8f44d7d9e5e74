"""Two sets of scores compared feature by feature, from the catalogs alone: no model is asked.

Where both sides were scored on the same contexts (same windows, same activations) their differences are paired by contexts, from
the simulations or verdicts that the catalogs keep; it is checked first that each side's stored score comes out again.
Where the contexts differ, or the metric is no function of what is kept, the stored scores are compared, and it is said so.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from autointerp.catalog.reading import EvidenceReader
from autointerp.catalog.records import Context, FeatureEvidence
from autointerp.catalog.store import Catalog
from autointerp.errors import UserError
from autointerp.evaluate.kept import Kept, read_kept
from autointerp.evaluate.over_features import (
    Agreement,
    Paired,
    Unpaired,
    agreement,
    false_discoveries,
    paired,
    unpaired,
)
from autointerp.evaluate.sides import Side, corpus_hash, open_catalog, open_side, sampling, split_side
from autointerp.harvest.runs import differences
from autointerp.hashing import stable_hash
from autointerp.metric_names import USUAL, MetricName
from autointerp.score.paired import OF_SIMULATIONS, Difference, Sums, difference, judged_sums, simulated_sums
from autointerp.score.verdicts import OF_CELLS

SIGNIFICANT = 0.05
_CHUNK = 256
_SAME = 1e-6
_COMMON_TOP = 0.5  # of features of one dictionary surely more share a strongest window with themselves


@dataclass(frozen=True, slots=True)
class Compared:
    """One feature. `contexts`: how the two sides belong together: by their contexts, or the feature alone. `q`: see `paired`."""

    feature_id: int
    first: float
    second: float
    contexts: Literal["same", "other"]
    difference: Difference
    q: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of two sides. `features`: those with a score on both sides; `only_first`, `only_second`: with one on that side alone.

    `over` is None where no feature has a difference. Without pairing `ranks` is None, too, and `groups` says how the two groups
    of scores lie.
    """

    first: str
    second: str
    scorer: str
    metric: str
    features: Sequence[Compared]
    only_first: int
    only_second: int
    over: Paired | None
    ranks: Agreement | None
    groups: Unpaired | None
    notes: Sequence[str]


class _Stored(NamedTuple):
    value: float
    lo: float | None
    hi: float | None

    @property
    def half(self) -> float | None:
        """Half the width of the interval."""
        return None if self.lo is None or self.hi is None else (self.hi - self.lo) / 2


def compare(
    first: str,
    second: str,
    *,
    metric: MetricName | None = None,
    is_paired: bool = True,
    seed: int = 0,
) -> Comparison:
    """Compare the sides that the texts name (see `sides`) by a metric, by default the one that the first is ranked by.

    Raises UserError for sides that cannot be paired (other corpora, seeds, models or features), unless `is_paired` is False.
    """
    catalogs: dict[Path, Catalog] = {}
    try:
        scorer, name = metric or _usual(first, catalogs)
        sides = open_side(first, scorer, catalogs), open_side(second, scorer, catalogs)
        values = [_values(side, text, name) for side, text in zip(sides, (first, second), strict=True)]
        if not is_paired:
            return _groups(sides, scorer, name, values, seed)
        notes = _check(sides)
        both = sorted(values[0].keys() & values[1].keys())
        if not both:
            raise UserError(
                f"{first} and {second}: no feature has {name} on both sides; --unpaired compares the two groups"
            )
        found = _with_q(list(_each(sides, scorer, name, both, values, seed)))
    finally:
        for catalog in catalogs.values():
            catalog.close()
    a, b = (np.array([getattr(one, name) for one in found]) for name in ("first", "second"))
    gained = np.array([one.difference.value for one in found if one.difference.value is not None])
    over = paired(gained, stable_hash("compare", seed)) if len(gained) else None
    return Comparison(
        sides[0].name, sides[1].name, scorer, name, found, len(values[0]) - len(both), len(values[1]) - len(both), over,
        agreement(a, b, stable_hash("ranks", seed)), None, [*notes, *_notes(found)],
    )  # fmt: skip


def _usual(first: str, catalogs: dict[Path, Catalog]) -> MetricName:
    """What the catalog of the first side is ranked by, where the side has such scores."""
    explainer = split_side(first)[1]
    rows = open_catalog(first, catalogs).rows(
        "SELECT DISTINCT g.scorer, r.metric FROM ranking r JOIN scorings g USING (score_key) "
        "JOIN scores s ON s.scorer = g.scorer AND s.metric = r.metric AND s.control = '' "
        "LEFT JOIN explanations e USING (explanation_id) WHERE $explainer IS NULL OR e.explainer = $explainer",
        {"explainer": explainer},
    )
    return MetricName(*rows[0]) if rows else USUAL


def _values(side: Side, text: str, metric: str) -> dict[int, _Stored]:
    rows = side.catalog.rows(
        "SELECT feature_id, value, lo, hi FROM scores WHERE score_key = ? AND metric = ? AND control = '' AND value IS NOT NULL",
        [side.score_key, metric],
    )
    if not rows:
        names = side.catalog.rows("SELECT DISTINCT metric FROM scores WHERE score_key = ? ORDER BY 1", [side.score_key])
        raise UserError(f"{text}: no score {metric}; there are: {', '.join(name for (name,) in names)}")
    return {feature: _Stored(*found) for feature, *found in rows}


def _check(sides: tuple[Side, Side]) -> list[str]:
    """Raise UserError for sides whose features are not the same; what is to be known of those that may be."""
    one, other = (side.catalog for side in sides)
    if one is other:
        return []
    where, way_out = f"{one.path.parent} and {other.path.parent}", "--unpaired compares them as two groups of features"
    before, now = sampling(one), sampling(other)
    documents = [corpus_hash(catalog) for catalog in (one, other)]
    if before["seed"] != now["seed"]:
        raise UserError(
            f"{where}: the seeds differ ({before['seed']} and {now['seed']}), so the contexts do; {way_out}"
        )
    if documents[0] != documents[1]:
        found = " and ".join(f"{count:,} documents, {tokens:,} tokens" for count, tokens, _ in documents)
        raise UserError(f"{where}: the corpora differ ({found}); {way_out}")
    if before["subject"]["model"] != now["subject"]["model"] or before["sae"] != now["sae"]:
        changed = differences({k: before[k] for k in ("subject", "sae")}, {k: now[k] for k in ("subject", "sae")})
        share = _shared_tops(one, other)
        if share < _COMMON_TOP:
            raise UserError(
                f"{where}: other dictionaries ({changed}), and only {share:.0%} of the features have a strong window in common, "
                f"so features of one number are not the same; {way_out}"
            )
        return [
            f"other dictionaries ({changed}): features are paired by number; {share:.0%} have a strong window in common"
        ]
    return []


def _shared_tops(one: Catalog, other: Catalog) -> float:
    """Share of the features in both catalogs that have one of their strongest windows in common."""
    query = "SELECT feature_id, list(window_id) FROM contexts WHERE kind = 'top' GROUP BY 1"
    first, second = (dict(catalog.rows(query)) for catalog in (one, other))
    both = first.keys() & second.keys()
    return sum(not set(first[feature]).isdisjoint(second[feature]) for feature in both) / max(1, len(both))


def _each(
    sides: tuple[Side, Side],
    scorer: str,
    metric: str,
    features: Sequence[int],
    values: Sequence[Mapping[int, _Stored]],
    seed: int,
) -> Iterator[Compared]:
    can_pair = metric in OF_SIMULATIONS if scorer == "simulation" else metric in OF_CELLS
    most = max(side.catalog.value(
        "SELECT coalesce(max(n), 1) FROM (SELECT count(*) AS n FROM simulations WHERE score_key = $key AND band = 0 GROUP BY "
        "feature_id, control UNION ALL SELECT count(*) FROM judgements WHERE score_key = $key AND kind = 'silent' "
        "GROUP BY feature_id, control)", {"key": side.score_key}) for side in sides)  # fmt: skip
    readers = [EvidenceReader(side.catalog, seed=sampling(side.catalog)["seed"], silent=most) for side in sides]
    for begin in range(0, len(features), _CHUNK):
        chunk = features[begin : begin + _CHUNK]
        evidence = (
            [reader.read(chunk, ("test",), negatives=scorer != "simulation") for reader in readers] if can_pair else []
        )
        kept = [read_kept(side.catalog, side.score_key, chunk) for side in sides] if can_pair else []
        for place, feature in enumerate(chunk):
            stored = values[0][feature], values[1][feature]
            found = None
            if can_pair:
                given = [(one[place], by.get(feature, Kept())) for one, by in zip(evidence, kept, strict=True)]
                found = _by_contexts(given, scorer, metric, stored)
            if found is None:
                yield Compared(feature, stored[0].value, stored[1].value, "other", _by_values(*stored))
            else:
                yield Compared(feature, stored[0].value, stored[1].value, "same", difference(found, feature, seed=seed))


def _by_contexts(
    given: Sequence[tuple[FeatureEvidence, Kept]], scorer: str, metric: str, stored: Sequence[_Stored]
) -> Sums | str | None:
    """Both sides' sums on the contexts in common; None where there are none, or stored scores do not come out again."""
    for (evidence, kept), score in zip(given, stored, strict=True):
        again = _sums(evidence, [kept], scorer, metric)
        if again is None or isinstance(again, str) or not abs(again.value - score.value) <= _SAME:
            return None
    (evidence, first), (other, second) = given
    if evidence.max_activation != other.max_activation or evidence.stratum_windows != other.stratum_windows:
        return None
    known = {(context.window_id, context.kind): context for context in other.contexts}
    same = [one for one in evidence.contexts if _is_same(one, known.get((one.window_id, one.kind)))]
    return _sums(replace(evidence, contexts=same), [first, second], scorer, metric)


def _is_same(one: Context, other: Context | None) -> bool:
    return other is not None and one.band == other.band and np.array_equal(one.activations, other.activations)


def _sums(evidence: FeatureEvidence, kept: Sequence[Kept], scorer: str, metric: str) -> Sums | str | None:
    """Of the contexts that all of `kept` speak of. None: they speak of none."""
    if metric in OF_SIMULATIONS:
        windows = set.intersection(*({one.window_id for one in side.simulated} for side in kept))
        contexts = [one for one in evidence.contexts if one.kind in ("band", "silent") and one.window_id in windows]
        windows = {one.window_id for one in contexts}
        sides = [[one for one in side.simulated if one.window_id in windows] for side in kept]
        return simulated_sums(replace(evidence, contexts=contexts), sides, metric) if contexts else None
    bands = {(context.window_id, context.kind): context.band for context in evidence.contexts}
    wanted = {"recall": ("band",), "false_alarms": ("silent",)}.get(metric, ("band", "silent"))
    if scorer == "fuzzing":
        wanted = ("band",)  # right marks and wrong ones stand in the same windows
    verdicts = [
        {
            (one.window_id, one.kind, one.item): one
            for one in side.judged
            if one.kind in wanted and one.answer is not None
        }
        for side in kept
    ]
    common = [at for at in verdicts[0] if all(at in side for side in verdicts) and at[:2] in bands]
    return judged_sums([[side[at] for at in common] for side in verdicts], bands, OF_CELLS[metric]) if common else None


def _by_values(first: _Stored, second: _Stored) -> Difference:
    """Of stored scores, each with its own contexts: their errors add up as those of independent samples."""
    value = first.value - second.value
    if first.half is None or second.half is None:
        return Difference(value, None, None, None, 0, "no interval: a side has none")
    from scipy import stats

    half = float(np.hypot(first.half, second.half))
    p = float(2 * stats.norm.sf(1.96 * abs(value) / half)) if half > 0 else None
    return Difference(value, value - half, value + half, p, 0, "on other contexts: not paired")


def _with_q(found: Sequence[Compared]) -> list[Compared]:
    tested = [one.feature_id for one in found if one.difference.p is not None]
    p = np.array([one.difference.p for one in found if one.difference.p is not None])
    q = dict(zip(tested, map(float, false_discoveries(p)), strict=True))
    return [replace(one, q=q.get(one.feature_id)) for one in found]


def _groups(
    sides: tuple[Side, Side], scorer: str, metric: str, values: Sequence[Mapping[int, _Stored]], seed: int
) -> Comparison:
    first, second = (np.array([one.value for _, one in sorted(side.items())]) for side in values)
    groups = unpaired(first, second, stable_hash("compare", seed))
    note = "not paired: the two groups are taken as independent samples of features"
    return Comparison(
        sides[0].name, sides[1].name, scorer, metric, [], len(first), len(second), None, None, groups, [note]
    )


def _notes(found: Sequence[Compared]) -> list[str]:
    notes = []
    if other := sum(one.contexts == "other" for one in found):
        notes.append(
            f"{other:,} of {len(found):,} features are compared by their stored scores, each on contexts of its own: not paired "
            "by contexts, so their intervals are wider than they need be"
        )
    if without := sum(one.difference.p is None for one in found):
        notes.append(f"{without:,} features have no interval, and no part in the tests by feature")
    return notes
