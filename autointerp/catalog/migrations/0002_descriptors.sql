-- What the harvest measures beyond counts: descriptors of each feature, features that fire together, hard negatives.

ALTER TABLE features ADD COLUMN top_token UINTEGER;             -- the token on which it fires most
ALTER TABLE features ADD COLUMN top_token_share FLOAT;          -- … and its share of the firing tokens
ALTER TABLE features ADD COLUMN token_entropy FLOAT;            -- bits, of the distribution of the tokens on which it fires
ALTER TABLE features ADD COLUMN position_dependence DOUBLE;     -- 0: fires anywhere in a window; towards 1: in one place only
ALTER TABLE features ADD COLUMN peak_p50 DOUBLE;                -- quantiles of the peaks of the windows in which it fires
ALTER TABLE features ADD COLUMN peak_p90 DOUBLE;
ALTER TABLE features ADD COLUMN peak_p99 DOUBLE;

-- Of a hard negative: the feature that fires in its place (kind near) or the token that is there (kind token), and where.
ALTER TABLE contexts ADD COLUMN cause UINTEGER;
ALTER TABLE contexts ADD COLUMN cause_position USMALLINT;

CREATE TABLE cofiring (          -- features that fire on the same tokens, counted exactly over the shared random pool
    feature_id UINTEGER NOT NULL, rank UTINYINT NOT NULL, neighbour_id UINTEGER NOT NULL,
    n_both UINTEGER NOT NULL,        -- tokens on which both fire
    jaccard FLOAT NOT NULL           -- n_both / tokens on which at least one fires
);
