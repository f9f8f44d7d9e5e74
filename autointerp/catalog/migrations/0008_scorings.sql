-- Several scorers side by side, each with a key of its own; what further scorers leave behind; controls and what they came to.

CREATE TABLE scorings (                -- one row a scorer: the scores that the catalog shows
    scorer     VARCHAR NOT NULL,
    score_key  VARCHAR NOT NULL,       -- hash of the labels, the scorer, its model and the settings that its values depend on
    simulator  VARCHAR NOT NULL,       -- '' for scorers without one
    model      VARCHAR                 -- NULL for scorers that ask no model
);
INSERT INTO scorings
SELECT DISTINCT s.scorer, s.score_key, s.simulator,
       coalesce((SELECT max(model) FROM simulations m WHERE m.score_key = s.score_key),
                (SELECT max(model) FROM judgements j WHERE j.score_key = s.score_key))
FROM scores s JOIN ranking USING (score_key);

ALTER TABLE simulations ADD COLUMN scorer VARCHAR;      -- the protocol that they were made for; NULL in older rows: simulation
ALTER TABLE simulations ADD COLUMN start USMALLINT;     -- first token that was simulated; NULL: the window's first
ALTER TABLE simulations ADD COLUMN mass FLOAT[];        -- probability of all that was taken for a number, at each token; NULL: not known

ALTER TABLE judgements ADD COLUMN item UINTEGER;        -- which question of several about one window, or which group of windows
ALTER TABLE judgements ADD COLUMN value DOUBLE;         -- what is no verdict: a similarity, a difference of losses, a rating
ALTER TABLE judgements ADD COLUMN marked USMALLINT[];   -- positions that were marked, where the question is about marks

CREATE TABLE written_texts (           -- texts that a model wrote for a scorer, and what the feature does in them
    score_key  VARCHAR NOT NULL,
    feature_id UINTEGER NOT NULL,
    explanation_id VARCHAR NOT NULL,
    scorer     VARCHAR NOT NULL,
    model      VARCHAR,
    control    VARCHAR NOT NULL,
    number     USMALLINT NOT NULL,
    wanted     BOOLEAN NOT NULL,       -- whether the feature was to be active
    text       VARCHAR,                -- NULL with a reason where there is none
    peak       FLOAT,                  -- the feature's maximum over the text, as the subject model has it
    status     VARCHAR NOT NULL,       -- ok | failed
    reason     VARCHAR
);

CREATE TABLE controls (                -- what each control came to over all its features, and whether that is what it must show
    scorer     VARCHAR NOT NULL,
    metric     VARCHAR NOT NULL,
    control    VARCHAR NOT NULL,       -- shuffled | ...
    n          UINTEGER NOT NULL,      -- features
    value DOUBLE, lo DOUBLE, hi DOUBLE,   -- the median over features with its 95 % interval; NULL with a reason
    expected   DOUBLE,                 -- what it must show; NULL: nothing in particular
    passed     BOOLEAN,                -- NULL where nothing can be said
    reason     VARCHAR
);
