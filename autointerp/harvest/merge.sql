-- From shards to the catalog, in one go. Parameters are replaced by the caller: $histograms, $contexts (lists of Parquet files),
-- $plan (folder), $n_bands. Registered by the caller: `moments`, one row for each feature asked for, summed over the shards;
-- `splits(split, n_windows, top, per_band)`: the exact sizes of the splits, and how many contexts of each are kept.

-- A band is a run of histogram bins: bin b belongs to the band in which the middle of its share of the feature's windows
-- falls. So the bands are near-quantiles of the feature's own activating windows, and their sizes are known exactly.
CREATE TEMP TABLE counted AS
SELECT h.feature AS feature_id, h.split::VARCHAR AS split, h.bin, sum(h.n_windows)::UBIGINT AS n
FROM read_parquet($histograms) h JOIN moments m ON m.feature_id = h.feature GROUP BY ALL;

CREATE TEMP TABLE bins AS
WITH whole AS (SELECT feature_id, bin, sum(n) AS n FROM counted GROUP BY ALL)
SELECT feature_id, bin, n, sum(n) OVER lower AS below, sum(n) OVER whole AS of,
       least($n_bands, 1 + floor($n_bands * (sum(n) OVER lower - n / 2) / sum(n) OVER whole))::UTINYINT AS band
FROM whole
WINDOW whole AS (PARTITION BY feature_id),
       lower AS (PARTITION BY feature_id ORDER BY bin ROWS UNBOUNDED PRECEDING);

INSERT INTO histograms BY NAME
SELECT feature_id, c.split, bin, b.band, c.n AS n_windows FROM counted c JOIN bins b USING (feature_id, bin)
ORDER BY feature_id, c.split, bin;

INSERT INTO strata BY NAME
SELECT feature_id, split, band, 2 ** (min(bin) / 4.0) AS lo, 2 ** ((max(bin) + 1) / 4.0) AS hi, sum(n_windows)::UBIGINT AS n_windows
FROM histograms GROUP BY feature_id, split, band
UNION ALL
SELECT m.feature_id, w.split, 0, 0, 0, (w.n_windows - coalesce(a.n, 0))::UBIGINT
FROM moments m CROSS JOIN splits w
LEFT JOIN (SELECT feature_id, split, sum(n_windows) AS n FROM histograms GROUP BY ALL) a
       ON a.feature_id = m.feature_id AND a.split = w.split
ORDER BY feature_id, split, band;

-- The k smallest keys of a union are among the k smallest of each part: of the shards, and of the bins of a band. Only keys are
-- sorted; the lists follow by the number of their row.
CREATE TEMP TABLE found AS
SELECT row_number() OVER () AS row, c.feature AS feature_id, c.kind::VARCHAR AS kind, c.split::VARCHAR AS split, c.bin, c.key,
       c.window_id, c.peak, c.peak_position, c.positions, c.activations
FROM read_parquet($contexts) c JOIN moments m ON m.feature_id = c.feature;

CREATE TEMP TABLE kept AS
WITH ranked AS (
    SELECT f.row, b.band,
           row_number() OVER (
               PARTITION BY f.feature_id, f.kind, f.split, CASE WHEN f.kind = 'band' THEN b.band END ORDER BY f.key, f.window_id
           ) AS rank
    FROM found f JOIN bins b ON b.feature_id = f.feature_id AND b.bin = f.bin
    WHERE f.kind <> 'random'
    UNION ALL
    SELECT f.row, b.band, p.rank
    FROM found f JOIN bins b ON b.feature_id = f.feature_id AND b.bin = f.bin
    JOIN (SELECT window_id, row_number() OVER () AS rank FROM read_parquet('$plan/pool.parquet')) p ON p.window_id = f.window_id
    WHERE f.kind = 'random'
)
SELECT f.* EXCLUDE (bin, key), r.band, r.rank::USMALLINT AS rank
FROM found f JOIN ranked r USING (row) JOIN splits s ON s.split = f.split
WHERE r.rank <= CASE f.kind WHEN 'top' THEN s.top WHEN 'band' THEN s.per_band ELSE 65535 END;
DROP TABLE found;

INSERT INTO documents BY NAME SELECT * FROM read_parquet('$plan/documents.parquet') ORDER BY doc;

INSERT INTO windows BY NAME
WITH needed AS (
    SELECT window_id, bool_or(in_pool) AS in_pool
    FROM (SELECT DISTINCT window_id, false AS in_pool FROM kept
          UNION ALL SELECT window_id, true FROM read_parquet('$plan/pool.parquet'))
    GROUP BY window_id
)
SELECT w.window_id, w.doc, w.start, d.split, n.in_pool, w.tokens
FROM read_parquet('$plan/windows-*.parquet') w JOIN needed n USING (window_id) JOIN documents d ON d.doc = w.doc
ORDER BY w.doc, w.start;

-- Near-duplicates across splits: the same tokens around the peak (six before, six after) as in an explain-split context.
CREATE TEMP TABLE grams AS
WITH places AS (SELECT DISTINCT window_id, peak_position FROM kept)
SELECT window_id, peak_position, hash(list_slice(w.tokens, greatest(peak_position::INTEGER - 5, 1), peak_position::INTEGER + 7)) AS gram
FROM places JOIN windows w USING (window_id);

CREATE TEMP TABLE shown AS
SELECT DISTINCT k.feature_id, g.gram FROM kept k JOIN grams g USING (window_id, peak_position) WHERE k.split = 'explain';

INSERT INTO contexts BY NAME
SELECT k.feature_id, k.kind, k.split, k.band, k.rank, k.window_id, k.peak, k.positions, k.activations,
       k.split <> 'explain' AND e.gram IS NOT NULL AS duplicate
FROM kept k
JOIN grams g USING (window_id, peak_position)
LEFT JOIN shown e ON e.feature_id = k.feature_id AND e.gram = g.gram
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
FROM weighted x JOIN windows w USING (window_id) GROUP BY ALL;

CREATE TEMP TABLE token_facts AS
WITH shares AS (SELECT *, weight / sum(weight) OVER (PARTITION BY feature_id) AS share FROM firing_tokens)
SELECT feature_id, arg_max(token, (weight, -token::BIGINT)) AS top_token, max(share)::FLOAT AS top_token_share,
       abs(sum(share * log2(share) ORDER BY token))::FLOAT AS token_entropy
FROM shares GROUP BY feature_id;

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
DROP TABLE kept;
DROP TABLE grams;
DROP TABLE shown;
DROP TABLE firing_tokens;
DROP TABLE token_facts;
DROP TABLE peaks;
