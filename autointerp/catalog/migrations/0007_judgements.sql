-- How labels came about step by step, what steering changes, and single judgements of texts.

-- Languages (natural and programming) apart from domains; NULL in rows that an earlier version wrote, whose domains hold both.
ALTER TABLE explanations ADD COLUMN languages VARCHAR[];

ALTER TABLE candidates ADD COLUMN parent UTINYINT;   -- the candidate that this one was made from; NULL: none

CREATE TABLE investigation_steps (
    explanation_id VARCHAR NOT NULL,
    step       USMALLINT NOT NULL,     -- from 1, in the order in which the model asked
    tool       VARCHAR NOT NULL,
    arguments  VARCHAR NOT NULL,       -- JSON, as the model gave them
    result     VARCHAR NOT NULL        -- JSON, as the model was told
);

CREATE TABLE steered_tokens (
    feature_id UINTEGER NOT NULL,
    direction  VARCHAR NOT NULL,       -- up | down
    rank       USMALLINT NOT NULL,     -- from 1, the largest change first
    token      UINTEGER NOT NULL,
    change     FLOAT NOT NULL,         -- mean change of the log-probability
    kl         FLOAT NOT NULL,         -- mean KL(clean || steered) that was reached, in nats
    strength   FLOAT NOT NULL          -- what was added, in units of the feature's maximum over the harvest
);

CREATE TABLE judgements (              -- one answer of a classifying scorer (detection, fuzzing, ...) about one context
    score_key  VARCHAR NOT NULL,
    feature_id UINTEGER NOT NULL,
    explanation_id VARCHAR NOT NULL,
    scorer     VARCHAR NOT NULL,
    model      VARCHAR,
    control    VARCHAR NOT NULL,       -- '' | shuffled | ...
    window_id  UBIGINT NOT NULL,
    kind       VARCHAR NOT NULL,       -- of the context: top | band | silent | near | token
    truth      BOOLEAN NOT NULL,
    answer     BOOLEAN,                -- NULL with a reason where there is none
    probability DOUBLE,                -- of "active", where the model gives it
    status     VARCHAR NOT NULL,       -- ok | failed
    reason     VARCHAR
);
