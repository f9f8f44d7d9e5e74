-- Last part: the windows that contexts refer to, and one row for each feature.

INSERT INTO windows BY NAME
SELECT window_id, doc, start, split, place IS NOT NULL AS in_pool, tokens FROM needed
WHERE place IS NOT NULL OR window_id IN (SELECT window_id FROM contexts)
ORDER BY doc, start;

-- Within a bin, peaks are taken to lie evenly on the logarithmic scale; none is above the maximum.
CREATE TEMP TABLE peaks AS
WITH levels AS (SELECT unnest([0.50, 0.90, 0.99]) AS q), reached AS (
    SELECT feature_id, q, arg_min(2 ** ((bin + (q * of - below + n) / n) / 4), bin) AS peak
    FROM bins JOIN levels ON below >= q * of GROUP BY ALL
)
SELECT r.feature_id, min(least(peak, max_activation)) FILTER (q = 0.50) AS peak_p50,
       min(least(peak, max_activation)) FILTER (q = 0.90) AS peak_p90, min(least(peak, max_activation)) FILTER (q = 0.99) AS peak_p99
FROM reached r JOIN moments m USING (feature_id) GROUP BY r.feature_id;

INSERT INTO features BY NAME
SELECT m.*, t.* EXCLUDE (feature_id), p.* EXCLUDE (feature_id)
FROM moments m LEFT JOIN token_facts t USING (feature_id) LEFT JOIN peaks p USING (feature_id)
ORDER BY m.feature_id;

DROP TABLE counted;
DROP TABLE bins;
DROP TABLE needed;
DROP TABLE token_facts;
DROP TABLE peaks;
