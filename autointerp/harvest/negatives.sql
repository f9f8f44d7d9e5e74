-- Which windows to look at for hard negatives. Parameters are replaced by the caller: $n_bands, $near_depth and $token_depth
-- (windows considered of one neighbour, and of one token, in each split). Registered by the caller: `quotas(split, keep, tries)`
-- and `draws(window_id, draw, place)`: every window's number in one random order, and in that order with the pool's windows first.

-- Where a feature is known to fire. Of the pool's windows this is all of them.
CREATE OR REPLACE TEMP TABLE known AS
SELECT DISTINCT feature_id, window_id FROM contexts WHERE kind NOT IN ('near', 'token');

-- kind near: windows in which a decoder neighbour fires strongly (in the upper half of its bands), one of each neighbour in
-- turn, the nearest first. A window that several neighbours offer counts for the first of them.
CREATE OR REPLACE TEMP TABLE near AS
WITH alive AS (
    SELECT feature_id FROM features WHERE n_tokens > 0
), strong AS (
    SELECT DISTINCT c.feature_id, c.split, c.window_id, d.draw,
           c.positions[list_position(c.activations, list_max(c.activations))] AS position
    FROM contexts c JOIN draws d USING (window_id)
    WHERE c.kind IN ('top', 'band') AND 2 * c.band > $n_bands
), first AS (
    SELECT *, row_number() OVER (PARTITION BY feature_id, split ORDER BY draw) AS turn
    FROM strong QUALIFY turn <= $near_depth
), offered AS (
    SELECT n.feature_id, f.split, f.window_id, f.turn, n.rank, n.neighbour_id AS cause, f.position
    FROM neighbours n JOIN first f ON f.feature_id = n.neighbour_id
    SEMI JOIN alive a ON a.feature_id = n.feature_id
    ANTI JOIN known k ON k.feature_id = n.feature_id AND k.window_id = f.window_id
    QUALIFY row_number() OVER (PARTITION BY n.feature_id, f.window_id ORDER BY f.turn, n.rank) = 1
)
SELECT feature_id, split, window_id, cause, position,
       row_number() OVER (PARTITION BY feature_id, split ORDER BY turn, rank) AS place
FROM offered;

-- kind token: windows that hold the feature's top token. All features with one top token are offered the same windows.
CREATE OR REPLACE TEMP TABLE token AS
WITH asked AS (
    SELECT DISTINCT top_token AS token FROM features WHERE top_token IS NOT NULL
), present AS (
    SELECT w.split, d.place, unnest(list_distinct(w.tokens)) AS token FROM windows w JOIN draws d USING (window_id)
), first AS (
    SELECT token, split, unnest(min(place, $token_depth)) AS place FROM present SEMI JOIN asked USING (token) GROUP BY token, split
)
SELECT f.feature_id, w.split, w.window_id, f.top_token AS cause, list_position(w.tokens, f.top_token) - 1 AS position, p.place
FROM features f JOIN first p ON p.token = f.top_token JOIN draws d USING (place) JOIN windows w USING (window_id)
ANTI JOIN known k ON k.feature_id = f.feature_id AND k.window_id = w.window_id;

CREATE OR REPLACE TEMP TABLE candidates AS
SELECT c.kind, c.feature_id, c.split, c.window_id, c.cause, c.position, c.place
FROM (SELECT 'near' AS kind, * FROM near UNION ALL BY NAME SELECT 'token' AS kind, * FROM token) c JOIN quotas q USING (split)
QUALIFY row_number() OVER (PARTITION BY c.feature_id, c.kind, c.split ORDER BY c.place) <= q.tries;

-- Each window is read once, with others of its length.
CREATE OR REPLACE TEMP TABLE to_read AS
SELECT row_number() OVER (ORDER BY len(w.tokens), w.window_id) - 1 AS number, w.*
FROM windows w SEMI JOIN candidates USING (window_id)
ORDER BY number;

DROP TABLE known;
DROP TABLE near;
DROP TABLE token;
