"""Published protocols: golden values by hand, and which tokens of which windows are scored."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autointerp.catalog.records import Context, FeatureEvidence, Label
from autointerp.llm.types import Ask
from autointerp.score import Means, Settings, Simulated, scorers, simulators
from autointerp.score.discretise import discretise, shown_maximum
from autointerp.score.protocols import LENGTH, Cut, Published
from autointerp.vocabulary import Vocabulary
from tests.score.builders import context, evidence, failed, simulated

NAMES = ("bills23_top_random", "bills23_random", "transluce24")
VOCABULARY = Vocabulary([str(number) for number in range(300)], [str(number).encode() for number in range(300)])
LABEL = Label("x", "x")


def window(number: int, kind: str, activations: Sequence[float], split: Any = "test") -> Context:
    return context(number, 3 if kind == "top" else 0, activations, kind=kind, split=split)


class Oracle:
    """Predicts what it was built with, by window, cut as it is asked; notes what it was shown."""

    needs_model, needs, version = False, (), "oracle"

    def __init__(self, values: dict[int, Sequence[float]], failing: frozenset[int] = frozenset()) -> None:
        self.values, self.failing = values, failing
        self.seen: list[Context] = []
        self.maximum = math.nan

    def configured(self, settings: Settings) -> "Oracle":
        return self

    async def __call__(
        self, label: Label, contexts: Sequence[Context], maximum: float, ask: Ask | None, vocabulary: Vocabulary
    ) -> list[Simulated]:
        self.seen, self.maximum = list(contexts), maximum
        return [
            failed(one.window_id, "timeout: no answer") if one.window_id in self.failing
            else simulated(one.window_id, [self.values[one.window_id][int(token)] for token in one.tokens])
            for one in contexts
        ]  # fmt: skip


async def grade(
    monkeypatch: pytest.MonkeyPatch, name: str, found: FeatureEvidence, oracle: Oracle
) -> tuple[dict[str, Any], Sequence[Simulated]]:
    monkeypatch.setitem(simulators._parts, "oracle", oracle)
    scorer = scorers.get(name).configured(Settings(simulator="oracle", resamples=200))
    result = await scorer(LABEL, found, Means(VOCABULARY))
    return {row.metric: row for row in result.rows}, result.simulated


PAIR = [window(1, "top", [0, 8]), window(2, "random", [4, 0])]


async def test_tokens_are_pooled_before_they_are_correlated(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: a = 0 8 4 0, s = 0 4 10 0. Within each window r is 1, so their mean is 1; pooled, Σ(a−ā)(s−s̄) = 72 − 4·3·3.5 = 30,
    Σ(a−ā)² = 80 − 36 = 44, Σ(s−s̄)² = 116 − 49 = 67, r = 30/√(44·67)."""
    oracle = Oracle({1: [0, 4], 2: [10, 0]})
    rows, kept = await grade(monkeypatch, "bills23_top_random", evidence(PAIR, {}), oracle)
    by_context = [np.corrcoef(one.activations, oracle.values[one.window_id])[0, 1] for one in PAIR]
    assert np.mean(by_context) == pytest.approx(1)
    assert rows["r"].value == pytest.approx(30 / math.sqrt(44 * 67))
    assert (rows["r"].n_ok, rows["r"].n_failed, [one.start for one in kept]) == (2, 0, [0, 0])
    assert "1 of 5 top windows and 1 of 5 random windows: no more were sampled in the test split" in rows["r"].reason
    assert rows["r"].lo is None and "too few windows" in rows["r"].reason


async def test_the_sign_is_kept_by_one_protocol_and_lost_in_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A label that says the opposite: a line fitted on what is scored turns it round."""
    found = evidence(
        [window(n, "top", [0, 8, 0, n]) for n in range(1, 7)]
        + [window(9 + n, "random", [0, 0, 1, 0]) for n in range(5)],
        {},
    )
    oracle = Oracle({one.window_id: [10 - min(10, value) for value in one.activations] for one in found.contexts})
    for name, metric, sign in (("bills23_top_random", "r", -1), ("transluce24", "abs_r", 1)):
        rows, _ = await grade(monkeypatch, name, found, oracle)
        row = rows[metric]
        assert row.value == pytest.approx(sign)
        assert row.lo is not None and row.lo <= row.value + 1e-9 and row.hi >= row.value - 1e-9
    line = np.polyfit([10, 2, 6], [0, 8, 4], 1)
    assert np.corrcoef(np.polyval(line, [10, 2, 6]), [0, 8, 4])[0, 1] == pytest.approx(1)


async def test_the_ceiling_is_on_the_scale_of_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The feature's maximum over the corpus is 100; of what is shown it is 8: a' = 10·a/8, not 10·a/100 = 0."""
    found = evidence([window(1, "top", [0, 8, 2, 1]), window(2, "random", [0, 0, 4, 0])], {}, maximum=100.0)
    oracle = Oracle({1: [0, 1, 0, 0], 2: [0, 0, 1, 0]})
    rows, _ = await grade(monkeypatch, "bills23_top_random", found, oracle)
    truth, levels = [0, 8, 2, 1, 0, 0, 4, 0], [0, 10, 2, 1, 0, 0, 5, 0]
    assert rows["quantisation_ceiling"].value == pytest.approx(np.corrcoef(truth, levels)[0, 1])
    assert oracle.maximum == 8
    assert shown_maximum([]) == 0.0 and discretise(np.array([8.0]), shown_maximum([np.array([16.0])])).tolist() == [5]


async def test_a_constant_simulation_has_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = await grade(monkeypatch, "bills23_top_random", evidence(PAIR, {}), Oracle({1: [3, 3], 2: [3, 3]}))
    row = rows["r"]
    assert (row.value, row.lo, row.status) == (None, None, "undefined")
    assert row.reason.startswith("the simulated activations are constant")


@pytest.mark.parametrize("name", ["bills23_random", "bills23_top_random"])
async def test_where_the_feature_is_silent_nothing_is_asked(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    silent = [window(n, "random", [0, 0]) for n in range(12)]
    oracle = Oracle({})
    rows, kept = await grade(monkeypatch, name, evidence(silent, {}), oracle)
    assert not oracle.seen and not kept
    assert {row.status for row in rows.values()} == {"undefined"}
    assert "fires in none of the" in rows["r"].reason
    rows, _ = await grade(monkeypatch, name, evidence([], {}), oracle)
    assert rows["r"].value is None


async def test_failed_windows_are_counted_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = evidence([*PAIR, window(3, "random", [0, 2])], {})
    values = {1: [0, 4], 2: [10, 0], 3: [0, 0]}
    rows, _ = await grade(monkeypatch, "bills23_top_random", found, Oracle(values, frozenset({3})))
    assert rows["r"].value == pytest.approx(30 / math.sqrt(44 * 67))
    assert (rows["r"].n_ok, rows["r"].n_failed) == (2, 1)
    rows, _ = await grade(monkeypatch, "bills23_top_random", found, Oracle(values, frozenset({1, 2, 3})))
    assert (rows["r"].status, rows["r"].n_failed) == ("failed", 3)
    assert "all 3 contexts failed, for instance: timeout" in rows["r"].reason


def long(number: int, kind: str, length: int, peak: int) -> Context:
    activations = np.zeros(length)
    activations[peak] = 5
    return window(number, kind, activations)


def protocol(name: str, seed: int = 0) -> Published:
    found = scorers.get(name).configured(Settings(seed=seed))
    assert isinstance(found, Published)
    return found


def cuts_of(contexts: list[Context], name: str = "bills23_top_random", seed: int = 0) -> list[Cut]:
    return protocol(name, seed).cuts(evidence(contexts, {}))


@pytest.mark.parametrize(
    ("length", "peak", "start"), [(127, 0, 0), (127, 60, 28), (127, 126, 63), (64, 63, 0), (20, 7, 0)]
)
def test_the_strongest_windows_are_cut_around_their_peak(length: int, peak: int, start: int) -> None:
    (cut,) = cuts_of([long(1, "top", length, peak)])
    assert cut.start == start
    assert len(cut.context.tokens) == len(cut.context.activations) == min(length, LENGTH)
    assert cut.context.tokens[0] == start and cut.context.peak == 5


def test_random_windows_are_cut_anywhere() -> None:
    """Each of the 64 places as often: 10 windows of 127 tokens under 200 seeds, 31 times each, give or take 6; the same again."""
    windows = [long(number, "random", 127, 0) for number in range(100, 110)]
    starts = Counter(cut.start for seed in range(200) for cut in cuts_of(windows, "bills23_random", seed))
    assert starts.keys() == set(range(64))
    assert max(abs(count - 2000 / 64) for count in starts.values()) < 4.5 * (2000 / 64) ** 0.5
    assert cuts_of(windows, "bills23_random")[0].start == cuts_of(windows[::-1], "bills23_random")[-1].start
    assert cuts_of([long(1, "random", 30, 3)], "bills23_random")[0].start == 0


def test_which_windows_are_scored() -> None:
    """The first in their order; a random one that is among the strongest is replaced by the next; the test split alone."""
    top = [window(number, "top", [0, 9]) for number in range(1, 31)]
    random = [window(number, "random", [0, 0]) for number in (40, 2, 41, 25, 42, 43, 44, 45, 46, 47, 48, 49, 50)]
    others = [window(60, "top", [0, 9], "explain"), window(61, "random", [0, 9], "rerank"), window(62, "band", [0, 9])]
    chosen = {name: [cut.context.window_id for cut in cuts_of([*others, *top, *random], name)] for name in NAMES}
    assert chosen == {
        "bills23_top_random": [1, 2, 3, 4, 5, 40, 41, 25, 42, 43],
        "bills23_random": [40, 2, 41, 25, 42, 43, 44, 45, 46, 47],
        "transluce24": [*range(1, 21), 40, 41, 25, 42, 43],
    }
    assert {name: protocol(name).wants.random for name in NAMES} == {
        "bills23_top_random": 10, "bills23_random": 10, "transluce24": 25}  # fmt: skip


async def test_simulators_see_the_cut_and_not_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    found = evidence([long(1, "top", 127, 100), long(2, "random", 127, 5)], {})
    oracle = Oracle({1: [1] * 100 + [9] + [1] * 26, 2: [0] * 127})
    _, kept = await grade(monkeypatch, "bills23_top_random", found, oracle)
    assert all(len(one.tokens) == LENGTH and not one.activations.any() for one in oracle.seen)
    assert kept[0].start == 63 and kept[0].expected is not None and kept[0].expected.shape == (LENGTH,)
    assert 0 <= (kept[1].start or 0) <= 63


async def test_a_simulation_of_other_tokens_is_refused() -> None:
    cuts = cuts_of([window(1, "top", [0, 8])])
    for wrong in (simulated(1, [0, 8, 0]), replace(simulated(1, [0, 8]), window_id=2)):
        with pytest.raises(ValueError, match="is not of the tokens"):
            protocol("bills23_top_random").rows(0, cuts, [wrong])


def test_versions_differ_by_protocol_and_simulator() -> None:
    versions = {protocol(name).version for name in NAMES}
    versions |= {protocol(name).configured(Settings(simulator="logprob_free")).version for name in NAMES}
    assert len(versions) == 6
    assert protocol("transluce24").configured(Settings(simulator="all_at_once", reading="exact")).wants.capabilities == (
        "prompt_logprobs", "exact_logprobs")  # fmt: skip
