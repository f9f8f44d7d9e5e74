"""Concepts planted in a real corpus: at every word it is known whether a feature is active, and what any label would predict.

After the sanity checks of NeuronEval (Oikarinen, Yan and Weng 2025, "Evaluating Neuron Explanations"): a metric is tested on
a true label, on one that misses a part of the truth, and on one that claims something unrelated besides. No language model is
needed: the simulator is an oracle that is active exactly where the label says. Pure; the corpus is given.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autointerp.hashing import stable_hash

Mask = NDArray[np.bool_]
FAMILIES = ("word", "either", "context", "position", "number", "dense")
WINDOW = 127  # words: as many as a window of the harvest has tokens, by default and with BOS
_WORD = re.compile(r"\w+|[^\w\s]")
_RARE, _COMMON = 40, 6000  # occurrences of a word that can be a concept
_OVERLAP = 0.1  # share of an unrelated word's occurrences that may be in the truth
_BEFORE = 8  # words before it in which a context may stand


@dataclass(frozen=True, slots=True)
class Corpus:
    """Windows of words. `words` int32 [W, T] are indices into `names`; `document` int32 [W] says where a window is from."""

    words: NDArray[np.int32]
    document: NDArray[np.int32]
    names: list[str]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Occurrences of each word."""
        return np.bincount(self.words.ravel(), minlength=len(self.names))


@dataclass(frozen=True, slots=True)
class Unit:
    """A planted feature and two wrong labels of it, each as the words [W, T] at which it is active.

    `missing` lacks a part of the truth: a disjunct, or where there is none the occurrences in half of the documents. `extra` has
    unrelated words besides, about as frequent as the truth.
    """

    name: str
    family: str
    truth: Mask
    missing: Mask
    extra: Mask

    @property
    def density(self) -> float:
        return float(self.truth.mean())


def read_corpus(texts: Iterable[str], windows: int, length: int = WINDOW) -> Corpus:
    """The first `windows` whole windows of `length` words of the texts; a text's end that fills none is left out.

    Raises ValueError where there are fewer.
    """
    index: dict[str, int] = {}
    rows: list[NDArray[np.int32]] = []
    document: list[int] = []
    for number, text in enumerate(texts):
        words = np.array([index.setdefault(word, len(index)) for word in _WORD.findall(text)], np.int32)
        whole = words[: len(words) // length * length].reshape(-1, length)
        rows.append(whole)
        document += [number] * len(whole)
        if len(document) >= windows:
            return Corpus(np.concatenate(rows)[:windows], np.array(document[:windows], np.int32), list(index))
    raise ValueError(f"the texts have {len(document):,} windows of {length} words; {windows:,} are wanted")


def units(corpus: Corpus, per_family: int, seed: int) -> Iterator[Unit]:
    """`per_family` units of each of `FAMILIES`, one after the other. Equal arguments, equal units."""
    yield from (_Planter(corpus, seed).unit(family, number) for family in FAMILIES for number in range(per_family))


class _Planter:
    def __init__(self, corpus: Corpus, seed: int) -> None:
        self.corpus = corpus
        self.seed = seed
        self.counts = corpus.counts
        wanted = np.flatnonzero((self.counts >= _RARE) & (self.counts <= _COMMON))
        self.by_count = wanted[np.argsort(self.counts[wanted], kind="stable")]
        self.values = np.array([int(name) if name.isascii() and name.isdigit() else -1 for name in corpus.names])

    def unit(self, family: str, number: int) -> Unit:
        key = f"{self.seed}-{family}-{number}"
        generator = np.random.default_rng(stable_hash("unit", key))
        name, truth, part = getattr(self, f"_{family}")(generator)
        if part is None:
            lost = np.array([stable_hash(key, int(one)) % 2 == 0 for one in range(self.corpus.document.max() + 1)])
            part = truth & ~lost[self.corpus.document][:, None]
        return Unit(name, family, truth, part, truth | self._unrelated(truth, generator))

    def _unrelated(self, truth: Mask, generator: np.random.Generator) -> Mask:
        """Other words, hardly ever in the truth: one about as frequent, or several that come to half of it or more."""
        size = int(truth.sum())
        inside = np.bincount(self.corpus.words[truth], minlength=len(self.counts))
        outside = np.flatnonzero((inside <= self.counts * _OVERLAP) & (self.counts >= _RARE))
        near = outside[np.argsort(np.abs(np.log(self.counts[outside] / size)), kind="stable")[:15]]
        chosen = [int(generator.choice(near))]
        for word in generator.permutation(outside):
            if self.counts[chosen].sum() >= size / 2:
                break
            chosen.append(int(word))
        return self._is(*chosen)

    def _is(self, *words: int) -> Mask:
        return np.isin(self.corpus.words, words)

    def _some_word(self, generator: np.random.Generator) -> int:
        """Uniform in the logarithm of its frequency, so that common words are tried as often as rare ones."""
        logs = np.log(self.counts[self.by_count])
        return int(self.by_count[np.searchsorted(logs, generator.uniform(logs[0], logs[-1]))])

    def _word(self, generator: np.random.Generator) -> tuple[str, Mask, None]:
        word = self._some_word(generator)
        return repr(self.corpus.names[word]), self._is(word), None

    def _either(self, generator: np.random.Generator) -> tuple[str, Mask, Mask]:
        """Two words of like frequency; the wrong label lacks one of them."""
        first = self._some_word(generator)
        place = int(np.flatnonzero(self.by_count == first)[0])
        second = int(self.by_count[place - 1 if place else 1])
        return (
            f"{self.corpus.names[first]!r} or {self.corpus.names[second]!r}",
            self._is(first, second),
            self._is(first),
        )

    def _context(self, generator: np.random.Generator) -> tuple[str, Mask, None]:
        """A word with another one among the eight before it."""
        while True:
            word, other = self._some_word(generator), self._some_word(generator)
            seen, near = self._is(other), np.zeros(self.corpus.words.shape, bool)
            for distance in range(1, _BEFORE + 1):
                near[:, distance:] |= seen[:, :-distance]
            truth = self._is(word) & near
            if word != other and truth.sum() >= _RARE:
                return f"{self.corpus.names[word]!r} after {self.corpus.names[other]!r}", truth, None

    def _position(self, generator: np.random.Generator) -> tuple[str, Mask, None]:
        """A run of places in the first window of a document."""
        begin, length = int(generator.integers(0, self.corpus.words.shape[1] - 8)), int(generator.integers(1, 9))
        truth = np.zeros(self.corpus.words.shape, bool)
        first = np.diff(self.corpus.document, prepend=-1) > 0
        truth[first, begin : begin + length] = True
        return f"words {begin} to {begin + length - 1} of a document", truth, None

    def _number(self, generator: np.random.Generator) -> tuple[str, Mask, None]:
        """Numbers of a range."""
        while True:
            low, factor = 10 ** generator.uniform(0, 2.5), 10 ** generator.uniform(0.3, 1.5)
            inside = np.flatnonzero((self.values >= low) & (self.values <= low * factor))
            truth = self._is(*map(int, inside))
            if truth.sum() >= _RARE:
                return f"numbers from {int(np.ceil(low))} to {int(low * factor)}", truth, None

    def _dense(self, generator: np.random.Generator) -> tuple[str, Mask, None]:
        """A random set of words that makes up 10 to 40 % of the text."""
        goal = generator.uniform(0.1, 0.4) * self.corpus.words.size
        order = generator.permutation(np.flatnonzero(self.counts >= 3))
        order = order[self.counts[order] <= goal / 3]
        chosen = order[: int(np.searchsorted(np.cumsum(self.counts[order]), goal)) + 1]
        return f"{len(chosen)} words", self._is(*map(int, chosen)), None
