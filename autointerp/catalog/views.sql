-- Views for people. They hold no data and are made anew whenever a catalog is opened for writing.

CREATE OR REPLACE VIEW catalog AS
WITH shown AS (
    SELECT e.* FROM explanations e JOIN ranking r ON e.explainer_key = r.explainer_key
), scored AS (  -- what is said of the feature itself stands under no explanation, and is shown beside its label
    SELECT s.* REPLACE (CASE s.explanation_id WHEN '' THEN w.explanation_id ELSE s.explanation_id END AS explanation_id),
           s.metric = r.metric AND s.score_key = r.score_key AS main
    FROM scores s JOIN scorings USING (score_key) LEFT JOIN shown w ON w.feature_id = s.feature_id CROSS JOIN ranking r
), shuffled AS (  -- not what a control left behind that the last scoring did not have
    SELECT * FROM scored WHERE main AND control = 'shuffled' AND NOT EXISTS (
        SELECT 1 FROM stages WHERE stage = 'score' AND json_extract(config, '$.controls') IS NOT NULL
        AND NOT list_contains(json_extract_string(config, '$.controls[*]'), 'shuffled'))
)
SELECT k.rank, f.feature_id, e.title, e.description, e.kind, e.confidence, e.safety,
       e.output_title, e.output_description, e.sides_agree, e.explainer, e.model, e.explanation_id,
       e.status AS explanation_status, e.reason AS explanation_reason,
       m.metric, m.value AS score, m.lo, m.hi, k.rank_lo, k.rank_hi, m.n_ok, m.n_failed,
       m.status AS score_status, m.reason AS score_reason,
       m.p_random, m.q_random, c.value AS shuffled,
       d.value AS balanced_accuracy, d.lo AS balanced_accuracy_lo, d.hi AS balanced_accuracy_hi,
       g.value AS lexical_gain, g.lo AS lexical_gain_lo, g.hi AS lexical_gain_hi,
       g.lo <= 0 AS no_lexical_gain,
       f.density, f.n_tokens, f.n_windows, f.n_documents, f.max_activation, f.mean_activation, f.flag,
       t.text AS top_token, f.top_token_share, f.token_entropy, f.position_dependence, f.peak_p50, f.peak_p90, f.peak_p99
FROM features f
LEFT JOIN shown e ON e.feature_id = f.feature_id
LEFT JOIN scored m ON m.feature_id = f.feature_id AND m.explanation_id = e.explanation_id AND m.main AND m.control = ''
LEFT JOIN shuffled c ON c.feature_id = f.feature_id
LEFT JOIN scored g ON g.feature_id = f.feature_id AND g.explanation_id = e.explanation_id
                  AND g.metric = CASE m.metric WHEN 'r_balanced' THEN 'lexical_gain_balanced' ELSE 'lexical_gain_corpus' END
                  AND g.control = ''
LEFT JOIN scored d ON d.feature_id = f.feature_id AND d.explanation_id = e.explanation_id AND d.control = ''
                  AND d.metric = 'balanced_accuracy' AND d.scorer = 'detection'
LEFT JOIN ranks k ON k.feature_id = f.feature_id
LEFT JOIN vocabulary t ON t.token = f.top_token
ORDER BY k.rank NULLS LAST, f.feature_id;

-- The features near each feature, by either measure, with their labels: SELECT * FROM neighbourhood WHERE feature_id = 7.
CREATE OR REPLACE VIEW neighbourhood AS
WITH near AS (
    SELECT feature_id, 'decoder' AS kind, rank, neighbour_id, cosine AS value FROM neighbours
    UNION ALL
    SELECT feature_id, 'cofiring' AS kind, rank, neighbour_id, jaccard AS value FROM cofiring
)
SELECT n.feature_id, n.kind, n.rank, n.neighbour_id, n.value, e.title
FROM near n LEFT JOIN (SELECT feature_id, title FROM explanations JOIN ranking USING (explainer_key)) e
    ON e.feature_id = n.neighbour_id
ORDER BY n.feature_id, n.kind DESC, n.rank;

-- One row a token of a context, for people who query: SELECT * FROM examples WHERE feature_id = 7 AND kind = 'top'.
CREATE OR REPLACE VIEW examples AS
WITH expanded AS (
    SELECT c.feature_id, c.kind, c.split, c.band, c.rank, c.window_id, c.peak, d.doc_id,
           unnest(generate_series(0, len(w.tokens) - 1)) AS position, w.tokens, c.positions, c.activations
    FROM contexts c JOIN windows w USING (window_id) JOIN documents d ON d.doc = w.doc
)
SELECT x.feature_id, x.kind, x.split, x.band, x.rank, x.window_id, x.peak, x.doc_id, x.position::INTEGER AS position,
       x.tokens[x.position + 1] AS token, v.text,
       coalesce(x.activations[list_position(x.positions, x.position::USMALLINT)], 0) AS activation
FROM expanded x JOIN vocabulary v ON v.token = x.tokens[x.position + 1];
