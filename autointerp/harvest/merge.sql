-- From shards to the catalog, in one go. Parameters are replaced by the caller: $shards (folder glob), $plan (folder),
-- $n_bands, $top, $per_band, $n_tokens (harvested), $rare_documents, $dense_share. `selected(feature)` is a registered table
-- of the features asked for; `split_windows(split, n_windows)` the exact sizes of the splits.

CREATE TEMP TABLE merged_features AS
SELECT s.feature AS feature_id,
       coalesce(sum(f.n_tokens), 0)::UBIGINT AS n_tokens, coalesce(sum(f.n_windows), 0)::UBIGINT AS n_windows,
       coalesce(sum(f.n_documents), 0)::UBIGINT AS n_documents,
       sum(f.total ORDER BY f.filename) AS total, sum(f.total_squares ORDER BY f.filename) AS total_squares,
       coalesce(max(f.maximum), 0)::FLOAT AS maximum
FROM selected s LEFT JOIN read_parquet('$shards/features.parquet', filename = true) f ON f.feature = s.feature
GROUP BY s.feature;

INSERT INTO features BY NAME
SELECT feature_id, n_tokens, n_windows, n_documents, n_tokens / $n_tokens AS density, maximum AS max_activation,
       CASE WHEN n_tokens > 0 THEN total / n_tokens END AS mean_activation,
       CASE WHEN n_tokens > 0 THEN sqrt(greatest(total_squares / n_tokens - (total / n_tokens) ** 2, 0)) END AS sd_activation,
       CASE WHEN n_tokens = 0 THEN 'dead' WHEN n_documents < $rare_documents THEN 'rare'
            WHEN n_tokens > $dense_share * $n_tokens THEN 'dense' END AS flag
FROM merged_features ORDER BY feature_id;

-- A band is a run of histogram bins: bin b belongs to the band in which the middle of its share of the feature's windows
-- falls. So the bands are near-quantiles of the feature's own activating windows, and their sizes are known exactly.
CREATE TEMP TABLE bins AS
WITH counted AS (
    SELECT h.feature AS feature_id, h.bin, sum(h.n_windows) AS n
    FROM read_parquet('$shards/histograms.parquet') h JOIN selected s ON s.feature = h.feature GROUP BY ALL
)
SELECT feature_id, bin,
       least($n_bands, 1 + floor($n_bands * (sum(n) OVER lower - n / 2) / sum(n) OVER whole))::UTINYINT AS band
FROM counted
WINDOW whole AS (PARTITION BY feature_id),
       lower AS (PARTITION BY feature_id ORDER BY bin ROWS UNBOUNDED PRECEDING);

INSERT INTO histograms BY NAME
SELECT h.feature AS feature_id, h.split, h.bin, b.band, sum(h.n_windows)::UBIGINT AS n_windows
FROM read_parquet('$shards/histograms.parquet') h JOIN bins b ON b.feature_id = h.feature AND b.bin = h.bin
GROUP BY ALL ORDER BY feature_id, split, h.bin;

INSERT INTO strata BY NAME
SELECT feature_id, split, band, 2 ** (min(bin) / 4.0) AS lo, 2 ** ((max(bin) + 1) / 4.0) AS hi, sum(n_windows)::UBIGINT AS n_windows
FROM histograms GROUP BY feature_id, split, band
UNION ALL
SELECT s.feature, w.split, 0, 0, 0, (w.n_windows - coalesce(a.n, 0))::UBIGINT
FROM selected s CROSS JOIN split_windows w
LEFT JOIN (SELECT feature_id, split, sum(n_windows) AS n FROM histograms GROUP BY ALL) a
       ON a.feature_id = s.feature AND a.split = w.split
ORDER BY feature_id, split, band;

-- The k smallest keys of a union are among the k smallest of each part: of the shards, and of the bins of a band.
CREATE TEMP TABLE kept AS
WITH found AS (
    SELECT c.feature AS feature_id, c.kind::VARCHAR AS kind, c.split::VARCHAR AS split, b.band, c.key, c.window_id, c.peak,
           c.peak_position, c.positions, c.activations,
           row_number() OVER (
               PARTITION BY c.feature, c.kind, c.split, CASE WHEN c.kind = 'band' THEN b.band END ORDER BY c.key, c.window_id
           ) AS rank
    FROM read_parquet('$shards/contexts.parquet') c JOIN bins b ON b.feature_id = c.feature AND b.bin = c.bin
)
SELECT * FROM found
WHERE rank <= CASE kind WHEN 'top' THEN $top WHEN 'band' THEN $per_band ELSE 65535 END;

CREATE TEMP TABLE needed AS
SELECT window_id, bool_or(in_pool) AS in_pool
FROM (SELECT window_id, false AS in_pool FROM kept UNION ALL SELECT window_id, true FROM read_parquet('$plan/pool.parquet'))
GROUP BY window_id;

INSERT INTO documents BY NAME SELECT * FROM read_parquet('$plan/documents.parquet') ORDER BY doc;

INSERT INTO windows BY NAME
SELECT w.window_id, w.doc, w.start, d.split, n.in_pool, w.tokens
FROM read_parquet('$plan/windows-*.parquet') w JOIN needed n USING (window_id) JOIN documents d ON d.doc = w.doc
ORDER BY w.doc, w.start;

-- Near-duplicates across splits: the same tokens around the peak (six before, six after) as in an explain-split context.
CREATE TEMP TABLE grams AS
SELECT k.feature_id, k.kind, k.split, k.rank, k.band,
       hash(list_slice(w.tokens, greatest(k.peak_position::INTEGER - 5, 1), k.peak_position::INTEGER + 7)) AS gram
FROM kept k JOIN windows w USING (window_id);

INSERT INTO contexts BY NAME
SELECT k.feature_id, k.kind, k.split, k.band, k.rank::USMALLINT AS rank, k.window_id, k.peak, k.positions, k.activations,
       k.split <> 'explain' AND e.gram IS NOT NULL AS duplicate
FROM kept k
JOIN grams g ON g.feature_id = k.feature_id AND g.kind = k.kind AND g.split = k.split AND g.band = k.band AND g.rank = k.rank
LEFT JOIN (SELECT DISTINCT feature_id, gram FROM grams WHERE split = 'explain') e
       ON e.feature_id = k.feature_id AND e.gram = g.gram
ORDER BY k.feature_id, k.kind, k.split, CASE WHEN k.kind = 'band' THEN k.band END, k.rank;

DROP TABLE merged_features;
DROP TABLE bins;
DROP TABLE kept;
DROP TABLE needed;
DROP TABLE grams;
