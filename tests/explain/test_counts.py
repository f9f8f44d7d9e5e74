"""What explainers are told of the whole corpus: worked by hand, on draws of three strata."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from autointerp.catalog.records import Context, FeatureEvidence
from autointerp.explain.counts import TOKENS, counts_json
from tests.explain.test_token_activation import VOCABULARY
from tests.score.builders import context


def explained(window: int, band: int, values: Sequence[float], tokens: Sequence[int], **options: Any) -> Context:
    return context(window, band, values, tokens=tokens, **{"split": "explain", **options})


def counts(contexts: Sequence[Context], strata: Mapping[tuple[str, int], int] | None = None) -> dict[str, Any]:
    """Of a feature with the maximum 10."""
    said = counts_json(FeatureEvidence(7, 10.0, 0.01, contexts, strata or {}), VOCABULARY)
    assert "\n" not in said
    found: dict[str, Any] = json.loads(f"{{{said}}}")["counts"]
    return found


# Band 1 has 30 windows and two draws (15 each), band 2 has 10 and one draw, 60 windows are silent, with one draw.
WEAK = explained(1, 1, [0.5, 0, 0], [1, 2, 3])
MIDDLE = explained(2, 1, [3.9, 2.0, 0], [1, 4, 1])
STRONG = explained(3, 2, [8.0, 0, 0], [1, 2, 2])
SILENT = explained(4, 0, [0, 0, 0], [5, 4, 5])
STRATA = {("explain", 0): 60, ("explain", 1): 30, ("explain", 2): 10, ("test", 0): 999, ("test", 1): 999}


def test_draws_stand_for_the_windows_of_their_strata() -> None:
    # Active places: w1 15 + 15 + 10 = 40, w4 15: of 55. w1 stands at 15 + 2·15 + 10 = 55 places, w4 at 15 + 60 = 75.
    # Levels of w1: 15·0 + 15·3 + 10·8 = 125 over 40 is 3; of w4 2.
    assert counts([WEAK, MIDDLE, STRONG, SILENT], STRATA) == {
        "active": 40,
        "peaks": {"0": 38, "1-3": 38, "7-10": 25},  # 15, 15 and 10 of 40; 37.5 is rounded to the even 38
        "tokens": [[" w1", 73, 3, 73], [" w4", 27, 2, 20]],
    }


def test_without_sizes_every_draw_counts_once_and_nothing_is_said_of_all_windows() -> None:
    found = counts([WEAK, STRONG])
    assert found == {"peaks": {"0": 50, "7-10": 50}, "tokens": [[" w1", 100, 4, 100]]}


def test_top_windows_stand_in_only_where_there_are_no_draws() -> None:
    top = explained(9, 2, [10.0], [6], kind="top")
    assert [token for token, *_ in counts([top])["tokens"]] == [" w6"]
    assert [token for token, *_ in counts([top, STRONG])["tokens"]] == [" w1"]


def test_other_splits_and_hard_negatives_do_not_count() -> None:
    others = [
        explained(20, 2, [10.0], [6], split="test"), explained(21, 2, [10.0], [6], split="rerank"),
        explained(22, 0, [0.0], [1], kind="near"), explained(23, 0, [0.0], [1], kind="token"),
    ]  # fmt: skip
    assert counts([WEAK, STRONG, *others]) == counts([WEAK, STRONG])


def test_few_tokens_are_listed_and_none_that_is_rare() -> None:
    many = explained(1, 1, [1.0] * 30, range(30))
    assert [token for token, *_ in counts([many])["tokens"]] == [f" w{token}" for token in range(TOKENS)]
    rare = explained(1, 1, [1.0] * 99, [1] * 98 + [2])
    assert counts([rare])["tokens"] == [[" w1", 99, 1, 100]]


def test_of_a_feature_that_is_never_active_there_is_nothing_to_list() -> None:
    assert counts([SILENT]) == {"peaks": {}, "tokens": []}
