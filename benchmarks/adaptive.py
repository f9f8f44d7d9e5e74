"""What adaptive scoring costs against the fixed design at equal rank fidelity, and how often its intervals are wrong.

    python benchmarks/adaptive.py                       planted features, an oracle of five levels of noise; two minutes
    python benchmarks/adaptive.py --run RUN_DIR         a sampled run with lexicon labels, by the lexicon's simulator

The reference is the ranking by the lower bound with all contexts. Fixed designs take the same share of every feature's contexts.
Contexts stand for tokens: all are of one length but those at a document's end.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from autointerp.catalog.reading import EvidenceReader
from autointerp.catalog.records import Context, FeatureEvidence
from autointerp.catalog.store import Catalog
from autointerp.evaluate.concepts import read_corpus, units
from autointerp.evaluate.coverage import NOISES, Noise, noisy, population
from autointerp.evaluate.sanity import evidence_of, planted
from autointerp.explain.lexicon_rules import Rule, predict
from autointerp.hashing import stable_hash
from autointerp.score import Simulated, halving
from autointerp.score.sequential import ERROR, Look, Plan, State, by_look, decide, look_at
from autointerp.score.simulation import score_simulation
from autointerp.subject.stdlib import stdlib_documents

ORACLES = (Noise("good", 0.02, 0.5, 0.02), *NOISES, Noise("hopeless", 0.9, 2.0, 0.5))
SHARES = (0.1, 0.15, 0.2, 0.25, 0.33, 0.4, 0.5, 0.6, 0.75, 1.0)


@dataclass(frozen=True)
class Feature:
    """One feature with all its contexts and their simulations. `truth`: the score of the population, where it is known."""

    evidence: FeatureEvidence
    simulated: Mapping[int, Simulated]
    truth: float | None = None

    def on(self, contexts: Sequence[Context]) -> tuple[FeatureEvidence, list[Simulated]]:
        return replace(self.evidence, contexts=contexts), [self.simulated[one.window_id] for one in contexts]


@dataclass(frozen=True)
class Outcome:
    """Of one way to score: contexts spent, and the lower bounds that it ranks by."""

    contexts: int
    lower: NDArray[np.float64]
    value: NDArray[np.float64]


def planted_features(per_family: int, per_band: int, silent: int, metric: str, seed: int) -> Iterator[Feature]:
    """Each oracle on each unit, with a sample as the catalog draws it."""
    documents = sorted(stdlib_documents(), key=lambda document: stable_hash("evaluate", document.doc_id))
    corpus = read_corpus((document.text for document in documents), 6000)
    for unit in units(corpus, per_family, seed):
        one = planted(unit, corpus, seed)
        for oracle in ORACLES:
            expected = noisy(one, oracle)
            truth = population(one, expected)
            if truth is None:
                continue
            evidence = evidence_of(one, per_band, silent, one.generator(f"adaptive {oracle.name}"))
            answers = {
                context.window_id: Simulated(context.window_id, expected[context.window_id].astype(np.float32), "ok")
                for context in evidence.contexts
            }
            yield Feature(evidence, answers, truth[metric])


def demo_features(run: Path, per_band: int, silent: int, limit: int) -> Iterator[Feature]:
    """The lexicon's labels of a run, simulated by their rules."""
    with Catalog.open(run / "catalog.duckdb") as catalog:
        rules = dict(catalog.rows("SELECT feature_id, rule FROM explanations WHERE explainer = 'lexicon' AND status = 'ok' "
                                  "ORDER BY hash(feature_id) LIMIT ?", [limit]))  # fmt: skip
        reader = EvidenceReader(catalog, seed=0, silent=silent)
        for evidence in reader.read(sorted(rules), ("test",)):
            kept = _first(evidence.of("test", ("band", "silent")), Plan(1, per_band, silent))
            rule = Rule.from_json(json.loads(rules[evidence.feature_id]))
            expected = predict(rule, [context.tokens for context in kept])
            answers = {
                c.window_id: Simulated(c.window_id, values, "ok") for c, values in zip(kept, expected, strict=True)
            }
            yield Feature(replace(evidence, contexts=kept), answers)


def graded(feature: Feature, contexts: Sequence[Context], metric: str) -> tuple[float, float]:
    """Value and lower bound, as the catalog has them; −1 where there is none."""
    rows = score_simulation(*feature.on(contexts))
    row = next(row for row in rows if row.metric == metric)
    return (-1.0 if row.value is None else row.value), (-1.0 if row.lo is None else row.lo)


def fixed(features: Sequence[Feature], share: float, plan: Plan, metric: str) -> Outcome:
    """The same share of the contexts for every feature."""
    few = Plan(1, max(2, round(plan.per_band * share)), max(2, round(plan.silent * share)))
    chosen = [_first(feature.evidence.contexts, few) for feature in features]
    return _outcome(features, chosen, metric)


def _first(contexts: Sequence[Context], plan: Plan) -> list[Context]:
    places: Counter[int] = Counter()
    kept = []
    for context in contexts:
        places[context.band] += 1
        if places[context.band] <= (plan.per_band if context.band else plan.silent):
            kept.append(context)
    return kept


@dataclass(frozen=True)
class Seen:
    """One feature after one look: the sequential interval, contexts so far, value and lower bound as the catalog has them."""

    look: Look
    contexts: int
    value: float
    lower: float


def looked(features: Sequence[Feature], plan: Plan, metric: str, error: float) -> list[list[Seen]]:
    """Every look at every feature."""
    found = []
    for feature in features:
        contexts: list[Context] = []
        looks = []
        for portion in by_look(plan, feature.evidence.contexts):
            contexts = [*contexts, *portion]
            look = look_at(*feature.on(contexts), metric, error / plan.looks)
            looks.append(Seen(look, len(contexts), *graded(feature, contexts, metric)))
        found.append(looks)
    return found


def adaptive(plan: Plan, seen: Sequence[Sequence[Seen]]) -> tuple[Outcome, State]:
    """What is spent and found where the plan's rules stop features."""
    by = halving.decide if plan.halving else decide
    state = by(plan, {number: [one.look for one in looks] for number, looks in enumerate(seen)})
    last = [looks[state.stopped[number].look - 1] for number, looks in enumerate(seen)]
    return _of_last(last), state


def _of_last(last: Sequence[Seen]) -> Outcome:
    lower, value = (np.array([getattr(one, name) for one in last]) for name in ("lower", "value"))
    return Outcome(sum(one.contexts for one in last), lower, value)


def _outcome(features: Sequence[Feature], chosen: Sequence[Sequence[Context]], metric: str) -> Outcome:
    found = np.array([graded(feature, some, metric) for feature, some in zip(features, chosen, strict=True)])
    return Outcome(sum(map(len, chosen)), found[:, 1], found[:, 0])


def fidelity(outcome: Outcome, reference: Outcome, tops: Sequence[int]) -> tuple[float, list[float]]:
    """Kendall's τ of the rankings, and for each k the share of the reference's first k among the outcome's first k."""
    tau = float(stats.kendalltau(outcome.lower, reference.lower).statistic)
    order, true = (np.argsort(-one.lower, kind="stable") for one in (outcome, reference))
    return tau, [len(set(order[:k]) & set(true[:k])) / k for k in tops]


def errors(features: Sequence[Feature], seen: Sequence[Sequence[Seen]]) -> tuple[float, float]:
    """Shares of the features whose truth is below, or above, any of its looks' intervals."""
    pairs = [(feature.truth, one.look) for feature, looks in zip(features, seen, strict=True) for one in looks]
    n = len(seen[0])
    low, high = (
        np.array([wrong(truth, look) for truth, look in pairs]).reshape(-1, n).any(axis=1).mean()
        for wrong in (
            lambda truth, look: look.lo is not None and truth < look.lo,
            lambda truth, look: look.hi is not None and truth > look.hi,
        )
    )
    return float(low), float(high)


def equal_cost(curve: Sequence[tuple[int, float]], wanted: float) -> float:
    """Contexts that the fixed design needs for a fidelity, interpolated along its curve made monotone."""
    costs = np.array([cost for cost, _ in curve], float)
    reached = np.maximum.accumulate([value for _, value in curve])
    return float(np.interp(wanted, reached, costs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--per-family", type=int, default=10)
    parser.add_argument("--features", type=int, default=400, help="of a run")
    parser.add_argument("--per-band", type=int, default=20)
    parser.add_argument("--silent", type=int, default=100)
    parser.add_argument("--looks", type=int, nargs="+", default=[4])
    parser.add_argument("--error", type=float, nargs="+", default=[ERROR], help="per feature, over all looks")
    parser.add_argument("--metric", default="r_corpus")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.run:
        features = list(demo_features(given.run, given.per_band, given.silent, given.features))
    else:
        features = list(planted_features(given.per_family, given.per_band, given.silent, given.metric, given.seed))
    curves = {share: fixed(features, share, Plan(1, given.per_band, given.silent), given.metric) for share in SHARES}
    show_fixed(curves, given.metric, len(features))
    for looks in given.looks:
        for error in given.error:
            report(features, Plan(looks, given.per_band, given.silent), given.metric, error, curves)


def _tops(count: int) -> list[int]:
    return [k for k in (10, 25, 50) if k < count / 2]


def show_fixed(curves: Mapping[float, Outcome], metric: str, count: int) -> None:
    """The curve of the fixed design."""
    whole = curves[1.0]
    print(f"{count} features, {whole.contexts:,} contexts in all, {metric}")
    print("fixed design\n  share  tau   " + "  ".join(f"P@{k}" for k in _tops(count)))
    for one in curves.values():
        tau, precise = fidelity(one, whole, _tops(count))
        print(f"  {one.contexts / whole.contexts:.3f}  {tau:.3f}  " + "  ".join(f"{p:.2f}" for p in precise))


def report(features: Sequence[Feature], plan: Plan, metric: str, error: float, curves: Mapping[float, Outcome]) -> None:
    """Each rule beside the fixed design that is as good; the ratios are to its contexts."""
    tops = _tops(len(features))
    seen = looked(features, plan, metric, error)
    print(f"\nadaptive, {plan.looks} looks, error {error:g}")
    if features[0].truth is not None:
        print("  truth below / above any look's interval: {:.1%} / {:.1%}".format(*errors(features, seen)))
    columns = "  ".join(f"P@{k}" for k in tops)
    print(f"  rule                       spent  tau    {columns}   ratio at equal tau, P@…   stopped")
    rules = [replace(plan, top=k) for k in tops] + [replace(plan, top=k, target_width=0.2) for k in tops]
    rules += [replace(plan, target_width=width) for width in (0.4, 0.3, 0.2, 0.1)]
    rules += [replace(plan, threshold=threshold) for threshold in (0.3, 0.5, 0.7)]
    rules += [replace(plan, top=k, halving=True) for k in tops]  # without error control
    for rule in rules:
        outcome, state = adaptive(rule, seen)
        name = (
            "halving, " * rule.halving
            + f"top {rule.top}, " * bool(rule.top)
            + f"width {rule.target_width:g}, " * bool(rule.target_width)
        )
        name += f"threshold {rule.threshold}, " * (rule.threshold is not None)
        why = dict(Counter(stop.why for stop in state.stopped.values()))
        print(_line(name[:-2], outcome, curves, tops), why, _bias(features, outcome, state, plan))


def _line(name: str, outcome: Outcome, curves: Mapping[float, Outcome], tops: Sequence[int]) -> str:
    whole = curves[1.0]
    known = [(one.contexts, *fidelity(one, whole, tops)) for one in curves.values()]
    tau, precise = fidelity(outcome, whole, tops)
    at = [equal_cost([(cost, other) for cost, other, _ in known], tau)]
    at += [equal_cost([(cost, others[n]) for cost, _, others in known], p) for n, p in enumerate(precise)]
    shown = "  ".join(f"{p:.2f}" for p in precise)
    ratios = "  ".join(f"{outcome.contexts / cost:.2f}" for cost in at)
    return f"  {name:25s}  {outcome.contexts / whole.contexts:.3f}  {tau:.3f}  {shown}   {ratios}  "


def _bias(features: Sequence[Feature], outcome: Outcome, state: State, plan: Plan) -> str:
    """Mean of value − truth, of features that stopped early and of all."""
    known = [n for n, feature in enumerate(features) if feature.truth is not None and outcome.value[n] > -1]
    off = {n: outcome.value[n] - (features[n].truth or 0.0) for n in known}
    early = [off[n] for n in known if state.stopped[n].look < plan.looks]
    return f"bias {np.mean(early):+.4f} of early, {np.mean(list(off.values())):+.4f} of all" if early else ""


if __name__ == "__main__":
    main()
