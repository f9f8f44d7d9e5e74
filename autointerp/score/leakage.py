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

# The 13 tokens around the place of a test context (its peak; of a hard negative its cause) in a context of another split. Beyond
# the ends of a document there are none: fewer are compared there. Where the window ends before them, and the document goes on, it
# is not known what they are. An active test context may stand where a hard negative was shown: its author was told the opposite.
_GRAMS = """
WITH places AS (
    SELECT c.feature_id, c.kind, c.split, c.window_id, w.tokens, w.start, d.n_tokens,
           CASE WHEN c.kind IN ('near', 'token') THEN c.cause_position
                ELSE c.positions[list_position(c.activations, list_max(c.activations))] END::INTEGER AS place
    FROM contexts c JOIN windows w USING (window_id) JOIN documents d USING (doc)
    WHERE c.kind IN ('top', 'band', 'near', 'token') AND NOT c.duplicate AND c.feature_id IN (SELECT unnest($ids))
), grams AS (
    SELECT feature_id, kind IN ('near', 'token') AS hard, split, window_id,
           tokens[greatest(place - 5, 1) : place + 7] AS gram
    FROM places WHERE (place >= 6 OR start = 0) AND (place + 7 <= len(tokens) OR start + len(tokens) = n_tokens)
)
SELECT DISTINCT t.feature_id, t.window_id, s.window_id, s.split FROM grams t
JOIN grams s ON s.feature_id = t.feature_id AND s.gram = t.gram AND t.split = 'test' AND s.split <> 'test'
WHERE t.hard OR NOT s.hard ORDER BY ALL LIMIT $shown
"""


def audit(catalog: Catalog, feature_ids: Sequence[int]) -> None:
    """Raise DataError, with some of the leaks, where a text of the test split of these features is in another split, too.

    Looked at: documents; the split of every context; and the 13 tokens around the peak of activating contexts, and around the
    cause of hard negatives, which must not stand there in the splits that explainers see (scoring.md, Words).
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
            f"the 13 tokens around feature {feature} in window {window} (test) stand in window {other} ({split}), too"
            for feature, window, other, split in catalog.rows(_GRAMS, part)
        ]
        if len(leaks) >= _SHOWN:
            break
    if leaks:
        raise DataError(
            f"{catalog.path}: test contexts leak into what explainers see: {'; '.join(leaks[:_SHOWN])}. Nothing was scored. A "
            "catalog of an early version can be so: sample again into a new folder"
        )
