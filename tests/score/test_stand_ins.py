"""Whose labels stand in: which features are in a control, and by whom it can be graded."""

from pathlib import Path

import pyarrow as pa
import pytest

from autointerp.catalog.store import Catalog
from autointerp.config_reading import load_config
from autointerp.score.controls import EMPTY, FIXED, GENERIC, SHUFFLED, can_grade, stand_ins

FEATURES = list(range(100, 260))


@pytest.fixture
def catalog(tmp_path: Path):
    rows = [{"feature_id": one, "n_tokens": 9, "n_windows": 9, "n_documents": 9, "density": one / 1e4, "max_activation": 1.0}
            for one in FEATURES]  # fmt: skip
    with Catalog.open(tmp_path / "c.duckdb", write=True) as opened:
        opened.insert("features", pa.Table.from_pylist(rows))
        yield opened


MODEL = {"explain.explainer": "highlighted", "explain.provider": "mock", "explain.model": "mock"}


def test_all_but_few_where_a_model_is_asked(catalog: Catalog) -> None:
    free = stand_ins(load_config(None, {}), catalog, FEATURES)
    assert {control: len(members) for control, members in free.items()} == {SHUFFLED: 160, GENERIC: 160}
    asked = stand_ins(load_config(None, MODEL), catalog, FEATURES)
    assert {control: len(members) for control, members in asked.items()} == {SHUFFLED: 50, GENERIC: 20}
    assert asked[GENERIC].keys() < asked[SHUFFLED].keys()  # so that they can be compared, feature by feature
    assert all(other in FEATURES and other != feature for feature, other in asked[SHUFFLED].items())
    assert {asked[SHUFFLED][feature] == free[SHUFFLED][feature] for feature in asked[SHUFFLED]} == {True}
    assert set(map(id, asked[GENERIC].values())) == {id(FIXED[GENERIC])}


def test_what_is_configured(catalog: Catalog) -> None:
    given = load_config(None, {**MODEL, "score.controls": ["empty"], "score.control_features": 3})
    found = stand_ins(given, catalog, FEATURES)
    assert list(found) == [EMPTY] and len(found[EMPTY]) == 3
    assert found == stand_ins(given, catalog, FEATURES)
    other = stand_ins(given.model_copy(update={"seed": 1}), catalog, FEATURES)
    assert other[EMPTY].keys() != found[EMPTY].keys()
    assert stand_ins(given, catalog, []) == {}
    assert stand_ins(load_config(None, {}), catalog, [100]).keys() == {GENERIC}  # nobody to swap with


def test_rules_are_read_by_the_lexicon_alone() -> None:
    assert can_grade(SHUFFLED, "lexicon") and not can_grade(GENERIC, "lexicon") and can_grade(EMPTY, "logprob_free")
    assert can_grade(GENERIC, "")  # a scorer without a simulator
