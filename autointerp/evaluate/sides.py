"""The sides of a comparison: which run, whose labels, and which of their scores are meant by RUN_DIR[:EXPLAINER][@SIMULATOR]."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autointerp.catalog.store import Catalog
from autointerp.errors import UserError

_FORM = "expected RUN_DIR, RUN_DIR:EXPLAINER, RUN_DIR@SIMULATOR or RUN_DIR:EXPLAINER@MODEL"

# All scores of a scorer by whose labels and by what they were made. Scorers that grade no label have no explanation.
_SCORINGS = """
SELECT DISTINCT s.score_key, s.simulator, e.explainer_key, e.explainer, e.model AS labeller, m.model,
       s.score_key IN (SELECT score_key FROM scorings)
       AND coalesce(e.explainer_key = (SELECT explainer_key FROM ranking), true) AS shown
FROM scores s LEFT JOIN explanations e USING (explanation_id)
LEFT JOIN (SELECT score_key, max(model) AS model FROM (
    SELECT score_key, model FROM simulations UNION ALL SELECT score_key, model FROM judgements
    UNION ALL SELECT score_key, model FROM written_texts) GROUP BY score_key) m USING (score_key)
WHERE s.scorer = $scorer AND s.control = '' ORDER BY ALL
"""


@dataclass(frozen=True, slots=True)
class Side:
    """Scores of one explainer's labels by one scorer, with one simulator and model, in one catalog."""

    run: Path
    catalog: Catalog
    score_key: str
    explainer: str | None
    labeller: str | None
    simulator: str
    model: str | None

    @property
    def name(self) -> str:
        """For people."""
        who = [self.explainer or "", f"({self.labeller})" if self.labeller else ""]
        by = [text for text in (self.simulator, self.model) if text]
        return " ".join(filter(None, [f"{self.run}:", *who, f"scored by {' '.join(by)}" if by else ""]))


def split_side(text: str) -> tuple[Path, str | None, str | None]:
    """The folder, the explainer and the simulator or model that are named. Names of folders may hold : and @ themselves."""
    ends = [len(text)] + [place for place in range(len(text) - 1, 0, -1) if text[place] in ":@"]
    for end in ends:
        if Path(text[:end]).is_dir():
            explainer, _, by = text[end:].partition("@")
            return Path(text[:end]), explainer.removeprefix(":") or None, by or None
    raise UserError(f"{text}: no such run folder; {_FORM}")


def open_catalog(text: str, catalogs: dict[Path, Catalog]) -> Catalog:
    """The catalog of the run that is named; opened, and added to the open ones, unless it is there."""
    run = split_side(text)[0]
    path = (run / "catalog.duckdb").resolve()
    if path not in catalogs:
        catalogs[path] = Catalog.open(run / "catalog.duckdb")
    return catalogs[path]


def open_side(text: str, scorer: str, catalogs: dict[Path, Catalog]) -> Side:
    """The side that is meant. `catalogs`: those that are open, by their file; a further one is opened and added.

    Raises UserError where nothing was scored so, or where several scorings could be meant.
    """
    run, explainer, by = split_side(text)
    catalog = open_catalog(text, catalogs)
    known = [
        (Side(run, catalog, key, name, labeller, simulator, model), shown)
        for key, simulator, _, name, labeller, model, shown in catalog.rows(_SCORINGS, {"scorer": scorer})
    ]
    found = [
        (side, shown)
        for side, shown in known
        if explainer in (None, side.explainer) and by in (None, side.simulator, side.model, side.labeller)
    ]
    if len(found) > 1:
        found = [one for one in found if one[1]] or found
    if len(found) == 1:
        return found[0][0]
    choices = _names([side for side, _ in (found or known)])
    if found:
        raise UserError(f"{text}: several scorings by {scorer} could be meant: {choices}; {_FORM}")
    if known:
        raise UserError(f"{text}: no scores by {scorer} of such labels; there are: {choices}")
    scorers = ", ".join(name for (name,) in catalog.rows("SELECT DISTINCT scorer FROM scores ORDER BY 1"))
    raise UserError(
        f"{text}: no scores by {scorer} here; " + (f"there are: {scorers}" if scorers else "run: autointerp score")
    )


def _names(sides: Sequence[Side]) -> str:
    return "; ".join(side.name for side in sides)


def sampling(catalog: Catalog) -> dict[str, Any]:
    """The settings that the catalog was sampled with. Raises UserError where the sampling is not finished."""
    found = catalog.value("SELECT config FROM stages WHERE stage = 'sample'")
    if found is None:
        raise UserError(
            f"{catalog.path}: the sampling is not finished; run: autointerp sample --out {catalog.path.parent}"
        )
    return dict(json.loads(found))


def corpus_hash(catalog: Catalog) -> tuple[int, int, int]:
    """Documents, tokens, and a hash of both with the splits: the same corpus, read by the same tokenizer."""
    row = catalog.rows(
        "SELECT count(*), sum(n_tokens)::BIGINT, bit_xor(hash(doc_id, n_tokens, split))::UBIGINT FROM documents"
    )[0]
    return row[0], row[1] or 0, row[2] or 0
