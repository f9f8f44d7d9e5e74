-- The catalog's first schema. docs/catalog.md describes every column.

CREATE TABLE stages (            -- provenance: one row a finished stage
    stage        VARCHAR NOT NULL,   -- sample | explain | score
    fingerprint  VARCHAR NOT NULL,   -- hash of everything that the stage's result depends on
    config       VARCHAR NOT NULL,   -- the resolved configuration of the stage, JSON
    version      VARCHAR NOT NULL,   -- of autointerp
    facts        VARCHAR NOT NULL    -- what was counted and measured, JSON (tokens, windows, L0, FVU, …)
);

CREATE TABLE documents (
    doc       UINTEGER NOT NULL,     -- position in the corpus
    doc_id    VARCHAR NOT NULL,
    split     VARCHAR NOT NULL,      -- explain | rerank | test, by hash of doc_id
    n_tokens  UINTEGER NOT NULL
);

CREATE TABLE vocabulary (token UINTEGER NOT NULL, text VARCHAR NOT NULL, bytes BLOB NOT NULL);

CREATE TABLE windows (           -- only windows that a context or the pool refers to
    window_id  UBIGINT NOT NULL,
    doc        UINTEGER NOT NULL,
    start      UINTEGER NOT NULL,    -- token offset within the document
    split      VARCHAR NOT NULL,
    in_pool    BOOLEAN NOT NULL,     -- in the shared uniform random pool
    tokens     UINTEGER[] NOT NULL
);

CREATE TABLE features (
    feature_id      UINTEGER NOT NULL,
    n_tokens        UBIGINT NOT NULL,    -- tokens on which it fires
    n_windows       UBIGINT NOT NULL,
    n_documents     UBIGINT NOT NULL,
    density         DOUBLE NOT NULL,     -- n_tokens / tokens harvested
    max_activation  FLOAT NOT NULL,      -- M of the scores' discretisation: over the whole harvest
    mean_activation DOUBLE,              -- over firing tokens; NULL if it never fires
    sd_activation   DOUBLE,
    flag            VARCHAR              -- dead | rare | dense | NULL
);

CREATE TABLE histograms (        -- exact counts of window peaks, log-spaced: bin b holds [2^(b/4), 2^((b+1)/4))
    feature_id UINTEGER NOT NULL, split VARCHAR NOT NULL, bin SMALLINT NOT NULL, band UTINYINT NOT NULL,
    n_windows UBIGINT NOT NULL
);

CREATE TABLE strata (            -- exact sizes of the strata that contexts are drawn from; band 0 = silent windows
    feature_id UINTEGER NOT NULL, split VARCHAR NOT NULL, band UTINYINT NOT NULL,
    lo DOUBLE NOT NULL, hi DOUBLE NOT NULL,   -- bounds of the window's peak
    n_windows UBIGINT NOT NULL
);

CREATE TABLE contexts (
    feature_id  UINTEGER NOT NULL,
    kind        VARCHAR NOT NULL,    -- top | band | random (the pool's windows in which the feature fires)
    split       VARCHAR NOT NULL,
    band        UTINYINT NOT NULL,
    rank        USMALLINT NOT NULL,  -- top: by peak; band and random: by sampling hash
    window_id   UBIGINT NOT NULL,
    peak        FLOAT NOT NULL,
    positions   USMALLINT[] NOT NULL,
    activations FLOAT[] NOT NULL,
    duplicate   BOOLEAN NOT NULL     -- shares the 13 tokens around its peak with an explain-split context: not scored
);

CREATE TABLE output_tokens (     -- logit lens of the decoder direction
    feature_id UINTEGER NOT NULL, side VARCHAR NOT NULL, rank UTINYINT NOT NULL, token UINTEGER NOT NULL, logit FLOAT NOT NULL
);

CREATE TABLE neighbours (
    feature_id UINTEGER NOT NULL, rank UTINYINT NOT NULL, neighbour_id UINTEGER NOT NULL, cosine FLOAT NOT NULL
);

CREATE TABLE explanations (
    explanation_id VARCHAR NOT NULL,   -- hash of feature, explainer, its parameters, model and prompt template
    feature_id   UINTEGER NOT NULL,
    explainer_key VARCHAR NOT NULL,    -- hash of the explainer and its parameters, model and prompt template
    explainer    VARCHAR NOT NULL,
    model        VARCHAR,              -- NULL for explainers that ask no model
    template_hash VARCHAR,
    status       VARCHAR NOT NULL,     -- ok | failed
    reason       VARCHAR,              -- of a failure: its kind and the message
    title        VARCHAR,
    description  VARCHAR,
    kind         VARCHAR,
    rule         VARCHAR               -- JSON
);

CREATE TABLE explanation_evidence (explanation_id VARCHAR NOT NULL, rank USMALLINT NOT NULL, window_id UBIGINT NOT NULL);

CREATE TABLE simulations (
    score_key      VARCHAR NOT NULL,   -- hash of explainer_key, simulator, model and the settings of the score
    feature_id     UINTEGER NOT NULL,  -- whose contexts were simulated
    explanation_id VARCHAR NOT NULL,   -- from which explanation: another feature's for the shuffled control
    simulator      VARCHAR NOT NULL,
    model          VARCHAR,
    control        VARCHAR NOT NULL,   -- '' | shuffled
    window_id      UBIGINT NOT NULL,
    band           UTINYINT NOT NULL,
    status         VARCHAR NOT NULL,   -- ok | failed
    reason         VARCHAR,
    expected       FLOAT[]             -- EV of 0..10 at each token
);

CREATE TABLE scores (
    score_key      VARCHAR NOT NULL,   -- as in simulations
    feature_id     UINTEGER NOT NULL,
    explanation_id VARCHAR NOT NULL,
    scorer         VARCHAR NOT NULL,   -- protocol: simulation, …
    simulator      VARCHAR NOT NULL,
    metric         VARCHAR NOT NULL,   -- r_balanced, r_corpus, …
    control        VARCHAR NOT NULL,   -- '' | shuffled
    value DOUBLE, lo DOUBLE, hi DOUBLE,   -- NULL with a reason where undefined
    n_ok  UINTEGER NOT NULL, n_failed UINTEGER NOT NULL,
    status VARCHAR NOT NULL,           -- ok | undefined | failed
    reason VARCHAR
);

CREATE TABLE ranks (             -- order of the catalog: by the lower bound of the score that `ranking` names
    feature_id UINTEGER NOT NULL, rank UINTEGER NOT NULL,
    rank_lo UINTEGER NOT NULL, rank_hi UINTEGER NOT NULL   -- ranks that the intervals leave open: best, worst
);

CREATE TABLE ranking (           -- one row: what the catalog shows and ranks by
    explainer_key VARCHAR NOT NULL, score_key VARCHAR, metric VARCHAR   -- the latter two NULL until scored
);

CREATE TABLE spend (             -- what was asked of language models, summed over the journal
    purpose VARCHAR NOT NULL, model VARCHAR NOT NULL, requests UBIGINT NOT NULL, failed UBIGINT NOT NULL,
    input_tokens UBIGINT NOT NULL, cached_tokens UBIGINT NOT NULL, output_tokens UBIGINT NOT NULL
);
