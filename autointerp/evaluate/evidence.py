"""From planted features to the evidence that explainers and simulators know: splits, bands, contexts. Pure.

Sentences of one feature and one role are put in the order of their hashes and dealt out to the splits in turn, so that
every split has some of each. A near miss is a silent context, and a hard negative as well.
"""

from collections.abc import Sequence

import numpy as np

from autointerp.catalog.records import Context, FeatureEvidence, Split
from autointerp.evaluate.planted import MAX_LEVEL, ROLES, PlantedFeature, Role, Sentence
from autointerp.evaluate.words import Words
from autointerp.hashing import stable_hash

DEAL: tuple[Split, ...] = ("explain", "test", "explain", "rerank", "test")
TOP = 10
_WEAKEST_OF_BAND = (1, 4, 7)  # bands 1, 2, 3 by the highest level of the sentence


def words_of(suite: Sequence[PlantedFeature]) -> Words:
    """The vocabulary of all sentences of the suite."""
    return Words(sentence.text for feature in suite for sentence in feature.sentences)


def splits_of(feature: PlantedFeature) -> dict[str, Split]:
    """The split of each sentence, by its text. It depends on the sentences of the same role, on nothing else."""
    found: dict[str, Split] = {}
    for role in ROLES:
        texts = [sentence.text for sentence in feature.sentences if sentence.role == role]
        texts.sort(key=lambda text: (stable_hash("planted", text), text))
        found |= {text: DEAL[place % len(DEAL)] for place, text in enumerate(texts)}
    return found


def evidence_of(feature: PlantedFeature, words: Words, splits: Sequence[Split]) -> FeatureEvidence:
    """What may be seen of a feature by whoever is entitled to `splits`. Activations are the levels, their maximum 10."""
    split_of = splits_of(feature)
    chosen = [sentence for sentence in feature.sentences if split_of[sentence.text] in splits]
    base = [_context(feature, sentence, split_of[sentence.text], words) for sentence in _in_order(chosen)]
    strata: dict[tuple[str, int], int] = {}
    for context in base:
        strata[context.split, context.band] = strata.get((context.split, context.band), 0) + 1
    near = {stable_hash("planted", sentence.text) for sentence in chosen if sentence.role == "near"}
    extra = [_as_kind(context, "near") for context in base if context.window_id in near]
    n_active = sum(int((context.activations > 0).sum()) for context in base)
    return FeatureEvidence(
        feature_id=feature.number,
        max_activation=float(MAX_LEVEL),
        density=n_active / max(1, sum(len(context.tokens) for context in base)),
        contexts=[*_top(base, splits), *base, *extra],
        stratum_windows=strata,
    )


def _in_order(sentences: Sequence[Sentence]) -> list[Sentence]:
    """Positives, plain negatives, near misses: who looks at a few random silent contexts sees plain ones."""
    place: dict[Role, int] = {"positive": 0, "negative": 1, "near": 2}
    return sorted(sentences, key=lambda sentence: (place[sentence.role], stable_hash("planted", sentence.text)))


def _context(feature: PlantedFeature, sentence: Sentence, split: Split, words: Words) -> Context:
    levels = feature.levels(sentence).astype(np.float32)
    band = sum(bool(levels.max() >= weakest) for weakest in _WEAKEST_OF_BAND)
    return Context(
        window_id=stable_hash("planted", sentence.text), split=split, kind="band" if band else "silent", band=band,
        tokens=words.encode(sentence.text), activations=levels,
    )  # fmt: skip


def _top(contexts: Sequence[Context], splits: Sequence[Split]) -> list[Context]:
    return [
        _as_kind(context, "top")
        for split in splits
        for context in sorted(
            (one for one in contexts if one.split == split and one.band),
            key=lambda one: (-one.peak, one.window_id),
        )[:TOP]
    ]


def _as_kind(context: Context, kind: str) -> Context:
    return Context(context.window_id, context.split, kind, context.band, context.tokens, context.activations)
