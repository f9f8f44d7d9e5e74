"""Random windows as evidence: a uniform draw from the pool, the same every time, without copies of what explainers saw."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from autointerp.catalog.reading import EvidenceReader
from autointerp.catalog.records import Context
from autointerp.catalog.store import Catalog

TEST, EXPLAIN, FEATURES, DRAWN = 30, 10, 300, 6
FIRING, COPY = (
    (0, 7),
    3,
)  # of the test split's pool, by number: where each feature fires, and where it nearly copies a text


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    """A pool of 40 windows, some windows beside it, and features that all fire in the same three of the test split."""
    with Catalog.open(tmp_path_factory.mktemp("reading") / "catalog.duckdb", write=True) as found:
        for number in range(TEST + EXPLAIN + 5):
            split, in_pool = (
                ("test" if number < TEST or number >= TEST + EXPLAIN else "explain"),
                number < TEST + EXPLAIN,
            )
            found.rows("INSERT INTO windows BY NAME SELECT ? window_id, ? doc, 0 start, ? split, ? in_pool, [1, 2, 3] tokens",
                       [identity(number), number, split, in_pool])  # fmt: skip
        found.rows("INSERT INTO features BY NAME SELECT unnest(range(?)) feature_id, 9 n_tokens, 9 n_windows, 9 n_documents, "
                   "0.1 density, 4.0 max_activation", [FEATURES])  # fmt: skip
        for number in (*FIRING, COPY):
            found.rows("INSERT INTO contexts BY NAME SELECT unnest(range(?)) feature_id, 'random' kind, 'test' split, 2 band, "
                       "1 \"rank\", ? window_id, 4.0 peak, [1] positions, [4.0] activations, ? duplicate",
                       [FEATURES, identity(number), number == COPY])  # fmt: skip
        yield found


def identity(number: int) -> int:
    """Identities in no order and of full width, as hashes are."""
    return (number * 0x9E3779B97F4A7C15 + 1) % 2**64


def drawn(catalog: Catalog, features: list[int], *, seed: int = 0, count: int = DRAWN) -> dict[int, list[Context]]:
    found = EvidenceReader(catalog, seed=seed, silent=2).read(features, ("test",), random=count)
    return {one.feature_id: one.of("test", ("random",)) for one in found}


def ids(contexts: list[Context]) -> list[int]:
    return [context.window_id for context in contexts]


def test_every_window_of_the_pool_is_as_likely(catalog: Catalog) -> None:
    """Whether the feature fires in it or not: 300 features draw 6 of 29, so each window is drawn 62 times, give or take 7."""
    everything = drawn(catalog, list(range(FEATURES)))
    assert all(len(set(ids(some))) == DRAWN for some in everything.values())
    counts = Counter(window for some in everything.values() for window in ids(some))
    usable = {identity(number) for number in range(TEST)} - {identity(COPY)}
    assert counts.keys() == usable
    expected = FEATURES * DRAWN / len(usable)
    deviation = (expected * (1 - DRAWN / len(usable))) ** 0.5
    assert max(abs(count - expected) for count in counts.values()) < 4 * deviation
    chi_square = sum((count - expected) ** 2 for count in counts.values()) / deviation**2
    assert 8 < chi_square < 60  # 29 windows; neither lopsided nor evened out
    together = Counter(len(set(ids(everything[f])) & set(ids(everything[f + 1]))) for f in range(0, FEATURES, 2))
    assert together[DRAWN] < 3  # features draw apart


def test_a_near_copy_of_what_explainers_saw_is_left_out(catalog: Catalog) -> None:
    everything = drawn(catalog, [5], count=1000)[5]
    assert len(everything) == TEST - 1
    assert identity(COPY) not in ids(everything)


def test_activations_are_those_of_the_feature(catalog: Catalog) -> None:
    for context in drawn(catalog, [5], count=1000)[5]:
        fires = context.window_id in {identity(number) for number in FIRING}
        assert (context.kind, context.split) == ("random", "test")
        assert context.activations.tolist() == ([0, 4, 0] if fires else [0, 0, 0])
        assert context.activations.dtype == np.float32 and context.tokens.tolist() == [1, 2, 3]


def test_the_draw_depends_on_seed_and_feature_alone(catalog: Catalog) -> None:
    first = drawn(catalog, [5, 6])
    assert ids(first[5]) == ids(drawn(catalog, [6, 9, 5])[5]) and ids(first[5]) != ids(first[6])
    assert ids(drawn(catalog, [5], seed=1)[5]) != ids(first[5])
    assert ids(drawn(catalog, [5], count=12)[5])[:DRAWN] == ids(first[5])  # who wants fewer gets the first of them


def test_other_contexts_stay_as_they_are(catalog: Catalog) -> None:
    reader = EvidenceReader(catalog, seed=0, silent=4)
    without, with_them = reader.read([5], ("test",))[0], reader.read([5], ("test",), random=3)[0]
    assert ids(without.of("test")) == ids(with_them.of("test")) and len(without.of("test", ("silent",))) == 4
    assert not without.of("test", ("random",)) and len(with_them.of("test", ("random",))) == 3
    assert not with_them.of("explain", ("random",))
