"""What is to be graded: labels, their controls beside them, and the evidence that they are graded on. Reads, never writes."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from autointerp.catalog.reading import EvidenceReader, read_labels
from autointerp.catalog.records import FeatureEvidence, Label, Split
from autointerp.catalog.store import Catalog
from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.explain.stage import explainer_key, features_to_label
from autointerp.score import Scorer
from autointerp.score.adaptive import due
from autointerp.score.controls import can_grade, stand_ins
from autointerp.score.failures import Place, unsettled
from autointerp.score.keys import scorings
from autointerp.score.missing import no_labels
from autointerp.score.parts import require_readable, scorers_for, silent_contexts
from autointerp.score.simulating import BASELINE
from autointerp.score.simulation import SCORER
from autointerp.score.writing import Scoring, Task

Which = Literal["pending", "all"]


def require_labels(config: Config, catalog: Catalog, only: frozenset[int] | None = None) -> None:
    """Raise UserError where there is nothing to score, for none of the features in `only`, or nothing that the simulator can
    read."""
    if not labels_state(config, catalog):
        if not features_to_label(catalog, "", config.explain.include_rare):
            n = catalog.value("SELECT count(*) FROM documents")
            few = f": the part of the corpus that was sampled has {n:,}" if n < 20 else ""
            raise UserError(
                f"every feature is dead or rare (fires in fewer than 20 documents{few}), so none is labelled; take more of the "
                "corpus (--max-tokens), or --set explain.include_rare=true"
            )
        raise no_labels(config, catalog, explainer_key(config, config.explain.explainer))
    if only is not None and only.isdisjoint(read_labels(catalog, explainer_key(config, config.explain.explainer))):
        can_be = sorted(only & frozenset(features_to_label(catalog, "", config.explain.include_rare)))
        what = "run first: autointerp explain with the same --features" if can_be else (
            "all of them are dead or rare, and get none (rare ones do with --set explain.include_rare=true)"
        )  # fmt: skip
        raise UserError(
            f"none of the {len(only):,} features of --features has a label by {config.explain.explainer} (model "
            f"{config.explain.model}); {what}"
        )
    require_readable(config, catalog, explainer_key(config, config.explain.explainer))


def labels_state(config: Config, catalog: Catalog) -> list[str]:
    """How many labels there are of each status, by the configured explainer; empty without any."""
    key = explainer_key(config, config.explain.explainer)
    return [
        str(row)
        for row in catalog.rows(
            "SELECT status, count(*) FROM explanations WHERE explainer_key = ? GROUP BY ALL ORDER BY ALL", [key]
        )
    ]


def tasks(
    config: Config, catalog: Catalog, which: Which = "pending", again: Collection[Place] = (),
    only: frozenset[int] | None = None,
) -> list[Task]:  # fmt: skip
    """Labels to grade, by feature, each with its controls beside it, and who is to grade it: those without a grade, those whose
    failures may pass, and `again`; or `all`; of these those of the features in `only`."""
    labels = read_labels(catalog, explainer_key(config, config.explain.explainer))
    baselines = {} if config.explain.explainer == BASELINE else read_labels(catalog, explainer_key(config, BASELINE))
    controls = stand_ins(config, catalog, sorted(labels))
    found = scorings(config)
    done = settled(config, catalog, found, only)

    def is_wanted(place: Place) -> bool:
        return which == "all" or place in again or place not in done

    def wanted(feature: int, control: str) -> tuple[str, ...]:
        return tuple(
            name
            for name, scoring in found.items()
            if (not control or (scoring.of_label and can_grade(control, scoring.simulator)))
            and is_wanted((scoring.key, feature, control))
        )

    todo = []
    for feature, (explanation, label) in labels.items():
        if only is not None and feature not in only:
            continue
        baseline = baselines.get(feature)
        sampled = any(feature in members for members in controls.values())
        todo.append(
            Task(feature, explanation, label, "", baseline[1] if baseline else None, wanted(feature, ""), sampled)
        )
        for control, members in controls.items():
            if feature in members:
                other = members[feature]
                named = (control, other) if isinstance(other, Label) else labels[other]
                todo.append(Task(feature, *named, control, None, wanted(feature, control), sampled))
    return [task for task in todo if task.scorers]


def settled(
    config: Config, catalog: Catalog, found: Mapping[str, Scoring], only: frozenset[int] | None = None
) -> frozenset[Place]:
    """The grades that another run leaves alone: those to the end, without a failure that may pass."""
    graded = unsettled(catalog, [scoring.key for scoring in found.values()])
    for feature in due(config, catalog, found, only):
        graded.pop((found[SCORER].key, feature, ""), None)  # graded so far, but not to the end
    return frozenset(place for place, mendable in graded.items() if not mendable)


def with_evidence(
    config: Config, reader: EvidenceReader, chunk: Sequence[Task]
) -> Iterator[tuple[Task, FeatureEvidence]]:
    """Each task with the test split's evidence of its feature: what any of the scorers wants, of the rerank split, too."""
    wants = [scorer.wants for scorer in scorers_for(config).values()]
    found = reader.read(
        sorted({task.feature_id for task in chunk}), ("test", "rerank") if any(one.rerank for one in wants) else ("test",),
        negatives=config.negatives.per_kind > 0 and any(one.negatives for one in wants),
        random=max(one.random for one in wants),
    )  # fmt: skip
    evidence = {one.feature_id: one for one in found}
    for task in chunk:
        yield task, limited(evidence[task.feature_id], "band", config.score.per_band)


def for_scorer(config: Config, scorer: Scorer, evidence: FeatureEvidence) -> FeatureEvidence:
    """The evidence with as many silent contexts as the scorer grades on; with fewer it is what it was."""
    return limited(evidence, "silent", silent_contexts(config, scorer))


def limited(evidence: FeatureEvidence, kind: Literal["band", "silent"], count: int) -> FeatureEvidence:
    """Only the first `count` contexts of the kind in each split and band, in the order of the sampling hash: still a uniform
    draw."""
    taken: dict[tuple[Split, int], int] = {}
    kept = []
    for context in evidence.contexts:
        if context.kind == kind:
            place = (context.split, context.band)
            taken[place] = taken.get(place, 0) + 1
            if taken[place] > count:
                continue
        kept.append(context)
    return replace(evidence, contexts=kept)
