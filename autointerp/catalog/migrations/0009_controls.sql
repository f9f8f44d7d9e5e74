-- Scores of random directions, and what scores are worth beside them.

CREATE TABLE null_scores (             -- scores of directions that stand for nothing, explained and graded as the features are
    scorer     VARCHAR NOT NULL,
    score_key  VARCHAR NOT NULL,       -- as in scores: of the same labels, scorer, model and settings
    metric     VARCHAR NOT NULL,
    direction  UINTEGER NOT NULL,      -- number of the random direction
    matched    UINTEGER NOT NULL,      -- the feature whose density it has
    density    DOUBLE NOT NULL,        -- share of tokens on which it fires
    value DOUBLE, lo DOUBLE, hi DOUBLE,   -- NULL with a reason where undefined
    status     VARCHAR NOT NULL,       -- ok | undefined | failed
    reason     VARCHAR
);

ALTER TABLE scores ADD COLUMN p_random DOUBLE;   -- (1 + random directions that score as high) / (1 + random directions)
ALTER TABLE scores ADD COLUMN q_random DOUBLE;   -- of these p the Benjamini-Hochberg false discovery rate over all features
