-- From shards to the catalog, first part: histograms, bands, strata, documents. Parameters are replaced by the caller: $histograms,
-- $contexts (lists of Parquet files), $plan (folder), $n_bands, $window (tokens of a full one). Registered by the caller:
-- `moments`, one row for each feature asked for, summed over the shards; `splits(split, n_windows, top, per_band)`: the exact
-- sizes of the splits, and how many contexts of each are kept.

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

INSERT INTO documents BY NAME SELECT * FROM read_parquet('$plan/documents.parquet') ORDER BY doc;

-- Windows that contexts may need: all that any shard has kept. Their place in the pool, if they are of it, and the document's
-- six tokens before and after.
CREATE TEMP TABLE needed AS
WITH pool AS (SELECT window_id, row_number() OVER () AS place FROM read_parquet('$plan/pool.parquet')),
     named AS (SELECT DISTINCT window_id FROM read_parquet($contexts) UNION SELECT window_id FROM pool)
SELECT w.window_id, w.doc, w.start, d.split, p.place, w.tokens, coalesce(b.tokens[-6:], []) AS before, coalesce(a.tokens[:6], []) AS after
FROM read_parquet('$plan/windows-*.parquet') w JOIN named USING (window_id) JOIN documents d ON d.doc = w.doc
LEFT JOIN read_parquet('$plan/windows-*.parquet') b ON b.doc = w.doc AND b.start + $window = w.start
LEFT JOIN read_parquet('$plan/windows-*.parquet') a ON a.doc = w.doc AND a.start = w.start + $window
LEFT JOIN pool p ON p.window_id = w.window_id;

CREATE TEMP TABLE token_facts (feature_id UINTEGER, top_token UINTEGER, top_token_share FLOAT, token_entropy FLOAT);
