-- Second part: the contexts of features $first to $last, and the tokens on which they fire. Run for one range of features after
-- the other, so that memory does not depend on how many there are.

-- The k smallest keys of a union are among the k smallest of each part: of the shards, and of the bins of a band. Only keys are
-- sorted; the lists are read afterwards, of the rows that stay.
CREATE TEMP TABLE kept AS
WITH keys AS (
    SELECT filename, file_row_number, c.feature AS feature_id, c.kind::VARCHAR AS kind, c.split::VARCHAR AS split, b.band,
           c.key, c.window_id
    FROM read_parquet($contexts, filename = true, file_row_number = true) c
    JOIN bins b ON b.feature_id = c.feature AND b.bin = c.bin
    WHERE c.feature BETWEEN $first AND $last
), ranked AS (
    SELECT * EXCLUDE (key, window_id), row_number() OVER (
               PARTITION BY feature_id, kind, split, CASE WHEN kind = 'band' THEN band END ORDER BY key, window_id
           ) AS rank
    FROM keys WHERE kind <> 'random'
    UNION ALL
    SELECT k.* EXCLUDE (key, window_id), p.place FROM keys k JOIN needed p ON p.window_id = k.window_id WHERE kind = 'random'
)
SELECT r.feature_id, r.kind, r.split, r.band, r.rank::USMALLINT AS rank, c.window_id, c.peak, c.peak_position, c.positions,
       c.activations
FROM ranked r JOIN splits s ON s.split = r.split
JOIN read_parquet($contexts, filename = true, file_row_number = true) c USING (filename, file_row_number)
WHERE r.rank <= CASE r.kind WHEN 'top' THEN s.top WHEN 'band' THEN s.per_band ELSE 65535 END
  AND c.feature BETWEEN $first AND $last;

-- Near-duplicates across splits: the same tokens of the document around the peak (six before, six after, where there are so many)
-- as in a context of an earlier split, in the order explain, rerank, test.
CREATE TEMP TABLE grams AS
WITH places AS (SELECT DISTINCT window_id, peak_position::INTEGER AS peak_position FROM kept),
     texts AS (SELECT p.*, len(w.before) AS n, w.before || w.tokens || w.after AS tokens FROM places p JOIN needed w USING (window_id))
SELECT window_id, peak_position, hash(list_slice(tokens, greatest(peak_position + n - 5, 1), peak_position + n + 7)) AS gram
FROM texts;

CREATE TEMP TABLE shown AS
SELECT k.feature_id, g.gram, min(list_position(['explain', 'rerank', 'test'], k.split)) AS first_split
FROM kept k JOIN grams g USING (window_id, peak_position) GROUP BY ALL;

INSERT INTO contexts BY NAME
SELECT k.feature_id, k.kind, k.split, k.band, k.rank, k.window_id, k.peak, k.positions, k.activations,
       list_position(['explain', 'rerank', 'test'], k.split) > e.first_split AS duplicate
FROM kept k
JOIN grams g USING (window_id, peak_position)
JOIN shown e ON e.feature_id = k.feature_id AND e.gram = g.gram
ORDER BY k.feature_id, k.kind, k.split, CASE WHEN k.kind = 'band' THEN k.band END, k.rank;

-- On which tokens a feature fires: estimated from the band samples, each context weighing what its stratum holds for one drawn.
-- Weights are whole numbers, in units of 2^-20, so that their sums do not depend on the order.
CREATE TEMP TABLE firing_tokens AS
WITH drawn AS (
    SELECT feature_id, split, band, count(*) AS n FROM kept WHERE kind = 'band' GROUP BY ALL
), weighted AS (
    SELECT k.feature_id, k.window_id, unnest(k.positions) AS position, (1048576 * s.n_windows // d.n)::HUGEINT AS weight
    FROM kept k JOIN drawn d ON (d.feature_id, d.split, d.band) = (k.feature_id, k.split, k.band)
    JOIN strata s ON (s.feature_id, s.split, s.band) = (k.feature_id, k.split, k.band)
    WHERE k.kind = 'band'
)
SELECT x.feature_id, w.tokens[x.position + 1] AS token, sum(x.weight) AS weight
FROM weighted x JOIN needed w USING (window_id) GROUP BY ALL;

INSERT INTO token_facts
WITH shares AS (SELECT *, weight / sum(weight) OVER (PARTITION BY feature_id) AS share FROM firing_tokens)
SELECT feature_id, arg_max(token, (weight, -token::BIGINT)) AS top_token, max(share)::FLOAT AS top_token_share,
       abs(sum(share * log2(share) ORDER BY token))::FLOAT AS token_entropy
FROM shares GROUP BY feature_id;

DROP TABLE kept;
DROP TABLE grams;
DROP TABLE shown;
DROP TABLE firing_tokens;
