-- From what was found to rows of contexts. Registered by the caller: `found`, the candidates in which the feature is silent;
-- `quotas(split, keep, tries)`. The caller holds the transaction.

DELETE FROM contexts WHERE kind IN ('near', 'token');

CREATE OR REPLACE TEMP TABLE chosen AS
SELECT f.feature_id, f.kind, f.split, f.window_id, f.cause, f.position,
       row_number() OVER (PARTITION BY f.feature_id, f.kind, f.split ORDER BY f.place) AS rank
FROM found f JOIN quotas q USING (split)
QUALIFY rank <= q.keep;

-- Near-duplicates: the same tokens around the place (six before, six after, within the window) as in a context of an earlier split,
-- the feature's firings and its negatives alike.
CREATE OR REPLACE TEMP TABLE surroundings AS
WITH places AS (
    SELECT feature_id, kind, split, window_id, position FROM chosen
    UNION ALL
    SELECT feature_id, kind, split, window_id, positions[list_position(activations, list_max(activations))]
    FROM contexts SEMI JOIN chosen USING (feature_id) WHERE split <> 'test'
)
SELECT p.*, list_position(['explain', 'rerank', 'test'], p.split) AS split_order,
       hash(list_slice(w.tokens, greatest(position::INTEGER - 5, 1), position::INTEGER + 7)) AS gram
FROM places p JOIN windows w USING (window_id);

INSERT INTO contexts BY NAME
WITH shown AS (SELECT feature_id, gram, min(split_order) AS first_split FROM surroundings GROUP BY ALL)
SELECT c.feature_id, c.kind, c.split, 0 AS band, c.rank, c.window_id, 0 AS peak, [] AS positions, [] AS activations,
       s.split_order > e.first_split AS duplicate, c.cause, c.position AS cause_position
FROM chosen c
JOIN surroundings s USING (feature_id, kind, split, window_id)
JOIN shown e ON e.feature_id = c.feature_id AND e.gram = s.gram
ORDER BY c.feature_id, c.kind, c.split, c.rank;

DROP TABLE surroundings;
DROP TABLE chosen;
