"""The planted features themselves, and their loader on sentences worked out by hand."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from autointerp.errors import DataError
from autointerp.evaluate.evidence import evidence_of, splits_of, words_of
from autointerp.evaluate.planted import (
    FALSEHOODS,
    FAMILIES,
    Clause,
    PlantedFeature,
    load_suite,
    marked,
    parse_sentence,
    ruled,
)
from autointerp.evaluate.words import Words, split
from autointerp.score.simulation import scored_contexts

SUITE = load_suite()
FEATURE = pytest.mark.parametrize("feature", SUITE, ids=lambda feature: feature.id)


def test_there_are_sixty_features_or_more_of_eleven_families() -> None:
    assert len(SUITE) >= 60 and [feature.number for feature in SUITE] == list(range(len(SUITE)))
    assert set(Counter(feature.family for feature in SUITE)) == set(FAMILIES) and len(FAMILIES) == 11
    assert min(Counter(feature.family for feature in SUITE).values()) >= 5


def test_no_id_no_label_and_no_sentence_stands_there_twice() -> None:
    sentences = [sentence.text for feature in SUITE for sentence in feature.sentences]
    labels = [label.description for one in SUITE for label in (one.label, *one.false_labels.values())]
    for things in (sentences, labels, [feature.id for feature in SUITE]):
        assert [thing for thing, count in Counter(things).items() if count > 1] == []


@FEATURE
def test_a_feature_is_as_promised(feature: PlantedFeature) -> None:
    roles = Counter(sentence.role for sentence in feature.sentences)
    assert len(feature.sentences) >= 20 and roles["positive"] >= 6
    assert roles["near"] >= 4 and roles["near"] + roles["negative"] >= 6
    assert set(feature.false_labels) == set(FALSEHOODS) and len(FALSEHOODS) == 3
    assert len(feature.label.title.split()) <= 8
    for sentence in feature.sentences:
        assert (feature.levels(sentence).max() > 0) == (sentence.role == "positive"), sentence.text
    assert max(int(feature.levels(sentence).max()) for sentence in feature.sentences) == 10


@FEATURE
def test_rule_and_marks_agree(feature: PlantedFeature) -> None:
    for sentence in feature.sentences if feature.rule else ():
        by_rule, by_mark = ruled(feature.rule, sentence.text), marked(sentence)
        assert ((by_rule > 0) == (by_mark > 0)).all(), sentence.text
        if any(mark.level for mark in sentence.marks):
            assert (by_rule == by_mark).all(), sentence.text


@FEATURE
def test_sentences_are_not_one_template(feature: PlantedFeature) -> None:
    """No two sentences of a role share most of their words. A near miss may be the twin of a positive: that is its point."""
    bags = [(one.role, {piece.text.strip().lower() for piece in split(one.text)}) for one in feature.sentences]
    for place, (role, bag) in enumerate(bags):
        for other_role, other in bags[:place]:
            if role == other_role and min(len(bag), len(other)) > 5:
                assert len(bag & other) <= 0.7 * len(bag | other), bag & other


def test_marks_by_hand() -> None:
    sentence = parse_sentence("positive", "The ⟦bank|4⟧ of the ⟦river Po⟧.⏎It's wide.")
    assert sentence.text == "The bank of the river Po.\nIt's wide."
    assert [piece.text for piece in split(sentence.text)] == [
        "The", " bank", " of", " the", " river", " Po", ".", "\n", "It", "'s", " wide", ".",
    ]  # fmt: skip
    assert marked(sentence).tolist() == [0, 4, 0, 0, 10, 10, 0, 0, 0, 0, 0, 0]


def test_rules_by_hand() -> None:
    text = "In 1899, 2,500 of 60% left."  # In| 1899|,| 2,500| of| 60|%| left|.
    assert ruled([Clause(pattern=r"\bof (\d+)")], text).tolist() == [0, 0, 0, 0, 0, 10, 0, 0, 0]
    assert ruled([Clause(pattern=r"left", level=3)], text).tolist() == [0, 0, 0, 0, 0, 0, 0, 3, 0]
    assert ruled([Clause(number=r"(\d{4})", low=1800, high=1899)], text).tolist() == [0, 10, 0, 0, 0, 0, 0, 0, 0]
    assert ruled([Clause(number=r"(\d{4})", low=1900, high=1999)], text).tolist() == [0] * 9
    percent = Clause(number=r"(\d+)(?P<at>%)", low=50, high=100, level=6)
    assert ruled([percent], text).tolist() == [0, 0, 0, 0, 0, 0, 6, 0, 0]
    fading = [Clause(first=0, last=1, level=5), Clause(first=1, last=1, level=7), Clause(first=7)]
    assert ruled(fading, text).tolist() == [5, 7, 0, 0, 0, 0, 0, 10, 10]
    assert ruled([Clause(first=0, begins="[a-z]")], text).tolist() == [0] * 9


@pytest.mark.parametrize("text", ["", "a  b", " x_y\t'tis “q” ½ don't 1.2.3 → é\n\n", "12:30 −5 °C, e@x.org's"])
def test_the_tokenizer_loses_nothing(text: str) -> None:
    pieces = split(text)
    assert "".join(piece.text for piece in pieces) == text
    assert all(text[piece.begin : piece.end] in (piece.text, piece.text[1:]) for piece in pieces)
    words = Words([text])
    assert "".join(words.vocabulary.text(int(token)) for token in words.encode(text)) == text


@FEATURE
def test_every_split_has_something_of_each(feature: PlantedFeature) -> None:
    words = words_of([feature])
    roles = {sentence.text: sentence.role for sentence in feature.sentences}
    of = Counter((split, roles[text]) for text, split in splits_of(feature).items())
    assert min(of["explain", "positive"], of["test", "positive"]) >= 4 and of["rerank", "positive"] >= 2
    assert min(of[one, "near"] for one in ("explain", "rerank", "test")) >= 1
    test = evidence_of(feature, words, ("test",))
    assert {context.split for context in test.contexts} == {"test"}
    contexts = scored_contexts(test)
    assert len({context.window_id for context in contexts}) == len(contexts)
    assert len(contexts) == sum(count for (split, _), count in of.items() if split == "test")
    assert sum(test.stratum_windows.values()) == len(contexts)


def test_evidence_by_hand() -> None:
    feature = next(one for one in SUITE if one.id == "lexical-maybe")
    words = words_of(SUITE)
    evidence = evidence_of(feature, words, ("explain", "rerank"))
    assert evidence.max_activation == 10 and {one.split for one in evidence.contexts} == {"explain", "rerank"}
    by_text = {words.vocabulary.join(one.tokens): one for one in evidence.of("explain", ("band", "silent"))}
    for text, context in by_text.items():
        peak = 10 if "perhaps" in text.lower() else 5 if "maybe" in text.lower() else 0
        assert context.peak == peak and context.band == {10: 3, 5: 2, 0: 0}[peak]
        assert np.count_nonzero(context.activations) == (peak > 0)
    near = evidence.of("explain", ("near",))
    silent = {one.window_id for one in evidence.of("explain", ("silent",))}
    assert near and {one.window_id for one in near} < silent
    top = evidence.of("explain", ("top",))
    assert [one.peak for one in top] == sorted((one.peak for one in top), reverse=True)


def _family(folder: Path, **changes: str) -> Path:
    lines = {
        "positive": "\n".join(f"the ⟦cat⟧ number {n}" for n in range(10)),
        "near": "\n".join(f"a dog number {n}" for n in range(5)),
        "negative": "\n".join(f"no animal but {n}" for n in range(5)),
        "rule": "[{ pattern = 'cat' }]",
    } | changes
    false = "".join(f'{sort} = {{ title = "t", description = "{sort}" }}\n' for sort in FALSEHOODS)
    text = f'family = "lexical"\n[[feature]]\nid = "cats"\ntitle = "cat"\ndescription = "d"\n{false}'
    text += f"rule = {lines.pop('rule')}\n" + "".join(f"{role} = '''\n{body}\n'''\n" for role, body in lines.items())
    (folder / "cats.toml").write_text(text, encoding="utf-8")
    return folder


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    (feature,) = load_suite(_family(tmp_path))
    assert (feature.id, feature.family, len(feature.sentences)) == ("cats", "lexical", 20)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"negative": "nothing"}, "16 sentences; expected 20"),
        ({"rule": "[{ pattern = 'number' }]"}, "disagree"),
        ({"rule": "[{ pattern = 'cat', level = 9 }]"}, "no sentence reaches level 10"),
        ({"rule": "[{ pattern = 'ca(t' }]"}, "not a regular expression"),
        ({"rule": "[{ first = 0, low = 1 }]"}, "low and high"),
        ({"rule": "[{ level = 3 }]"}, "one of pattern, number, first"),
        ({"near": "\n".join(f"the ⟦cat⟧ again {n}" for n in range(5))}, "near with 1 marks"),
        ({"near": "\n".join(f"a ⟦dog number {n}" for n in range(5))}, "not whole"),
        ({"negative": "\n".join(f"a dog number {n}" for n in range(5))}, "the same sentence twice"),
    ],
)
def test_what_is_not_as_promised_is_refused(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        load_suite(_family(tmp_path, **changes))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no planted features"):
        load_suite(tmp_path)
