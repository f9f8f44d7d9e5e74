-- The labels that best_of_k chose from.

CREATE TABLE candidates (
    explanation_id VARCHAR NOT NULL,   -- the label that was chosen has its title and description
    number      UTINYINT NOT NULL,
    title       VARCHAR,               -- NULL, as is the description, where none was had
    description VARCHAR,
    score       DOUBLE,                -- r on the rerank split; NULL with a reason where there is none
    chosen      BOOLEAN NOT NULL,
    reason      VARCHAR
);
