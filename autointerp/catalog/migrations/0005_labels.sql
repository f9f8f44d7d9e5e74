-- What a label says beyond title, description and kind.

ALTER TABLE explanations ADD COLUMN scope VARCHAR;              -- how wide: where it holds, and where it does not
ALTER TABLE explanations ADD COLUMN confidence VARCHAR;         -- low | medium | high, in the explainer's own opinion
ALTER TABLE explanations ADD COLUMN domains VARCHAR[];          -- languages and domains, where they matter
ALTER TABLE explanations ADD COLUMN safety VARCHAR[];           -- tags of docs/explainers.md; empty: none
ALTER TABLE explanations ADD COLUMN parts VARCHAR[];            -- of several unrelated things: each of them
ALTER TABLE explanations ADD COLUMN output_title VARCHAR;       -- of a dual label: what the feature makes the model say
ALTER TABLE explanations ADD COLUMN output_description VARCHAR;
ALTER TABLE explanations ADD COLUMN sides_agree BOOLEAN;        -- whether input and output label are one concept
ALTER TABLE explanations ADD COLUMN selection VARCHAR;          -- JSON: the exemplars that were shown
