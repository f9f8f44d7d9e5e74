"""What is in a scorer's key, and what is not."""

from collections.abc import Sequence

import numpy as np
import pytest

from autointerp.catalog.records import FeatureEvidence
from autointerp.hashing import hex_hash
from autointerp.score import Judged, ScoreRow, Simulated, keys
from autointerp.score.detection import score_detection
from autointerp.score.evidence_controls import of_simulation
from autointerp.score.keys import STATISTICS_VERSION, score_keys, scorings
from autointerp.score.parts import scorers_for, silent_contexts
from autointerp.score.pool import context_weights
from autointerp.score.responsiveness import score_responsiveness
from autointerp.score.simulation import difference_rows, score_simulation
from autointerp.score.tasks import for_scorer
from tests.score.builders import context, evidence
from tests.score.test_parts import config

ASKING = {"explain__explainer": "token_activation", "explain__model": "m"}
FREE = {**ASKING, "score__simulator": "lexicon"}


def test_a_further_scorer_does_not_touch_what_the_others_found() -> None:
    """Neither one that asks a model those that are free, nor the other way round."""
    alone = score_keys(config(**FREE, score__scorers=("simulation",)))
    for more in (("detection",), ("detection", "embedding", "generation"), ("bills23_random",)):
        both = score_keys(config(**FREE, score__scorers=("simulation", *more), score__embedder="e"))
        assert both["simulation"] == alone["simulation"]
    first = score_keys(config(**ASKING, score__scorers=("simulation", "detection")))
    more = score_keys(config(**ASKING, score__scorers=("simulation", "detection", "specificity")))
    assert {name: more[name] for name in first} == first and len(set(more.values())) == 3


def test_each_scorer_has_its_own_number_of_silent_contexts() -> None:
    given = config(**FREE, score__scorers=("simulation", "detection"))
    parts = scorers_for(given)
    counts = {name: silent_contexts(given, scorer) for name, scorer in parts.items()}
    assert counts["simulation"] == 100 and 50 <= counts["detection"] < 100 and silent_contexts(given) == 100
    asking = config(**ASKING)
    assert silent_contexts(asking) == silent_contexts(asking, scorers_for(asking)["simulation"]) == counts["detection"]
    fixed = config(**FREE, score__scorers=("simulation", "detection"), score__silent=7)
    assert {silent_contexts(fixed, scorer) for scorer in scorers_for(fixed).values()} == {7}


def test_a_scorer_sees_the_first_silent_contexts_of_each_split_and_weighs_those_that_it_sees() -> None:
    given = config(**FREE, score__scorers=("simulation", "detection"))
    parts = scorers_for(given)
    count = silent_contexts(given, parts["detection"])
    silent = [
        context(1000 * (split == "test") + n, 0, [0.0], split=split) for split in ("test", "rerank") for n in range(100)
    ]
    whole = evidence([context(5000, 1, [3.0]), *silent, context(6000, 0, [0.0], kind="near")], {0: 4000, 1: 10})
    seen = for_scorer(given, parts["detection"], whole)
    assert [one.window_id for one in seen.of("test", ("silent",))] == [1000 + n for n in range(count)]
    assert [one.window_id for one in seen.of("rerank", ("silent",))] == list(range(count))
    assert len(seen.of("test", ("band", "near"))) == 2 and seen.stratum_windows == whole.stratum_windows
    strata = np.array([one.band for one in seen.of("test", ("band", "silent"))])
    weights = context_weights(seen, strata, "corpus").values
    assert weights is not None and weights[strata == 0].sum() == pytest.approx(4000)  # whatever their number
    assert for_scorer(given, parts["simulation"], whole).contexts == whole.contexts


def test_the_lexicons_labels_are_in_the_key_of_who_compares_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    given, own = config(**ASKING), config()
    before, of_lexicon = scorings(given), score_keys(own)
    of = keys.explainer_key
    monkeypatch.setattr(keys, "explainer_key", lambda config, name: of(config, name) + "!" * (name == "lexicon"))
    after = scorings(given)
    assert after["simulation"].key != before["simulation"].key and after["detection"].key == before["detection"].key
    assert after["simulation"].asked == before["simulation"].asked  # what is asked is the same
    assert score_keys(own) != of_lexicon  # as any labels are in the key of their scores


def test_the_statistics_have_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = scorings(config(**ASKING))
    monkeypatch.setattr(keys, "STATISTICS_VERSION", "another")
    after = scorings(config(**ASKING))
    assert not {one.key for one in before.values()} & {one.key for one in after.values()}
    assert {one.asked for one in before.values()} == {one.asked for one in after.values()}


def _graded(given: FeatureEvidence) -> list[ScoreRow]:
    """Rows that take every path which scorers share."""
    generator = np.random.default_rng(5)
    contexts = given.of("test", ("band", "silent"))

    def simulated() -> list[Simulated]:
        values = (generator.integers(0, 11, len(one.tokens)).astype(np.float32) for one in contexts)
        return [Simulated(one.window_id, expected, "ok") for one, expected in zip(contexts, values, strict=True)]

    told, other = simulated(), simulated()
    said = [Judged(one.window_id, one.kind, one.peak > 0, bool(generator.random() < 0.7) == (one.peak > 0), "ok",
                   probability=float(generator.random()), value=float(generator.integers(0, 3))) for one in contexts]  # fmt: skip
    controls = [row for rows in of_simulation(given, told, 3).values() for row in rows]
    return [*score_simulation(given, told), *difference_rows(given, told, other), *score_detection(given, said),
            *score_responsiveness(given, said), *controls]  # fmt: skip


def _digest(rows: Sequence[ScoreRow]) -> str:
    def text(value: float | None) -> str:
        return "none" if value is None else f"{value + 0.0:.6f}"  # sums differ by their order in the last digits

    return hex_hash(*(f"{row.metric} {text(row.value)} {text(row.lo)} {text(row.hi)} {row.status}" for row in rows))


def test_values_that_change_have_another_version() -> None:
    """Where this fails and the change is meant: raise STATISTICS_VERSION, or catalogs keep the values of the old one."""
    generator = np.random.default_rng(4)
    bands = [context(n, 1 + n % 3, np.round(generator.random(6) * (1 + n % 3) * 3, 2).tolist()) for n in range(15)]
    silent = [context(100 + n, 0, [0.0] * 6) for n in range(20)]
    rows = _graded(evidence([*bands, *silent], {0: 900, 1: 40, 2: 30, 3: 30}))
    assert len(rows) > 25 and sum(row.lo is not None for row in rows) > 15
    assert (STATISTICS_VERSION, _digest(rows)) == ("2", "9cd56b69a7ced65d")
