-- Last part: the windows that contexts refer to, and one row for each feature.

INSERT INTO windows BY NAME
SELECT window_id, doc, start, split, place IS NOT NULL AS in_pool, tokens FROM needed
WHERE place IS NOT NULL OR window_id IN (SELECT window_id FROM contexts)
ORDER BY doc, start;

-- Within a bin, peaks are taken to lie evenly on the logarithmic scale.
CREATE TEMP TABLE peaks AS
SELECT feature_id,
       min(2 ** ((bin + (0.50 * of - below + n) / n) / 4)) FILTER (below >= 0.50 * of) AS peak_p50,
       min(2 ** ((bin + (0.90 * of - below + n) / n) / 4)) FILTER (below >= 0.90 * of) AS peak_p90,
       min(2 ** ((bin + (0.99 * of - below + n) / n) / 4)) FILTER (below >= 0.99 * of) AS peak_p99
FROM bins GROUP BY feature_id;

INSERT INTO features BY NAME
SELECT m.*, t.* EXCLUDE (feature_id), least(p.peak_p50, m.max_activation) AS peak_p50,
       least(p.peak_p90, m.max_activation) AS peak_p90, least(p.peak_p99, m.max_activation) AS peak_p99
FROM moments m LEFT JOIN token_facts t USING (feature_id) LEFT JOIN peaks p USING (feature_id)
ORDER BY m.feature_id;

DROP TABLE counted;
DROP TABLE bins;
DROP TABLE needed;
DROP TABLE token_facts;
DROP TABLE peaks;
