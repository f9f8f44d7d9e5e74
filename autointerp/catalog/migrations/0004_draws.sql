-- Failed items that `autointerp retry` asked again with fresh answers.

CREATE TABLE draws (
    stage      VARCHAR NOT NULL,   -- explain | score
    key        VARCHAR NOT NULL,   -- explainer_key or score_key
    feature_id UINTEGER NOT NULL,
    control    VARCHAR NOT NULL,   -- as in scores; '' for explanations
    draw       UINTEGER NOT NULL   -- 1 for the first retry; the answers are journalled under sample numbers of their own
);
