"""Gates: medians with intervals, three outcomes, and what a catalog's scores come to."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats

from autointerp.catalog.store import Catalog
from autointerp.score.agreement import swaps
from autointerp.score.evidence_controls import chance
from autointerp.score.gates import Gate, better, near, write_gates
from autointerp.score.random_null import write_p_values
from autointerp.score.spread import Spread, median_interval
from autointerp.score.writing import Scoring

KEY = Scoring("simulation", "key", "lexicon", None)
RNG = np.random.default_rng(0)


def test_the_interval_of_a_median_is_the_sign_tests() -> None:
    # Of ten coins P(at most 1 head) = 11/1024 ≤ 2.5 % < P(at most 2) = 56/1024: the second and the ninth value.
    assert median_interval(np.arange(10.0)) == Spread(10, 4.5, 1.0, 8.0)
    assert median_interval(np.arange(5.0)) == Spread(5, 2.0, None, None)
    assert median_interval(np.arange(6.0)) == Spread(6, 2.5, 0.0, 5.0)
    assert median_interval(np.array([])) == Spread(0, None, None, None)
    for n in (37, 200, 1951):
        k = int(scipy.stats.binom.ppf(0.025, n, 0.5))
        found = median_interval(np.arange(n) + 1.0)
        assert found.lo in (k, k + 1) and found.lo is not None and found.hi == n + 1 - found.lo
        assert scipy.stats.binom.cdf(found.lo - 1, n, 0.5) <= 0.025 < scipy.stats.binom.cdf(found.lo, n, 0.5)


def test_it_holds_the_median() -> None:
    held = 0
    for _ in range(1000):
        found = median_interval(RNG.exponential(size=30))
        assert found.lo is not None and found.hi is not None
        held += found.lo <= np.log(2) <= found.hi
    assert 0.935 < held / 1000 < 0.99


@pytest.mark.parametrize(
    ("lo", "hi", "both", "passed"),
    [(-0.01, 0.02, True, True), (0.01, 0.03, True, True), (0.06, 0.10, True, False), (0.02, 0.08, True, None),
     (-0.2, -0.1, True, False), (-0.2, -0.1, False, True), (-0.2, 0.2, True, None), (-0.2, 0.2, False, None)],
)  # fmt: skip
def test_near_chance(lo: float, hi: float, both: bool, passed: bool | None) -> None:
    assert near(Spread(50, (lo + hi) / 2, lo, hi), 0.0, both_sides=both)[0] is passed
    assert near(Spread(50, 0.5 + (lo + hi) / 2, 0.5 + lo, 0.5 + hi), 0.5, both_sides=both)[0] is passed


@pytest.mark.parametrize(
    ("lo", "value", "hi", "passed"),
    [(0.01, 0.02, 0.03, True), (0.3, 0.4, 0.5, True),
     (1e-5, 4e-5, 1e-4, False), (-0.1, 0.0, 0.01, False), (0.0, 0.0, 0.0, False), (0.005, 0.01, 0.019, False),
     (0.01, 0.015, 0.03, None), (-0.01, 0.05, 0.2, None), (0.0, 0.1, 0.2, None), (-0.1, 0.0, 0.02, None)],
)  # fmt: skip
def test_better_than(lo: float, value: float, hi: float, passed: bool | None) -> None:
    """The lower end above 0 and a median of 0.02 or more; failed where all of the interval is below 0.02."""
    found, reason = better(Spread(50, value, lo, hi), "nothing")
    assert found is passed and (reason is None) == (passed is True)
    assert ("by 0.02 or more" in str(reason)) == (passed is False and lo > 0)
    assert better(Spread(50, 3 * value, 3 * lo, 3 * hi), "nothing", 3.0)[0] is passed  # ratings of 0 to 3


def test_few_features_say_nothing() -> None:
    for verdict in (near(Spread(9, 0.9, 0.8, 1.0), 0.0, both_sides=True), better(Spread(9, 0.9, 0.8, 1.0), "x")):
        assert verdict == (None, "inconclusive: 9 features with a value; 10 or more are needed")


def gates(path: Path, **scores: Sequence[float | None]) -> dict[str, Gate]:
    """The gates of r_corpus, by control, of a catalog with these scores; `own` are the features' own labels'."""
    controls = {"" if control == "own" else control: values for control, values in scores.items() if control != "null"}
    rows = [
        {"score_key": "key", "feature_id": feature, "explanation_id": "e", "scorer": "simulation", "simulator": "lexicon",
         "metric": "r_corpus", "control": control, "value": value, "n_ok": 1, "n_failed": 0, "status": "ok"}
        for control, values in controls.items() for feature, value in enumerate(values)
    ]  # fmt: skip
    null = [
        {"scorer": "simulation", "score_key": "key", "metric": "r_corpus", "direction": at, "matched": at, "density": 0.1,
         "value": value, "status": "ok"} for at, value in enumerate(scores.get("null", ()))
    ]  # fmt: skip
    with Catalog.open(path / "c.duckdb", write=True) as catalog:
        catalog.insert("scores", pa.Table.from_pylist(rows))
        if null:
            catalog.insert("null_scores", pa.Table.from_pylist(null))
        write_p_values(catalog, {"simulation": KEY})
        found = write_gates(catalog, {"simulation": KEY}, ("simulation", "r_corpus"))
        stored = catalog.rows("SELECT control, n, value, passed FROM controls")
    assert stored == [(gate.control, gate.spread.n, gate.spread.value, gate.passed) for gate in found]
    return {gate.control: gate for gate in found}


def test_labels_that_say_something(tmp_path: Path) -> None:
    own = RNG.uniform(0.4, 0.9, 40).tolist()
    found = gates(tmp_path, own=own, shuffled=[None, *RNG.normal(0, 0.02, 39)], permuted_across=RNG.normal(0, 0.01, 40).tolist(),
                  generic=RNG.uniform(0, 0.2, 20).tolist(), permuted_within=[0.1] * 40, breadth=[0.2] * 40,
                  null=RNG.uniform(0, 0.3, 30).tolist())  # fmt: skip
    judged = {control: gate.passed for control, gate in found.items() if gate.expected is not None}
    assert judged == dict.fromkeys(
        (
            "shuffled",
            "over_shuffled",
            "over_generic",
            "permuted_across",
            "over_permuted_within",
            "over_random_directions",
        ),
        True,
    )
    assert found["shuffled"].spread.n == 39 and "1 without a value" in str(found["shuffled"].reason)
    assert found["over_generic"].spread.n == 20
    assert found["over_permuted_within"].spread.value == pytest.approx(np.median(own) - 0.1)
    compared = {control for control, gate in found.items() if gate.passed is None}
    assert compared == {"generic", "permuted_within", "breadth", "random_directions"}
    assert all("for comparison" in str(found[control].reason) for control in compared)


def test_labels_that_say_nothing_fail(tmp_path: Path) -> None:
    """Scores that come from something else than the label: every stand-in gets them, too."""
    high = [RNG.normal(0.5, 0.02, 60).tolist() for _ in range(5)]
    found = gates(tmp_path, own=high[0], shuffled=high[1], generic=high[2], permuted_across=high[3], null=high[4])
    failed = {control for control, gate in found.items() if gate.passed is False}
    assert failed == {"shuffled", "over_shuffled", "over_generic", "permuted_across", "over_random_directions"}
    assert all(found[control].reason for control in failed)


def test_what_is_switched_off_or_was_not_asked_for_has_no_gate(tmp_path: Path) -> None:
    """Scores of a control stay in the catalog when a later run has it no more; verdicts without log-probabilities no auroc."""
    base = {"score_key": "key", "explanation_id": "e", "scorer": "detection", "simulator": "", "n_ok": 1, "n_failed": 0}
    values = {"balanced_accuracy": 0.6, "auroc": None}
    rows = [
        base | {"feature_id": feature, "metric": metric, "control": control, "value": value, "status": "ok"}
        for metric, value in values.items() for control in ("", "shuffled", "generic", "always_yes") for feature in range(12)
    ]  # fmt: skip
    with Catalog.open(tmp_path / "c.duckdb", write=True) as catalog:
        catalog.insert("scores", pa.Table.from_pylist(rows))
        detection = {"detection": Scoring("detection", "key", "", "m")}
        for controls, expected in (
            (("shuffled", "generic"), {"shuffled", "over_shuffled", "generic", "over_generic", "always_yes"}),
            (("generic",), {"generic", "over_generic", "always_yes"}),
            ((), {"always_yes"}),
        ):
            found = write_gates(catalog, detection, ("simulation", "r_corpus"), controls)
            assert {gate.control for gate in found} == expected
            assert {gate.metric for gate in found} == {"balanced_accuracy"}


def test_a_scorer_of_which_chance_is_unknown_is_held_against_other_labels(tmp_path: Path) -> None:
    base = {
        "score_key": "key",
        "explanation_id": "e",
        "scorer": "specificity",
        "simulator": "",
        "n_ok": 1,
        "n_failed": 0,
    }
    rows = [
        base | {"feature_id": feature, "metric": metric, "control": control, "value": value, "status": "ok"}
        for metric in ("rating_by_mass", "rating") for control, value in (("", 2.0), ("shuffled", 1.95))
        for feature in range(12)
    ]  # fmt: skip
    with Catalog.open(tmp_path / "c.duckdb", write=True) as catalog:
        catalog.insert("scores", pa.Table.from_pylist(rows))
        found = write_gates(
            catalog, {"specificity": Scoring("specificity", "key", "", "m")}, ("simulation", "r_corpus")
        )
    assert [(gate.metric, gate.control, gate.passed) for gate in found] == [
        ("rating_by_mass", "shuffled", None), ("rating_by_mass", "over_shuffled", False)]  # fmt: skip
    assert "by 0.06 or more" in str(found[1].reason)  # 0.02 of a scale of 3


def test_another_judge_of_written_texts_is_known_by_its_model(tmp_path: Path) -> None:
    """Generation has neither simulations nor verdicts; the same judge with other settings is no other judge,
    and another one's latest scores count."""
    own = {1: 0.1, 2: 0.4, 3: 0.2, 4: 0.9}
    table = {"feature_id": 1, "explanation_id": "e", "scorer": "generation", "control": ""}
    with Catalog.open(tmp_path / "c.duckdb", write=True) as catalog:
        catalog.rows("INSERT INTO ranking VALUES ('labels', 'key', 'auroc')")
        catalog.insert("explanations", pa.Table.from_pylist([
            {"explanation_id": "e", "explainer_key": "labels", "feature_id": 1, "explainer": "x", "status": "ok"}]))  # fmt: skip
        for key, model, sign in (("again", "judge", 1), ("zz before", "second", -1), ("other", "second", 1)):
            catalog.insert("scores", pa.Table.from_pylist([
                table | {"score_key": key, "feature_id": at, "simulator": "", "metric": "auroc", "value": sign * value,
                         "n_ok": 1, "n_failed": 0, "status": "ok"} for at, value in own.items()]))  # fmt: skip
            catalog.insert("written_texts", pa.Table.from_pylist([
                table | {"score_key": key, "model": model, "number": 1, "wanted": True, "status": "ok"}]))  # fmt: skip
        found = list(swaps(catalog, Scoring("generation", "key", "", "judge"), "auroc", own))
    assert [(one.who, one.n, one.rho) for one in found] == [("second", 4, pytest.approx(1.0))]


@pytest.mark.parametrize(
    ("metric", "expected"), [("r", 0.0), ("responsiveness_corpus", 0.5), ("abs_r", None), ("r2", None)]
)
def test_what_a_label_that_says_nothing_gets(metric: str, expected: float | None) -> None:
    assert chance(metric) == expected


def test_p_and_q_are_in_the_catalog(tmp_path: Path) -> None:
    gates(tmp_path, own=[0.9, 0.25, None, 0.05], shuffled=[0.0] * 4, null=[0.1, 0.2, 0.3])
    with Catalog.open(tmp_path / "c.duckdb", write=True) as catalog:
        query = "SELECT p_random, q_random FROM scores WHERE control = '{}' ORDER BY feature_id"
        found = catalog.rows(query.format(""))
        assert found == [(0.25, 0.75), (0.5, 0.75), (None, None), (1.0, 1.0)]
        assert set(catalog.rows(query.format("shuffled"))) == {(None, None)}
        catalog.rows("DELETE FROM null_scores")
        write_p_values(catalog, {"simulation": KEY})  # the null is gone: so are they
        assert set(catalog.rows(query.format(""))) == {(None, None)}
