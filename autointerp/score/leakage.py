"""The leakage audit: before labels are graded it is checked that their authors cannot have seen what they are graded on.

The harvest keeps splits apart by document and leaves near-duplicates out. This looks at the outcome again, in another way: at the
rows of the catalog that a scoring job is about to use, whoever wrote them.
"""

from collections.abc import Sequence

from autointerp.catalog.store import Catalog
from autointerp.errors import DataError

_FEATURES = 1000  # at a time, so that memory does not depend on how many are scored
_SHOWN = 3  # leaks named in the message

# A document whose windows are in several splits, or in another than its own.
_DOCUMENTS = """
SELECT d.doc_id, list_sort(list(DISTINCT w.split)) FROM windows w JOIN documents d USING (doc)
GROUP BY d.doc_id HAVING count(DISTINCT w.split) > 1 OR bool_or(w.split <> d.split) ORDER BY 1 LIMIT $shown
"""

# A context that is said to be of another split than its window.
_WINDOWS = """
SELECT c.feature_id, c.window_id, c.split, w.split FROM contexts c JOIN windows w USING (window_id)
WHERE c.split <> w.split AND c.feature_id IN (SELECT unnest($ids)) ORDER BY ALL LIMIT $shown
"""

# The 13 tokens around the peak of a test context, as far as they are all in its window, in a context of an earlier split.
_GRAMS = """
WITH peaks AS (
    SELECT c.feature_id, c.split, c.window_id, w.tokens,
           c.positions[list_position(c.activations, list_max(c.activations))]::INTEGER AS peak
    FROM contexts c JOIN windows w USING (window_id)
    WHERE c.kind IN ('top', 'band') AND NOT c.duplicate AND c.feature_id IN (SELECT unnest($ids))
), grams AS (
    SELECT feature_id, split, window_id, tokens[peak - 5 : peak + 7] AS gram FROM peaks
    WHERE peak >= 6 AND peak + 7 <= len(tokens)
)
SELECT DISTINCT t.feature_id, t.window_id, s.window_id, s.split FROM grams t
JOIN grams s ON s.feature_id = t.feature_id AND s.gram = t.gram AND t.split = 'test' AND s.split <> 'test'
ORDER BY ALL LIMIT $shown
"""


def audit(catalog: Catalog, feature_ids: Sequence[int]) -> None:
    """Raise DataError, with some of the leaks, where a text of the test split of these features is in another split, too.

    Looked at: documents; the split of every context; and the 13 tokens around the peak of activating contexts, which must not
    stand around a peak of the same feature in the splits that explainers see (scoring.md, Words).
    """
    leaks = [
        f"the document {document!r} has windows in the splits {', '.join(splits)}"
        for document, splits in catalog.rows(_DOCUMENTS, {"shown": _SHOWN})
    ]
    ids = sorted(set(feature_ids))
    for begin in range(0, len(ids), _FEATURES):
        part = {"ids": ids[begin : begin + _FEATURES], "shown": _SHOWN}
        leaks += [
            f"window {window} is of the split {of_window}, and a context of feature {feature} puts it into {of_context}"
            for feature, window, of_context, of_window in catalog.rows(_WINDOWS, part)
        ]
        leaks += [
            f"the 13 tokens around the peak of feature {feature} in window {window} (test) stand in window {other} ({split}), too"
            for feature, window, other, split in catalog.rows(_GRAMS, part)
        ]
        if len(leaks) >= _SHOWN:
            break
    if leaks:
        raise DataError(
            f"{catalog.path}: test contexts leak into what explainers see: {'; '.join(leaks[:_SHOWN])}. Nothing was scored. A "
            "catalog of an early version can be so: sample again into a new folder"
        )
