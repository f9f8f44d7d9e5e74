"""Controls that were graded while fewer features had labels, and would not be drawn today: they give way.

Which features are in a control, and whose label is graded in a feature's stead, is drawn from the features that have labels. A
run that was first labelled and scored in part, and then as a whole, is to have the controls of one that was done at once. That
goes for verdicts held against other evidence, too: they are graded where a feature is in a control. Only another partner is no
reason to pay for an answer again: where a model grades, what was graded with it stays.
"""

from collections.abc import Mapping, Sequence

from autointerp.catalog.reading import read_labels
from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.explain.stage import explainer_key
from autointerp.score.controls import stand_ins
from autointerp.score.evidence_controls import CONTROLS, Regrading
from autointerp.score.parts import asking, embedding, scorers_for

_TABLES = ("scores", "simulations", "judgements", "written_texts")


def forget_other_controls(config: Config, catalog: Catalog, keys: Mapping[str, str]) -> None:
    """Delete what the scorings found of features that would not be in a control today. `keys`: of each scorer."""
    labels = read_labels(catalog, explainer_key(config, config.explain.explainer))
    # Of each control and feature whose label stands in; None: a fixed one, the same for all.
    wanted = {
        (control, feature): labels[other][0] if isinstance(other, int) else None
        for control, found in stand_ins(config, catalog, sorted(labels)).items()
        for feature, other in found.items()
    }
    parts, sampled = scorers_for(config), {feature for _, feature in wanted}
    costs = asking(parts) | embedding(parts)
    for name, key in keys.items():
        graded = catalog.rows(
            "SELECT DISTINCT control, feature_id, explanation_id FROM scores WHERE score_key = ? "
            "AND control IN (SELECT unnest(?))", [key, list(dict.fromkeys(control for control, _ in wanted))],
        )  # fmt: skip
        stale = [
            (control, feature)
            for control, feature, label in graded
            if (control, feature) not in wanted or (name not in costs and wanted[control, feature] not in (None, label))
        ]
        if sampled and isinstance(parts[name], Regrading):
            permuted = catalog.rows(
                "SELECT DISTINCT control, feature_id FROM scores WHERE score_key = ? AND control IN (SELECT unnest(?))",
                [key, list(CONTROLS)],
            )
            stale += [(control, feature) for control, feature in permuted if feature not in sampled]
        if stale:
            _forget(catalog, key, stale)


def _forget(catalog: Catalog, key: str, stale: Sequence[tuple[str, int]]) -> None:
    controls, features = (list(column) for column in zip(*stale, strict=True))
    with catalog.transaction():
        for table in _TABLES:
            catalog.rows(
                f"DELETE FROM {table} WHERE score_key = $key AND (control, feature_id) IN "
                "(SELECT unnest($controls), unnest($features))",
                {"key": key, "controls": controls, "features": features},
            )
