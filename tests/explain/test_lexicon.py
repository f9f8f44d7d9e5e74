"""The lexicon: planted features are found again, small examples are worked by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.catalog.records import Context, FeatureEvidence, Label
from autointerp.errors import DataError
from autointerp.explain import explainers
from autointerp.explain.lexicon_rules import NOTHING, Pattern, Rule, learn, predict
from autointerp.explain.lexicon_words import describe
from autointerp.llm.types import FailureKind, RequestFailed
from autointerp.score import simulators
from autointerp.vocabulary import Vocabulary

WORDS = ["zero", " one", " two", " three", " four", " five", "six", "(", ")", "\n", " ", ","]
VOCABULARY = Vocabulary(WORDS, [word.encode() for word in WORDS])


def context(window: int, tokens: list[int], activations: list[float], band: int | None = None) -> Context:
    active = max(activations) > 0
    kind = "band" if active else "silent"
    return Context(window, "explain", kind, (1 if active else 0) if band is None else band,
                   np.array(tokens, np.int32), np.array(activations, np.float32))  # fmt: skip


def planted(fires, seed: int, windows: int = 60, vocabulary: int = 40, length: int = 24) -> list[Context]:  # type: ignore[no-untyped-def]
    """Windows of random tokens; `fires(tokens, position)` is the activation."""
    rng = np.random.default_rng(seed)
    contexts = []
    for window in range(windows):
        tokens = rng.integers(0, vocabulary, length).tolist()
        activations = [float(fires(tokens, p)) for p in range(length)]
        contexts.append(context(window, tokens, activations))
    return contexts


def correlation(rule: Rule, contexts: list[Context]) -> float:
    predicted = np.concatenate(predict(rule, [c.tokens for c in contexts]))
    return float(np.corrcoef(predicted, np.concatenate([c.activations for c in contexts]))[0, 1])


PLANTED = {
    "token": (lambda t, p: 5.0 * (t[p] == 3), 0.99),
    "either of two tokens": (lambda t, p: 5.0 * (t[p] in (3, 7)), 0.99),
    "two strengths": (lambda t, p: 5.0 * (t[p] == 3) + 2.0 * (t[p] == 8), 0.98),
    "pair": (lambda t, p: 5.0 * (p > 0 and t[p] == 3 and t[p - 1] in (1, 2, 4, 5, 6, 7, 8)), 0.85),
    "not after": (lambda t, p: 5.0 * (t[p] == 3 and not (p > 0 and t[p - 1] % 2 == 0)), 0.75),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_features_are_found_on_fresh_text(name: str) -> None:
    fires, least = PLANTED[name]
    narrow = 12 if name in ("pair", "not after") else 40
    rule = learn(planted(fires, 0, windows=120, vocabulary=narrow), 5.0)
    assert correlation(rule, planted(fires, 1, vocabulary=narrow)) > least
    unrelated = learn(planted(lambda t, p: 5.0 * (t[p] == 9), 0, vocabulary=narrow), 5.0)
    assert abs(correlation(unrelated, planted(fires, 1, vocabulary=narrow))) < 0.25


def test_by_hand() -> None:
    # One band window and one silent window of 4 tokens each: every position weighs 1. Token 3 is seen in both: twice
    # active at 10 (window 0), once silent (window 1). Root: 20 / 8 = 2.5. Token 3: (20 + 2 · 2.5) / (3 + 2) = 5.
    contexts = [context(0, [3, 1, 3, 2], [4, 0, 4, 0]), context(1, [1, 2, 3, 2], [0, 0, 0, 0])]
    rule = learn(contexts, 4.0)
    three = next(p for p in rule.patterns if p.depth == 0 and 3 in p.tokens)
    # Its longer runs, each seen once: (start, 3) and (1, 3) at 10 → (10 + 2·5) / (1 + 2) = 6.67, so they are one pattern;
    # (2, 3) at 0 → 10 / 3.
    below = {p.tokens: p.value for p in rule.patterns if p.parent >= 0 and rule.patterns[p.parent] is three}
    assert below == {(NOTHING, 1): pytest.approx(20 / 3), (2,): pytest.approx(10 / 3)}
    assert predict(rule, [np.array([3], np.int32)])[0][0] == pytest.approx(20 / 3)
    assert sum(p.mass for p in rule.patterns) <= 1 + 1e-9


def test_the_deepest_match_decides() -> None:
    rule = Rule.from_json({"lexicon": 1, "background": 0.5, "explained": 1.0, "patterns": [
        {"parent": -1, "depth": 0, "tokens": [3, 4], "value": 2, "mass": 0.2},
        {"parent": 0, "depth": 1, "tokens": [1], "value": 9, "mass": 0.5},
        {"parent": 1, "depth": 2, "tokens": [7], "value": 0, "mass": 0.0},
    ]})  # fmt: skip
    found = predict(rule, [np.array([3, 1, 4, 7, 1, 3], np.int32), np.array([3], np.int32)])
    assert found[0].tolist() == [2, 0.5, 9, 0.5, 0.5, 0] and found[1].tolist() == [2]
    assert predict(rule, []) == []


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 2**30), st.sampled_from([0.0, 0.0, 1.0, 3.5])), min_size=1, max_size=12),
        min_size=1, max_size=8,
    )
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_any_contexts_give_a_rule_that_survives_json(windows: list[list[tuple[int, float]]]) -> None:
    contexts = [context(i, [t for t, _ in w], [a for _, a in w]) for i, w in enumerate(windows)]
    rule = learn(contexts, max(c.peak for c in contexts))
    again = Rule.from_json(json.loads(json.dumps(rule.to_json())))
    predicted = predict(again, [c.tokens for c in contexts])
    assert [len(values) for values in predicted] == [len(c.tokens) for c in contexts]
    assert all(((values >= 0) & (values <= 10)).all() for values in predicted)
    assert len(rule.patterns) <= 40
    assert learn(contexts, max(c.peak for c in contexts)) == rule


def evidence(contexts: list[Context]) -> FeatureEvidence:
    return FeatureEvidence(7, max((c.peak for c in contexts), default=0.0), 0.01, contexts, {})


async def test_the_label() -> None:
    contexts = [context(i, [0, 1, 2, i % 6, 3], [0, 0, 5, 0, 0]) for i in range(8)]
    contexts += [context(100 + i, [0, 3, 4, 5, 6], [0.0] * 5) for i in range(8)]
    label = await explainers.get("lexicon")(evidence(contexts), None, VOCABULARY)
    assert label.title == '"two" after "one"'
    assert label.description.startswith('Fires on "two"') and "strongly" in label.description
    assert set(label.evidence) <= set(range(8)) and len(label.evidence) == 5


async def test_too_little_evidence_is_said() -> None:
    lexicon = explainers.get("lexicon")
    label = await lexicon(evidence([context(0, [1, 2], [0, 3])]), None, VOCABULARY)
    assert label.kind == "unclear" and "one text" in label.description
    with pytest.raises(RequestFailed) as failure:
        await lexicon(evidence([context(0, [1, 2], [0, 0])]), None, VOCABULARY)
    assert failure.value.kind == FailureKind.NO_EVIDENCE


def test_what_cannot_be_seen_is_made_visible() -> None:
    contexts = [context(i, [3, 9, i % 6, 3], [0, 4, 0, 0]) for i in range(6)] + [context(50, [3, 4, 5, 6], [0.0] * 4)]
    words = describe(learn(contexts, 4.0), VOCABULARY, 6)
    assert '"↵"' in words.description and words.kind == "format"
    assert "\n" not in words.title + words.description


def test_a_run_that_goes_on_with_a_word_is_said_as_the_word() -> None:
    # "six" fires after "zero" only.
    contexts = [context(i, [0, 6, 1 + i % 5, 6], [0, 6, 0, 0]) for i in range(10)]
    contexts += [context(50 + i, [1 + i % 5, 6, 3, 4], [0.0] * 4) for i in range(10)]
    words = describe(learn(contexts, 6.0), VOCABULARY, 10)
    assert '"six" completing "zerosix"' in words.description
    assert words.kind == "phrase"


def test_a_title_of_a_token_says_what_tells_it_from_others_of_the_same_token() -> None:
    def title(*patterns: Pattern, explained: float = 0.9, example: str = "zero two") -> str:
        return describe(Rule(0.0, patterns, explained), VOCABULARY, 10, example).title

    two, three = Pattern(-1, 0, (2,), 5.0, 0.6), Pattern(-1, 0, (3,), 5.0, 0.3)
    after_newline, seldom = Pattern(0, 1, (9,), 8.0, 0.2), Pattern(0, 1, (4,), 9.0, 0.05)
    assert title(two) == '"two" (as in "zero two")' and title(two, example=" ") == '"two"'
    assert title(two, after_newline, seldom) == '"two" (often after "↵")'
    assert title(two, seldom) == '"two" (as in "zero two")'  # after less than a tenth of it
    assert title(two, after_newline, explained=0.1) == 'Unclear: "two" (often after "↵")'
    assert title(two, three) == '"two", "three" (as in "zero two")'
    # Where a context is told already, or many tokens are, nothing is added.
    assert title(two, replace(after_newline, mass=2.0)) == '"two" after "↵"'
    assert title(replace(two, tokens=(2, 4, 5))) == '"two", "four" and 1 like these'


async def test_the_simulator_needs_a_rule() -> None:
    simulator = simulators.get("lexicon")
    contexts = [context(5, [1, 2, 3], [0, 0, 0])]
    [failed] = await simulator(Label("t", "d"), contexts, 1.0, None, VOCABULARY)
    assert (failed.status, failed.expected) == ("failed", None) and "no lexicon rule" in str(failed.reason)
    with pytest.raises(DataError):
        Rule.from_json({"lexicon": 99})
