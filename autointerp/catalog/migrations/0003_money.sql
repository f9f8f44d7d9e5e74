-- What was asked of models, by provider too, and what it cost. NULL in rows that an earlier version wrote.

ALTER TABLE spend ADD COLUMN provider VARCHAR;
ALTER TABLE spend ADD COLUMN written_tokens UBIGINT;            -- input tokens that were put into the provider's prompt cache
ALTER TABLE spend ADD COLUMN money DOUBLE;                      -- US dollars, of what has a known price; NULL where nothing has
ALTER TABLE spend ADD COLUMN n_unpriced UBIGINT;                -- requests that are not in money
